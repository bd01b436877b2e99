"""Gemel's own two sides of dp_step.py: the trainer, and the same recorded steps without clipping, noise and sampling."""

from __future__ import annotations

import numpy as np
import torch
from _dp_models import Case, Epoch, WithLoss

from gemel.core.study import TrainingPlan
from gemel.privacy.engine import DpTrainer
from gemel.privacy.engine.sums import PatientSums, Workload
from gemel.privacy.noise import NoiseSource

LEARNING_RATE = 1e-3
CLIP = 1.0
NOISE = 1.0


def gemel(case: Case) -> Epoch:
    """Poisson samples and noise from the cryptographic source, as a node trains."""
    model = WithLoss(case.network(False))
    x, y = case.data()
    plan = TrainingPlan(
        rounds=1,
        local_steps=case.steps,
        learning_rate=LEARNING_RATE,
        momentum=0.0,
        max_grad_norm=CLIP,
        sample_rate=case.batch / case.patients,
        noise_multiplier=NOISE,
    )
    trainer = DpTrainer(
        plan,
        noise=NoiseSource.secure(),
        expected_patients=float(case.patients),
        compile_steps=case.machine_code,
    )
    return lambda _: trainer.train(model, {"x": x, "y": y})


def gemel_without_privacy(case: Case) -> Epoch:
    """An ordinary epoch in memory: shuffled batches of one size, the plain sum of gradients, no noise."""
    model = WithLoss(case.network(False))
    x, y = case.data()
    patients = {"x": x, "y": y}
    workload = Workload(
        steps=case.steps,
        expected_batch=float(case.batch),
        sampled=False,
        physical_batch=case.batch,
        machine_code=case.machine_code,
    )
    sums = PatientSums(model, patients, clipping=None, workload=workload)
    parameters = list(model.parameters())
    bound = torch.tensor(CLIP, dtype=torch.float64)
    generator = np.random.default_rng(0)

    @torch.no_grad()
    def epoch(_: int | None) -> None:
        weights = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
        parts = weights.split([parameter.numel() for parameter in parameters])
        views = [part.view(parameter.shape) for part, parameter in zip(parts, parameters, strict=True)]
        for rows in generator.permutation(case.patients).reshape(case.steps, case.batch):
            total, _ = sums(views, patients, rows, bound)
            weights.add_(total, alpha=-LEARNING_RATE / case.batch)
        for parameter, view in zip(parameters, views, strict=True):
            parameter.copy_(view)

    return epoch
