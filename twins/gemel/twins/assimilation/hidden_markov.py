"""A chain's hidden state from what is seen of it: the exact forward-backward algorithm in continuous time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gemel.core.errors import GemelError
from gemel.core.programme import DAYS_PER_YEAR
from gemel.twins.assimilation.measurements import Measurements
from gemel.twins.person_prior import PersonPrior, standard_draws
from gemel.twins.physiology import ChainPhysiology
from gemel.twins.solvers import Inputs, Theta, transition_matrices


class Emission(Protocol):
    """How an observable depends on the hidden state."""

    def __call__(self, values: Tensor) -> Tensor:
        """The probability, or density, of measured values (...) in each state: (..., S)."""


@dataclass(frozen=True)
class BinnedEmission:
    """A measured value is known by the bin in which it falls.

    Attributes:
        edges: Between the bins, increasing; a value on an edge is in the upper bin.
        probabilities: (S, bins): of each bin in each state; rows sum to 1.
    """

    edges: tuple[float, ...]
    probabilities: Tensor

    def __post_init__(self) -> None:
        states_sum = self.probabilities.sum(1)
        if self.probabilities.shape[1] != len(self.edges) + 1 or not torch.allclose(
            states_sum, torch.ones_like(states_sum), atol=1e-6
        ):
            raise ValueError("an emission needs one probability for each bin, and each state's must sum to 1")

    def __call__(self, values: Tensor) -> Tensor:
        """See `Emission`."""
        edges = torch.tensor(self.edges, dtype=values.dtype)
        return self.probabilities.T[torch.bucketize(values, edges, right=True)]


@dataclass(frozen=True)
class NormalEmission:
    """A measured value is normal around what its state gives: mean and deviation, (S,) each.

    `logarithmic`: its logarithm is.
    """

    mean: Tensor
    deviation: Tensor
    logarithmic: bool = False

    def __call__(self, values: Tensor) -> Tensor:
        """See `Emission`. Of the logarithm it is the density of that: a factor that is the same for every state."""
        at = values.clamp(min=1e-300).log() if self.logarithmic else values
        away = (at[..., None] - self.mean) / self.deviation
        return torch.exp(-0.5 * away**2) / (self.deviation * math.sqrt(2 * math.pi))


@dataclass(frozen=True)
class ChainPosterior:
    """What is believed of each patient's state.

    Attributes:
        days: (T,), from the index date on.
        course: (n, T, S), probability of each state on each of `days`, by all observations: before the last one smoothed,
            after it predicted.
        log_likelihood: (n,), of the observations.
    """

    prior: PersonPrior
    days: tuple[float, ...]
    course: Tensor
    log_likelihood: Tensor

    @property
    def parameters(self) -> Mapping[str, tuple[NDArray[np.float64], ...]]:
        """None is moved."""
        return {}

    def draw(self, count: int, *, seed: int) -> dict[str, Tensor]:
        """See `Posterior`: parameters are as before."""
        return self.prior.theta(
            standard_draws((self.prior.persons, count, len(self.prior.differing)), seed=(seed,))
        )


@dataclass(frozen=True)
class HiddenMarkovFilter:
    """The chain of a physiology, and how each observable depends on its state. Exact; no parameter is moved.

    `log_likelihood` is differentiable: `MaximumAPosteriori(filter.log_likelihood)` moves parameters as well.
    """

    physiology: ChainPhysiology
    emissions: Mapping[str, Emission]
    days: Sequence[float]
    inputs: Inputs = field(default_factory=Inputs)

    def __call__(self, prior: PersonPrior, measurements: Measurements) -> ChainPosterior:
        """The posterior on `days`, of typical persons. Raises GEM610 for observations that no state allows."""
        return self.of_persons(prior, prior.theta(torch.zeros_like(prior.location)), measurements)

    def of_persons(self, prior: PersonPrior, theta: Theta, measurements: Measurements) -> ChainPosterior:
        """The same with parameters that are known otherwise (`MaximumAPosteriori`): (n,) each."""
        persons, days = len(measurements), tuple(self.days)
        asked = torch.tensor(days, dtype=torch.float64).expand(persons, -1)
        every_day = torch.cat([measurements.day, asked], dim=1)
        seen = self._likelihood(measurements)
        nothing = seen.new_ones(persons, len(days), seen.shape[-1])
        order = every_day.argsort(dim=1, stable=True)
        day = every_day.gather(1, order)
        seen = torch.cat([seen, nothing], dim=1).gather(1, order[:, :, None].expand(-1, -1, seen.shape[-1]))
        forward, moves, total = self._forward(theta, day, seen)
        if not torch.isfinite(total).all():
            raise GemelError("GEM610", "A patient's observations are impossible in every state of the twin.")
        course = _smoothed(forward, moves, seen)
        back = order.argsort(dim=1)[:, measurements.day.shape[1] :]
        picked = course.gather(1, back[:, :, None].expand(-1, -1, course.shape[-1]))
        return ChainPosterior(prior, days, picked, total)

    def log_likelihood(self, theta: Theta, measurements: Measurements) -> Tensor:
        """(n,): of each patient's observations, whatever the states were."""
        return self._forward(theta, measurements.day, self._likelihood(measurements))[2]

    def _likelihood(self, measurements: Measurements) -> Tensor:
        """(n, M, S): of each measurement in each state; 1 where there is none."""
        states = len(self.physiology.states)
        seen = torch.ones(*measurements.day.shape, states, dtype=torch.float64)
        for name in measurements.names:
            mine = measurements.is_of(name)
            if mine.any():
                density = self.emissions[name](measurements.value).to(torch.float64)
                seen = torch.where(mine[:, :, None], density, seen)
        return seen

    def _forward(self, theta: Theta, day: Tensor, seen: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Filtered states (n, S) at each slot, the transition into each, and the log-likelihood (n,)."""
        persons = len(day)
        state = self.physiology.start(theta).expand(persons, -1)
        total, before = torch.zeros_like(state[:, 0]), torch.zeros(persons, dtype=torch.float64)
        forward, moves = [], []
        rates = [self.physiology.rates(self.inputs.on(piece, persons), theta) for piece in self.inputs.starts]
        for slot in range(day.shape[1]):
            move = self._transition(rates, before, day[:, slot])
            state = (state[:, None, :] @ move)[:, 0, :] * seen[:, slot]
            size = state.sum(1)
            state, total = state / size[:, None], total + size.log()
            forward.append(state)
            moves.append(move)
            before = day[:, slot]
        return forward, moves, total

    def _transition(self, rates: Sequence[Tensor], begin: Tensor, end: Tensor) -> Tensor:
        """(n, S, S) from each patient's begin to its end, under the treatments in between."""
        starts = self.inputs.starts
        whole = torch.eye(rates[0].shape[-1], dtype=rates[0].dtype)
        for number, generator in enumerate(rates):
            until = starts[number + 1] if number + 1 < len(starts) else math.inf
            spent = (end.clamp(max=until) - begin.clamp(min=starts[number])).clamp(min=0.0)
            whole = whole @ transition_matrices(generator, (spent / DAYS_PER_YEAR).to(generator.dtype))
        return whole


def _smoothed(forward: Sequence[Tensor], moves: Sequence[Tensor], seen: Tensor) -> Tensor:
    """(n, slots, S): the states by all that was seen, before and after."""
    ahead = torch.ones_like(forward[-1])
    course = [forward[-1]]
    for slot in range(len(forward) - 1, 0, -1):
        ahead = (moves[slot] @ (seen[:, slot] * ahead)[:, :, None])[:, :, 0]
        ahead = ahead / ahead.sum(1, keepdim=True)
        both = forward[slot - 1] * ahead
        course.append(both / both.sum(1, keepdim=True))
    return torch.stack(course[::-1], dim=1)
