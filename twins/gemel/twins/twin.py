"""What every twin is: a state that evolves, an intervention that changes it, an individual that it fits with each observation.

    encoder (history -> the parameters of a person, and their spread) -> physiology (a differentiable ODE or chain) with a
    bounded residual -> observation heads (competing hazards in discrete time, ordinal, continuous)

A twin trains under patient-level differential privacy: `forward` gives each patient's loss from that patient's row alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gemel.core.arrays import ArraySpec, check_arrays
from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.programme import Programme
from gemel.core.series import Series
from gemel.twins.prediction import Prediction, SimulatedCourse
from gemel.twins.treatment_plan import NOTHING_CHANGED, TreatmentPlan

# By name of what is observed (one of the twin's `observables`), a run of (day since the index date, value) for each patient.
Observations = Mapping[str, Series]


class Individual(ABC):
    """A twin fitted to the observations of n patients. It is made at the hospital, costs no budget, and stays there."""

    @abstractmethod
    def predict(self, *, plan: TreatmentPlan = NOTHING_CHANGED) -> Prediction:
        """What is expected from the index date on, now that the observations are known.

        An event that was seen, or that was seen not to have come yet, has probability 1 or 0 until then.
        """

    @property
    @abstractmethod
    def parameters(self) -> Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Of each parameter that observations moved: mean and standard deviation, (n,) each, in its unit."""


class Twin(nn.Module, ABC):
    """The twin of one programme; all its parameters start at public constants.

    Values are raw, (n, d) in the columns of the programme, NaN where missing: any subset may be. Values beyond the public
    bounds are clipped to them; call `gemel.twins.design.check_support` first where an individual is told the result.
    """

    # What `assimilate` takes, by name -> UCUM unit. Empty for a twin that takes none.
    observables: Mapping[str, str] = {}

    def __init__(self, programme: Programme) -> None:
        super().__init__()
        self.programme = programme

    @abstractmethod
    def tensors(self, dataset: Dataset) -> dict[str, Tensor]:
        """Dense tensors of a data set for `forward`, each with one row per patient."""

    @abstractmethod
    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Loss per patient (B,) from `tensors`; each from that patient's row alone, and finite whatever is missing."""

    @abstractmethod
    def predict(self, values: NDArray[np.floating], *, plan: TreatmentPlan = NOTHING_CHANGED) -> Prediction:
        """What is expected of each patient under a plan."""

    @abstractmethod
    def simulate(
        self,
        values: NDArray[np.floating],
        *,
        seed: int,
        plan: TreatmentPlan = NOTHING_CHANGED,
        paths: int = 1,
    ) -> SimulatedCourse:
        """`paths` random futures for each row, (n * paths) with a row's one after the other; equal seeds give equal ones.

        The noise of a path is the same under every plan, so that two plans under one seed are pairs.
        """

    def assimilate(self, values: NDArray[np.floating], observations: Observations) -> Individual:
        """Fit the twin to what was observed of each row's patient. Raises GEM604 for what it does not observe."""
        raise GemelError("GEM604", f"The twin of {self.programme.name} takes no observations.")

    def array_specs(self) -> dict[str, ArraySpec]:
        """What travels: each parameter's name, shape and dtype."""
        return {
            name: ArraySpec(tuple(value.shape), "float32") for name, value in sorted(self.named_parameters())
        }

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """A copy of the parameters."""
        return {
            name: value.detach().cpu().numpy().astype(np.float32).copy()
            for name, value in sorted(self.named_parameters())
        }

    def load_arrays(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take parameters that fit exactly. Raises GEM602 otherwise; the twin is then unchanged."""
        try:
            check_arrays(arrays, self.array_specs())
        except GemelError as error:
            raise GemelError("GEM602", f"Not a twin of {self.programme.name}: {error.message}") from error
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(torch.from_numpy(np.asarray(arrays[name], dtype=np.float32)))
