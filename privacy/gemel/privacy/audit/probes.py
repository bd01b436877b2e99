"""Small models that make visible what a trainer does: who is taken, and what several layers and visits give away."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gemel.core.study import TrainingPlan
from gemel.privacy.audit.subject import Subject

SEATS = 48
VISITS = 6


class RollCall(nn.Module):
    """Every patient has a seat of its own: the gradient of patient i is 1 at seat i and 0 elsewhere.

    `seat` is one-hot, (B, seats), or (B, visits, seats) where each visit of a patient has its own.
    """

    def __init__(self, seats: int) -> None:
        super().__init__()
        self.seats = nn.Parameter(torch.zeros(seats))

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What each patient's seats hold, (B,)."""
        taken = batch["seat"] @ self.seats
        return taken.reshape(len(taken), -1).sum(dim=1)


def seats(patients: int, *, of: int = SEATS) -> dict[str, Tensor]:
    """The first `patients` of a hall of `of` seats."""
    return {"seat": torch.eye(of)[:patients]}


def seats_of_visits(patients: int, *, visits: int = VISITS) -> dict[str, Tensor]:
    """Each visit of each patient on a seat of its own, (patients, visits, patients * visits)."""
    return {"seat": torch.eye(patients * visits).reshape(patients, visits, patients * visits)}


class Visits(nn.Module):
    """A network over a patient's visits: layers of several kinds, and a loss that adds up over the visits.

    x (B, visits, 5), y (B, visits).
    """

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.network = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 1))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Squared error summed over the visits, (B,)."""
        error: Tensor = self.network(batch["x"]).squeeze(-1) - batch["y"]
        return (error**2).reshape(len(error), -1).sum(dim=1)


class Logistic(nn.Module):
    """A logistic regression: x (B, d), y (B,) in 0/1. The textbook case of inverting a gradient."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Log loss, (B,)."""
        logit: Tensor = self.linear(batch["x"]).squeeze(-1)
        return nn.functional.softplus(logit) - batch["y"] * logit


def visits_subject(plan: TrainingPlan, *, delta: float, patients: int = 24, seed: int = 0) -> Subject:
    """`Visits` with made-up patients of `VISITS` visits each."""
    generator = torch.Generator().manual_seed(seed)
    made = {
        "x": torch.randn(patients, VISITS, 5, generator=generator),
        "y": torch.randn(patients, VISITS, generator=generator),
    }
    return Subject("a network over visits", Visits, made, plan, delta)


def logistic_subject(
    plan: TrainingPlan, *, delta: float, patients: int = 200, inputs: int = 30, seed: int = 0
) -> Subject:
    """`Logistic` with made-up patients whose outcome follows from their features."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(patients, inputs, generator=generator)
    truth = torch.randn(inputs, generator=generator) / math.sqrt(inputs)
    chance = torch.sigmoid(2 * x @ truth)
    y = (torch.rand(patients, generator=generator) < chance).float()
    return Subject("a logistic regression", lambda: Logistic(inputs), {"x": x, "y": y}, plan, delta, "x")
