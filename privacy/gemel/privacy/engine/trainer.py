"""Patient-level DP-SGD: each patient's gradient is computed alone, clipped, summed, noised, averaged."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.validators import ModuleValidator
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from gemel.core.errors import GemelError
from gemel.core.study import TrainingPlan
from gemel.privacy.noise import NoiseSource

# Patients whose gradients are held in memory at once; of no consequence for the result.
PHYSICAL_BATCH = 4096


class DpTrainer:
    """Trains a model under a plan: `plan.local_steps` noisy steps for each call of `train`.

    One step, with C = `max_grad_norm`, q = `sample_rate`, z = `noise_multiplier`:
    every patient is taken with probability q, independently (all of them when q = 1); the gradient of each one's
    loss is scaled to a 2-norm of at most C over all trainable parameters (a gradient that is not finite counts
    as zero); to their sum Gaussian noise of standard deviation z·C is added, also when nobody was taken; the
    result over q · `expected_patients` is the gradient of SGD with heavy-ball momentum. Adding or removing one
    patient changes the sum by at most C, so the step costs one (Poisson-sampled) Gaussian mechanism.

    The momentum buffer lives within one call of `train`: it is computed from what was noised already.
    Source: Abadi et al., CCS 2016; the hook-free per-patient gradient is torch.func's vmap over grad.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        *,
        noise: NoiseSource,
        expected_patients: float,
        physical_batch: int = PHYSICAL_BATCH,
    ) -> None:
        """Take a plan.

        Args:
            plan: The training part of the signed study.
            noise: Where sampling and noise come from.
            expected_patients: A public or already noised number of patients, never the true one.
            physical_batch: How many patients' gradients are held in memory at once.

        Raises:
            GemelError: GEM305 for a plan without noise or limits. (Noise 0 is for tests: it is taken only
                from a source that is not secure.)
        """
        numbers = (plan.noise_multiplier, plan.max_grad_norm, expected_patients, plan.learning_rate)
        if not all(math.isfinite(number) and number >= 0 for number in numbers) or physical_batch < 1:
            raise GemelError("GEM305", f"Not a plan to train by: {plan}, {expected_patients} patients.")
        if plan.max_grad_norm == 0 or expected_patients == 0 or not 0 < plan.sample_rate <= 1:
            raise GemelError("GEM305", f"Not a plan to train by: {plan}, {expected_patients} patients.")
        if plan.noise_multiplier == 0 and noise.is_secure:
            raise GemelError("GEM305", "A plan without noise gives no privacy.")
        self._plan = plan
        self._noise = noise
        self._expected_patients = expected_patients
        self._physical_batch = physical_batch

    def train(self, model: nn.Module, patients: Mapping[str, Tensor]) -> None:
        """Train in place. `model(batch)` gives the loss of each patient, shape (B,).

        Shapes: every tensor of `patients` has one row for each patient. Raises GEM306 when the model couples
        patients or has no per-patient gradient; then nothing was changed.
        """
        check_trainable(model)
        gradients = _PatientGradients(model, self._plan.max_grad_norm, self._physical_batch)
        plan, count = self._plan, _patient_count(patients)
        # float64: the sum must hold one patient's part exactly, whoever else is in it.
        weights = gradients.weights()
        momentum = np.zeros_like(weights)
        start = weights.copy()
        try:
            for _ in range(plan.local_steps):
                total = gradients.clipped_sum(self._sample(patients, count))
                total += plan.noise_multiplier * plan.max_grad_norm * self._noise.gaussian(total.shape)
                momentum = plan.momentum * momentum + total / (self._expected_patients * plan.sample_rate)
                weights = weights - plan.learning_rate * momentum
                gradients.set_weights(weights)
        except GemelError:
            gradients.set_weights(start)
            raise

    def _sample(self, patients: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
        if self._plan.sample_rate == 1:
            return dict(patients)
        taken = torch.from_numpy(np.flatnonzero(self._noise.bernoulli(self._plan.sample_rate, count)))
        return {name: tensor[taken] for name, tensor in patients.items()}


def check_trainable(model: nn.Module) -> None:
    """Refuse (GEM306) a model with a layer that couples patients, by Opacus' validator, or nothing to train."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise GemelError("GEM306", f"{type(model).__name__} has no trainable parameter.")
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        # Opacus looks at trainable layers only; a frozen one still reads its whole batch while in training.
        raise GemelError("GEM306", f"{type(model).__name__} has a BatchNorm layer: it couples patients.")
    was_training = model.training
    model.train()
    try:
        errors = ModuleValidator.validate(model, strict=False)
    finally:
        model.train(was_training)
    if errors:
        raise GemelError("GEM306", f"{type(model).__name__}: {errors[0]}")


def _patient_count(patients: Mapping[str, Tensor]) -> int:
    counts = {len(tensor) for tensor in patients.values()}
    if len(counts) != 1:
        raise GemelError("GEM306", f"Every tensor needs one row for each patient, got {sorted(counts)} rows.")
    return counts.pop()


class _PatientGradients:
    """The trainable parameters of a model as one flat vector, and clipped sums of patients' gradients."""

    def __init__(self, model: nn.Module, max_grad_norm: float, physical_batch: int) -> None:
        self._model = model
        self._max_grad_norm = max_grad_norm
        self._physical_batch = physical_batch
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        fixed = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
        fixed.update({name: b.detach() for name, b in model.named_buffers()})

        def loss(parameters: dict[str, Tensor], patient: dict[str, Tensor]) -> Tensor:
            # A batch of one: whatever the model does with its batch, it sees no other patient.
            batch = {name: tensor.unsqueeze(0) for name, tensor in patient.items()}
            losses: Tensor = functional_call(model, {**parameters, **fixed}, (batch,))
            if losses.shape != (1,):
                raise GemelError("GEM306", f"The loss of one patient has shape {tuple(losses.shape)}.")
            return losses[0]

        self._gradients = vmap(grad(loss), in_dims=(None, 0))

    def weights(self) -> NDArray[np.float64]:
        flat = torch.cat([p.detach().reshape(-1).double() for p in self._trained.values()])
        return flat.numpy().copy()

    def set_weights(self, weights: NDArray[np.float64]) -> None:
        flat, position = torch.from_numpy(weights), 0
        with torch.no_grad():
            for parameter in self._trained.values():
                part = flat[position : position + parameter.numel()]
                parameter.copy_(part.reshape(parameter.shape))
                position += parameter.numel()

    def clipped_sum(self, batch: dict[str, Tensor]) -> NDArray[np.float64]:
        """Sum over patients of their gradients, each of 2-norm at most C. Zeros for an empty batch."""
        total = torch.zeros(sum(p.numel() for p in self._trained.values()), dtype=torch.float64)
        parameters = {name: p.detach() for name, p in self._trained.items()}
        for start in range(0, _patient_count(batch), self._physical_batch):
            chunk = {name: tensor[start : start + self._physical_batch] for name, tensor in batch.items()}
            try:
                parts = self._gradients(parameters, chunk)
            except (RuntimeError, ValueError) as error:
                name = type(self._model).__name__
                raise GemelError("GEM306", f"{name} has no per-patient gradient: {error}") from error
            rows = torch.cat([parts[name].flatten(1) for name in self._trained], dim=1).double()
            # inf · 0 is NaN: clipping alone does not bound a gradient that is not finite.
            rows = torch.where(torch.isfinite(rows).all(dim=1, keepdim=True), rows, 0.0)
            norms = torch.linalg.vector_norm(rows, dim=1)
            total += (self._max_grad_norm / norms.clamp(min=self._max_grad_norm)) @ rows
        return total.numpy()
