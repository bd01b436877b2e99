"""A federation in one process for benchmarks of twins: the node's own tasks, the planner's own noise, weighted means.

Only the wire is missing. What `gemel demo` does over Flower gives the same updates: both call `client_node.tasks.compute`.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gemel.cli.proposal import propose, usual_training
from gemel.client_node.tasks import compute
from gemel.core.canonical import document_hash
from gemel.core.dataset import Dataset
from gemel.core.programme import Programme
from gemel.core.signing import SigningKey
from gemel.core.study import Study
from gemel.privacy.noise import NoiseSource
from gemel.server.aggregate import weighted_mean
from gemel.synthetic.releases import starting_model, whole_twin
from gemel.twins.installed import make_twin
from gemel.twins.twin import Twin

DELTA = 1e-5


def study_for(
    programme: Programme,
    sites: Mapping[str, Dataset],
    *,
    epsilon: float,
    delta: float = DELTA,
    **changes: Any,
) -> Study:
    """A study of the programme's usual training at a price that holds everything; `changes` replace numbers of the training."""
    training, shares = usual_training(programme, **changes)
    return propose(
        programme,
        training,
        shares,
        sites={name: SigningKey.generate().public_hex for name in sites},
        epsilon=epsilon,
        delta=delta,
        minimum_patients=1,
        quorum=len(sites),
        round_timeout_s=60.0,
        study_id="benchmark",
    )


def federated(study: Study, programme: Programme, sites: Mapping[str, Dataset]) -> Twin:
    """The study's count and training, each task as a node computes it, with secure noise."""
    noise, counts = NoiseSource.secure(), {}
    for name, dataset in sites.items():
        count = compute(
            "count", study, programme, dataset=dataset, inputs={}, noisy_patients=0.0, noise=noise
        )
        counts[name] = max(float(count["patients"][0]), 1.0)
    model = starting_model(study, programme)
    for number in range(1, study.training.rounds + 1):
        updates = {
            name: compute(
                f"train/{number}",
                study,
                programme,
                dataset=dataset,
                inputs=model,
                noisy_patients=counts[name],
                noise=noise,
            )
            for name, dataset in sites.items()
        }
        model = weighted_mean(updates, counts)
    twin = make_twin(programme)
    twin.load_arrays(whole_twin(programme, model))
    return twin


def federated_without_privacy(
    programme: Programme,
    sites: Mapping[str, Dataset],
    *,
    rounds: int = 40,
    local_steps: int = 5,
    learning_rate: float = 0.5,
    momentum: float = 0.6,
) -> Twin:
    """COMPARISON ONLY: federated averaging of the same twin by full-batch steps without clipping and without noise."""
    twin = make_twin(programme)
    batches = {name: twin.tensors(dataset.split()[0]) for name, dataset in sites.items()}
    weights = {name: float(max(len(dataset), 1)) for name, dataset in sites.items()}
    model = twin.to_arrays()
    for _ in range(rounds):
        updates = {}
        for name, batch in batches.items():
            twin.load_arrays(model)
            _steps(twin, batch, local_steps, learning_rate, momentum)
            updates[name] = twin.to_arrays()
        model = weighted_mean(updates, weights)
    twin.load_arrays(model)
    return twin


def _steps(twin: Twin, batch: dict[str, Tensor], steps: int, learning_rate: float, momentum: float) -> None:
    optimiser = torch.optim.SGD(twin.parameters(), lr=learning_rate, momentum=momentum)
    for _ in range(steps):
        optimiser.zero_grad()
        twin(batch).mean().backward()
        optimiser.step()


def split_anew(sites: Mapping[str, Dataset], number: int) -> dict[str, Dataset]:
    """The same people under other pseudonyms, so that others are held out: another split for each number."""
    return {
        name: replace(
            dataset, patient_ids=tuple(document_hash([number, p])[:32] for p in dataset.patient_ids)
        )
        for name, dataset in sites.items()
    }


def bar(name: str, value: float, bar: float, direction: str) -> dict[str, Any]:
    """A bar as `benchmarks/run.py` wants it: `direction` is min or max."""
    value = round(float(value), 4)
    met = np.isfinite(value) and (value >= bar if direction == "min" else value <= bar)
    return {"name": name, "value": value, "bar": bar, "direction": direction, "ok": bool(met)}


def row(case: str, side: str, value: float, unit: str, **more: Any) -> dict[str, Any]:
    """A measured number as `benchmarks/run.py` wants it."""
    return {"case": case, "side": side, "value": round(float(value), 4), "unit": unit, **more}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
