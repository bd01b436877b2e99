"""Members of an ensemble for each patient: moved together by the physiology, weighed or shifted at each observation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gemel.core.errors import GemelError
from gemel.twins.assimilation.measurements import MeasurementError, Measurements
from gemel.twins.person_prior import PersonPrior, standard_draws
from gemel.twins.physiology import OdePhysiology
from gemel.twins.solvers import Inputs, Jump, solve_ode

# Which random numbers.
START, PROCESS, OBSERVATION, KERNEL, DRAW = range(5)


@dataclass(frozen=True)
class Members:
    """N members for each of n patients, as they are on a day.

    Attributes:
        z: (n, N, p), deviates of the parameters. state: (n, N, S).
        past: (n, N, t, S), the same members on the days that were asked for so far.
        log_weight: (n, N), normalised; equal in an ensemble Kalman filter.
    """

    z: Tensor
    state: Tensor
    past: Tensor
    log_weight: Tensor


@dataclass(frozen=True)
class EnsemblePosterior:
    """Weighted members of each patient. `course` (n, N, T, S) is theirs on `days`, by all that was observed."""

    prior: PersonPrior
    z: Tensor
    weight: Tensor
    days: tuple[float, ...]
    course: Tensor

    @property
    def effective_members(self) -> NDArray[np.float64]:
        """(n,): how many equally weighted members would be as good."""
        size: NDArray[np.float64] = (1 / (self.weight**2).sum(1)).numpy()
        return size

    @property
    def parameters(self) -> Mapping[str, tuple[NDArray[np.float64], ...]]:
        """See `Posterior`."""
        theta = self.prior.theta(self.z)
        return {p.name: self.moments(theta[p.name].reshape(self.weight.shape)) for p in self.prior.differing}

    def moments(self, of_members: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation over the members (n, N, ...): (n, ...) each."""
        weight = self.weight.reshape(*self.weight.shape, *(1,) * (of_members.dim() - 2))
        mean = (weight * of_members).sum(1)
        variance = (weight * (of_members - mean[:, None]) ** 2).sum(1)
        return mean.numpy(), variance.sqrt().numpy()

    def draw(self, count: int, *, seed: int) -> dict[str, Tensor]:
        """See `Posterior`."""
        chosen = self.choose(count, seed=seed)
        return self.prior.theta(picked(self.z, chosen))

    def choose(self, count: int, *, seed: int) -> Tensor:
        """Numbers (n, count) of members drawn by their weights; the same seed goes with `draw`."""
        uniform = torch.from_numpy(np.random.default_rng([seed, DRAW]).random(count)).to(self.weight.dtype)
        below = self.weight.cumsum(1)
        place = torch.searchsorted(below, uniform.expand(len(below), -1).contiguous())
        return place.clamp(max=below.shape[1] - 1)


@dataclass(frozen=True)
class EnsembleFilter(ABC):
    """An ODE whose state and parameters are followed through observations by an ensemble.

    Random numbers depend on the seed and on which of a patient's observations it is, not on the other patients: a patient's
    result is the same in any batch.

    Attributes:
        errors: How each observable is measured.
        days: On which the course is wanted, from the index date (0) on, increasing.
        process_deviation: By state: how far what the equations leave out moves it, per square root of a day.
        members: N.
    """

    physiology: OdePhysiology
    errors: Mapping[str, MeasurementError]
    days: Sequence[float]
    members: int = 200
    seed: int = 0
    process_deviation: Mapping[str, float] = field(default_factory=dict)
    inputs: Inputs = field(default_factory=Inputs)
    jumps: tuple[Jump, ...] = ()

    def __call__(self, prior: PersonPrior, measurements: Measurements) -> EnsemblePosterior:
        """The posterior of parameters and course. Raises GEM610 when a member's state is no number."""
        members, asked = self._first(prior), set(self.days)
        slots = torch.zeros(len(measurements), dtype=torch.int64)
        moved_on = torch.zeros(len(measurements), dtype=torch.float64)
        before = 0.0
        for day in sorted(asked | set(measurements.days)):
            members = self._advanced(prior, members, before, day)
            observed = measurements.known & (measurements.day == day)
            # Only its own days move a patient's random numbers on.
            own = observed.any(1) | (day in asked)
            members = self._disturbed(members, own, day - moved_on, slots)
            moved_on = torch.where(own, day, moved_on)
            for name in measurements.names:
                for slot in (observed & measurements.is_of(name)).any(0).nonzero().flatten().tolist():
                    here = (observed & measurements.is_of(name))[:, slot]
                    members = self._observed(prior, members, name, measurements.value[:, slot], here, slots)
                    slots = slots + here
            slots = slots + own
            if day in asked:
                past = torch.cat([members.past, members.state[:, :, None]], dim=2)
                members = Members(members.z, members.state, past, members.log_weight)
            before = day
        return EnsemblePosterior(
            prior, members.z, members.log_weight.exp(), tuple(sorted(asked)), members.past
        )

    def _observed(
        self, prior: PersonPrior, members: Members, name: str, value: Tensor, here: Tensor, slots: Tensor
    ) -> Members:
        theta = prior.theta(members.z)
        flat = members.state.reshape(-1, members.state.shape[-1])
        expected = self.physiology.observe(flat, theta)[name].reshape(members.log_weight.shape)
        if not torch.isfinite(expected[here]).all():
            raise GemelError("GEM610", f"The twin's {name} is no number for some member of the ensemble.")
        changed = self._taken_in(members, expected, value, self.errors[name], slots)
        return Members(
            *(
                torch.where(here.reshape(-1, *(1,) * (new.dim() - 1)), new, old)
                for new, old in (
                    (changed.z, members.z),
                    (self._within(changed.state), members.state),
                    (self._within(changed.past), members.past),
                    (changed.log_weight, members.log_weight),
                )
            )
        )

    @abstractmethod
    def _taken_in(
        self, members: Members, expected: Tensor, value: Tensor, error: MeasurementError, slots: Tensor
    ) -> Members:
        """Members after an observation of every patient: expected (n, N), value (n,), slots (n,) for random numbers."""

    def _first(self, prior: PersonPrior) -> Members:
        persons, size = prior.persons, self.members
        z = standard_draws((size, len(prior.differing)), seed=(self.seed, START), dtype=prior.location.dtype)
        z = z.expand(persons, -1, -1)
        state = self.physiology.start(prior.theta(z)).reshape(persons, size, -1)
        weight = torch.full((persons, size), -float(np.log(size)), dtype=state.dtype)
        return Members(z, state, state.new_zeros(persons, size, 0, state.shape[-1]), weight)

    def _advanced(self, prior: PersonPrior, members: Members, before: float, day: float) -> Members:
        if day == before:
            return members
        persons, size, states = members.state.shape
        inputs = Inputs(
            self.inputs.starts,
            {
                name: given.expand(persons, -1).repeat_interleave(size, 0)
                for name, given in self.inputs.amounts.items()
            },
        )
        # A jump on the first of these days has been taken already.
        later = tuple(jump for jump in self.jumps if jump.day > before)
        start = members.state.reshape(-1, states)
        course = solve_ode(
            self.physiology, prior.theta(members.z), (before, day), inputs=inputs, start=start, jumps=later
        )
        return Members(
            members.z, course[:, -1].reshape(persons, size, states), members.past, members.log_weight
        )

    def _disturbed(self, members: Members, own: Tensor, since: Tensor, slots: Tensor) -> Members:
        if not self.process_deviation:
            return members
        deviations = [self.process_deviation.get(state.name, 0.0) for state in self.physiology.states]
        noise = self._noise(PROCESS, slots, (self.members, len(deviations)))
        width = torch.where(own, since, 0.0).clamp(min=0.0).sqrt()[:, None, None]
        moved = self._within(members.state + torch.tensor(deviations, dtype=noise.dtype) * width * noise)
        return Members(members.z, moved, members.past, members.log_weight)

    def _within(self, state: Tensor) -> Tensor:
        """Kept within the bounds in which the states mean something."""
        low = torch.tensor([variable.low for variable in self.physiology.states], dtype=state.dtype)
        high = torch.tensor([variable.high for variable in self.physiology.states], dtype=state.dtype)
        return state.clamp(low, high)

    def _noise(self, kind: int, slots: Tensor, size: tuple[int, ...]) -> Tensor:
        """Standard normal numbers (n, *size), by the number of each patient's slot."""
        numbers, place = np.unique(slots.numpy(), return_inverse=True)
        table = [standard_draws(size, seed=(self.seed, kind, int(number))) for number in numbers]
        return torch.stack(table)[torch.from_numpy(place)]


def picked(members: Tensor, chosen: Tensor) -> Tensor:
    """Members (n, N, ...) by their numbers (n, N')."""
    index = chosen.reshape(*chosen.shape, *(1,) * (members.dim() - 2))
    return members.gather(1, index.expand(*chosen.shape, *members.shape[2:]))
