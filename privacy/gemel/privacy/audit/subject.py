"""What is audited: a model with patients and a plan, trained by the real trainer and watched from outside.

Everything is read off what the trainer gives away, the movement of the parameters, so these checks hold for whatever
the engine does inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gemel.core.study import Clipping, TrainingPlan
from gemel.privacy.engine import DpTrainer
from gemel.privacy.noise import NoiseSource

Patients = Mapping[str, Tensor]
Floats = NDArray[np.float64]
# Any public number will do: movements are reported in units of max_grad_norm.
EXPECTED_PATIENTS = 64.0


@dataclass(frozen=True)
class Subject:
    """A model, patients for it (made up, never a hospital's), and the training plan that is on trial.

    Attributes:
        make_model: A fresh model at its public starting point; `model(batch)` is the loss of each patient, (B,).
        patients: Tensors with one row for each patient.
        delta: The δ at which ε is claimed.
        features: The tensor that an attacker would like to know of a patient, 0 at the public mean; "" for none.
    """

    name: str
    make_model: Callable[[], nn.Module]
    patients: Patients
    plan: TrainingPlan
    delta: float
    features: str = ""

    @property
    def count(self) -> int:
        """How many patients there are."""
        return len(next(iter(self.patients.values())))


def one_step(plan: TrainingPlan, **changes: float) -> TrainingPlan:
    """The plan with a single step without momentum: its movement is one noisy sum and nothing else."""
    return msgspec.structs.replace(plan, **{"rounds": 1, "local_steps": 1, "momentum": 0.0, **changes})


def flat_clipping(plan: TrainingPlan) -> TrainingPlan:
    """The plan with a bound that stays where it is, so that the noise of several steps can be told beforehand."""
    return msgspec.structs.replace(plan, clipping=Clipping.FLAT, quantile_noise_multiplier=0.0)


class Watched:
    """A trainer and its model, put back to the same start before each release.

    What a trainer has prepared for a model and a number of patients it may use again, as it would from round to round.
    """

    def __init__(
        self,
        make_model: Callable[[], nn.Module],
        plan: TrainingPlan,
        noise: NoiseSource,
        *,
        expected_patients: float = EXPECTED_PATIENTS,
    ) -> None:
        self._model = make_model()
        self._start = parameters(self._model)
        # The learning rate is set so that the public denominator cancels.
        rate = EXPECTED_PATIENTS * plan.sample_rate / plan.max_grad_norm
        plan = msgspec.structs.replace(plan, learning_rate=rate)
        self._trainer = DpTrainer(plan, noise=noise, expected_patients=expected_patients)

    def release(self, patients: Patients) -> dict[str, Floats]:
        """By how much `DpTrainer` moves each parameter, downhill, in units of max_grad_norm.

        With momentum 0 this is the sum over the steps of (clipped sum + noise) / max_grad_norm.
        """
        with torch.no_grad():
            for name, value in self._model.named_parameters():
                if name in self._start:
                    value.copy_(torch.from_numpy(self._start[name]))
        self._trainer.train(self._model, patients)
        after = parameters(self._model)
        return {name: before - after[name] for name, before in self._start.items()}


def movement(
    make_model: Callable[[], nn.Module],
    patients: Patients,
    plan: TrainingPlan,
    noise: NoiseSource,
    *,
    expected_patients: float = EXPECTED_PATIENTS,
) -> dict[str, Floats]:
    """One release by a fresh trainer: see `Watched.release`."""
    return Watched(make_model, plan, noise, expected_patients=expected_patients).release(patients)


def parameters(model: nn.Module) -> dict[str, Floats]:
    """The trainable parameters, as float64 copies."""
    return {
        name: value.detach().cpu().double().numpy().copy()
        for name, value in model.named_parameters()
        if value.requires_grad
    }


def flat(arrays: Mapping[str, Floats]) -> Floats:
    """All arrays as one vector, in their order."""
    return np.concatenate([array.reshape(-1) for array in arrays.values()])


def rows(patients: Patients, index: NDArray[np.intp] | slice) -> dict[str, Tensor]:
    """Some of the patients."""
    taken = index if isinstance(index, slice) else torch.from_numpy(np.asarray(index))
    return {name: tensor[taken] for name, tensor in patients.items()}


def together(*parts: Patients) -> dict[str, Tensor]:
    """Patients of several groups as one."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@contextmanager
def one_thread() -> Iterator[None]:
    """Small tensors are faster on one thread, and leave the machine to others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
