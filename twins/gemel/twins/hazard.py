"""The hazard twin: a patient's state (alive, diseases so far) moving year by year under competing hazards.

In year k the yearly cumulative hazard of outcome j is λ = exp(η), with
η = level_j + time terms(k) · slopes_j + columns(x) · weights_j + state at the start of the year · couplings_j.
A year survived at risk contributes -λ, a part e of a year -λe, an event log(1 - exp(-λ)) (Prentice & Gloeckler,
Biometrics 1978;34:57: the grouped proportional-hazards model). The loss of one patient depends on that patient alone, so
each has a gradient that can be clipped: a Cox partial likelihood has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gemel.core.arrays import ArraySpec, check_arrays
from gemel.core.dataset import OCCURRED, PREVALENT, Dataset
from gemel.core.errors import GemelError
from gemel.core.programme import Programme
from gemel.twins.design import design_of

if TYPE_CHECKING:
    from gemel.twins.course import Prediction, SimulatedCourse
    from gemel.twins.what_if import WhatIf

# Where every twin starts: 1 event per 100 patient-years, for everybody. A public, rough clinical number.
START_RATE_PER_YEAR = 0.01
# Yearly cumulative hazards are kept within these public limits, so that no input makes a loss overflow.
LOWEST_LOG_HAZARD, HIGHEST_LOG_HAZARD = -12.0, 1.5


class HazardTwin(nn.Module):
    """The twin of one programme; all parameters start at public constants.

    Parameters (k outcomes, p design columns, m = k - 1 diseases): level (k,), slopes (k, 3), weights (k, p),
    couplings (k, m).
    """

    time_basis: Tensor
    usable: Tensor
    coupled: Tensor

    def __init__(self, programme: Programme) -> None:
        super().__init__()
        self.programme = programme
        self.design = design_of(programme)
        outcomes, columns = self.design.usable.shape
        years = torch.arange(programme.horizon_years, dtype=torch.float32)
        # A straight trend over the horizon, and an excess (or deficit) that fades over the first years.
        basis = torch.stack([(years - 4.0) / 5.0, torch.exp(-years / 1.5)], dim=1)
        self.register_buffer("time_basis", basis, persistent=False)
        self.register_buffer("usable", torch.from_numpy(self.design.usable).float(), persistent=False)
        self.register_buffer("coupled", _others(outcomes), persistent=False)
        self.level = nn.Parameter(torch.full((outcomes,), math.log(START_RATE_PER_YEAR)))
        self.slopes = nn.Parameter(torch.zeros(outcomes, 3))
        self.weights = nn.Parameter(torch.zeros(outcomes, columns))
        self.couplings = nn.Parameter(torch.zeros(outcomes, outcomes - 1))

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Loss per patient (B,): minus the log-likelihood of the years at risk, from `tensors`."""
        eta = self.log_hazard(batch["columns"], batch["age"], batch["diseases"])
        hazard = torch.exp(eta)
        occurred = torch.log(-torch.expm1(-hazard))
        return -(batch["event"] * occurred - batch["exposure"] * hazard).sum(dim=(-1, -2))

    def log_hazard(self, columns: Tensor, age: Tensor, diseases: Tensor) -> Tensor:
        """log λ (B, k, years) from columns (B, p), scaled age (B,) and diseases (B, years, m) in 0/1."""
        who = self.level + columns @ (self.weights * self.usable).T
        when = self.time_basis @ self.slopes[:, :2].T  # (years, k)
        ageing = age[:, None, None] * self.time_basis[:, :1] * self.slopes[:, 2]  # (B, years, k)
        state = diseases @ (self.couplings * self.coupled).T
        eta = who[:, None, :] + when + ageing + state
        return eta.clamp(LOWEST_LOG_HAZARD, HIGHEST_LOG_HAZARD).transpose(1, 2)

    def tensors(self, dataset: Dataset) -> dict[str, Tensor]:
        """Dense float32 tensors of a data set, one row per patient, for `forward`.

        columns (n, p); age (n,); diseases (n, years, m), state at the start of each year; event (n, k, years) 0/1;
        exposure (n, k, years), the part of each year survived at risk without the event (0 in its year).
        Follow-up past the horizon is censored there.
        """
        horizon = self.programme.horizon_years
        time = dataset.time_years.astype(np.float64)[:, :, None]
        starts = np.arange(horizon, dtype=np.float64)
        prevalent = dataset.event[:, :, None] == PREVALENT
        # An event at exactly k years belongs to the year that ends there: "by k years" includes k.
        within = (time > starts) & (time <= starts + 1) | (time <= 0) & (starts == 0)
        event = (dataset.event[:, :, None] == OCCURRED) & within
        exposure = np.clip(time - starts, 0, 1) * ~event * ~prevalent
        before = prevalent | (dataset.event[:, :, None] == OCCURRED) & (time <= starts)
        diseases = before[:, 1:, :].transpose(0, 2, 1)
        arrays = {
            "columns": self.design.columns(dataset.values),
            "age": self.design.age(dataset.values),
            "diseases": diseases,
            "event": event,
            "exposure": exposure,
        }
        return {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}

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

    def predict(self, values: NDArray[np.floating]) -> Prediction:
        """See `gemel.twins.course.predict`."""
        from gemel.twins.course import predict

        return predict(self, values)

    def simulate(self, values: NDArray[np.floating], *, seed: int) -> SimulatedCourse:
        """See `gemel.twins.course.simulate`."""
        from gemel.twins.course import simulate

        return simulate(self, values, seed=seed)

    def what_if(self, values: NDArray[np.floating], changes: Mapping[str, float]) -> WhatIf:
        """See `gemel.twins.what_if.what_if`."""
        from gemel.twins.what_if import what_if

        return what_if(self, values, changes)


def _others(outcomes: int) -> Tensor:
    """(k, m) ones, but 0 where the disease is the outcome itself: who has it is not at risk of it."""
    mask = torch.ones(outcomes, outcomes - 1)
    for disease in range(outcomes - 1):
        mask[disease + 1, disease] = 0.0
    return mask
