"""The linear models of FLamby's two tasks, each with a loss for every patient, and their scores."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from _flamby_data import BRCA_EDGES_YEARS
from lifelines.utils import concordance_index
from numpy.typing import NDArray
from torch import Tensor, nn

# Where training starts, public: 1 death in 20 patient-years.
START_RATE_PER_YEAR = 0.05


class Logistic(nn.Module):
    """Disease or not: one linear layer, as FLamby's baseline. Starts at zero."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(columns)), nn.Parameter(torch.zeros(1))

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Loss per patient (B,)."""
        return nn.functional.binary_cross_entropy_with_logits(
            batch["x"] @ self.weight + self.bias, batch["y"], reduction="none"
        )

    def score(self, batch: Mapping[str, NDArray[np.float32]]) -> float:
        """Accuracy at one half."""
        with torch.no_grad():
            margin = torch.from_numpy(batch["x"]) @ self.weight + self.bias
        return float(((margin.numpy() > 0) == (batch["y"] > 0.5)).mean())


class PiecewiseExponential(nn.Module):
    """Survival with one linear layer, and a constant hazard in each interval.

    FLamby's baseline is Cox' partial likelihood, in which a patient's term depends on all who are at risk with them: it
    has no gradient of one patient. This full likelihood of the same proportional hazards has.
    """

    edges: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(columns))
        self.level = nn.Parameter(torch.full((len(BRCA_EDGES_YEARS),), math.log(START_RATE_PER_YEAR)))
        self.register_buffer("edges", torch.tensor(BRCA_EDGES_YEARS), persistent=False)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Loss per patient (B,): minus the log-likelihood of time at risk in each interval, and of death."""
        time, event = batch["time"][:, None], batch["event"]
        ends = torch.cat([self.edges[1:], torch.full((1,), 1e6)])
        exposure = (torch.minimum(time, ends) - self.edges).clamp(min=0)
        last = ((time > self.edges) & (time <= ends)) | ((time <= 0) & (self.edges == 0))
        eta = (batch["x"] @ self.weight)[:, None] + self.level
        eta = eta.clamp(-12.0, 3.0)
        return (exposure * torch.exp(eta)).sum(1) - event * (last * eta).sum(1)

    def score(self, batch: Mapping[str, NDArray[np.float32]]) -> float:
        """Harrell's C by lifelines; NaN where nobody can be compared."""
        with torch.no_grad():
            risk = (torch.from_numpy(batch["x"]) @ self.weight).numpy()
        try:
            return float(concordance_index(batch["time"], -risk, batch["event"]))
        except ZeroDivisionError:
            return float("nan")


Model = Logistic | PiecewiseExponential


def model_of(task: str) -> Model:
    """The start of a task's model."""
    return Logistic(13) if task == "heart" else PiecewiseExponential(39)
