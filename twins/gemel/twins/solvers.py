"""Moves physiologies through time: ODEs by Runge-Kutta steps of fixed length, chains by the exact matrix exponential.

Everything is batched over persons, differentiable, and free of branches on data, so that `torch.func.vmap` and `grad` go
through it and the privacy engine can take each patient's gradient.

Treatments are constant in pieces. A step never straddles the start or the end of one, nor a jump, nor a time that is
asked for: classical Runge-Kutta keeps its fourth order whatever the plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from gemel.core.programme import DAYS_PER_YEAR
from gemel.twins.physiology import ChainPhysiology, OdePhysiology
from gemel.twins.treatment_plan import TreatmentPlan

Theta = Mapping[str, Tensor]
_NEVER = -math.inf


@dataclass(frozen=True)
class Inputs:
    """Amounts of treatments, constant in pieces.

    Attributes:
        starts: The day on which each piece starts, increasing; each lasts to the next, the last one for ever.
        amounts: By treatment (B, pieces), or (1, pieces) where everybody gets the same.
    """

    starts: tuple[float, ...] = (_NEVER,)
    amounts: Mapping[str, Tensor] = field(default_factory=dict)

    def on(self, day: float, persons: int) -> dict[str, Tensor]:
        """What each of `persons` gets on a day, (B,) by treatment."""
        piece = sum(start <= day for start in self.starts) - 1
        return {name: given[:, max(piece, 0)].expand(persons) for name, given in self.amounts.items()}


def planned_inputs(
    treatments: Sequence[str],
    plan: TreatmentPlan,
    *,
    recorded: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Inputs:
    """The inputs of a physiology under a plan.

    A treatment that the plan names follows it. Any other stays at what is recorded of each patient, (B,), and is 0
    where nothing is.
    """
    recorded = recorded or {}
    days = {dose.from_days for dose in plan.doses} | {dose.to_days for dose in plan.doses}
    starts = (_NEVER, *sorted(day for day in days if day is not None))
    amounts = {}
    for name in treatments:
        if name in plan.treatments:
            # Before its first dose: what it gives on the first day, so that a start at day 0 is no change there.
            given = torch.tensor([[plan.amount(name, day) for day in starts]], dtype=dtype)
        else:
            given = recorded.get(name, torch.zeros(1)).to(dtype)[:, None].expand(-1, len(starts))
        amounts[name] = given
    return Inputs(starts, amounts)


@dataclass(frozen=True)
class Jump:
    """A sudden change of an ODE's state, (B, states) to the same: the state on its day is the one after it."""

    day: float
    change: Callable[[Tensor], Tensor]


def ode_states(
    physiology: OdePhysiology,
    theta: Theta,
    days: Sequence[float],
    *,
    inputs: Inputs | None = None,
    start: Tensor | None = None,
    jumps: Sequence[Jump] = (),
    step_days: float | None = None,
) -> Iterator[Tensor]:
    """The state (B, states) on each of `days` (increasing), one after the other: `solve_ode` without keeping them.

    It starts on the first of `days`, from `start` or else from where the physiology starts. `step_days` is the longest
    step, by default the physiology's own.
    """
    inputs = inputs or Inputs()
    state = physiology.start(theta) if start is None else start
    longest = physiology.step_days if step_days is None else step_days
    inner = sorted({*inputs.starts, *(jump.day for jump in jumps)})
    for day in (d for d in inner if d == days[0]):
        state = _jumped(state, jumps, day)
    yield state
    for begin, end in pairwise(days):
        if not end > begin:
            raise ValueError(f"days must increase: {begin:g}, {end:g}")
        bounds = [begin, *(day for day in inner if begin < day < end), end]
        for left, right in pairwise(bounds):
            given = inputs.on(left, len(state))
            steps = max(1, math.ceil((right - left) / longest - 1e-9))
            width = (right - left) / steps
            for number in range(steps):
                state = runge_kutta_step(physiology, theta, state, given, left + number * width, width)
            state = _jumped(state, jumps, right)
        yield state


def solve_ode(
    physiology: OdePhysiology,
    theta: Theta,
    days: Sequence[float],
    *,
    inputs: Inputs | None = None,
    start: Tensor | None = None,
    jumps: Sequence[Jump] = (),
    step_days: float | None = None,
) -> Tensor:
    """The states on each of `days`: (B, T, states). See `ode_states`."""
    course = ode_states(physiology, theta, days, inputs=inputs, start=start, jumps=jumps, step_days=step_days)
    return torch.stack(list(course), dim=1)


def runge_kutta_step(
    physiology: OdePhysiology,
    theta: Theta,
    state: Tensor,
    inputs: Mapping[str, Tensor],
    day: float,
    width: float,
) -> Tensor:
    """One step of the classical fourth-order method, `width` days long: (B, states) to (B, states)."""

    def slope(at: Tensor, when: float) -> Tensor:
        return physiology.derivative(at, inputs, theta, when)

    half = width / 2
    first = slope(state, day)
    second = slope(torch.add(state, first, alpha=half), day + half)
    third = slope(torch.add(state, second, alpha=half), day + half)
    last = slope(torch.add(state, third, alpha=width), day + width)
    middle = second + third
    return torch.add(state, torch.add(first + last, middle, alpha=2), alpha=width / 6)


def observed_course(physiology: OdePhysiology, theta: Theta, states: Tensor) -> dict[str, Tensor]:
    """What can be measured along a course (B, T, states): (B, T) by name."""
    seen = [physiology.observe(state, theta) for state in states.unbind(1)]
    return {name: torch.stack([one[name] for one in seen], dim=1) for name in seen[0]}


def transition_matrices(rates: Tensor, years: float | Tensor) -> Tensor:
    """Transition probabilities exp(Q t) over `years`: (..., S, S) from generators (..., S, S).

    `years` is a number or a tensor that broadcasts against the leading dimensions. Rows sum to 1.
    """
    if isinstance(years, Tensor):
        years = years[..., None, None]
    exponential: Tensor = torch.linalg.matrix_exp(rates * years)
    return exponential


def solve_chain(
    physiology: ChainPhysiology,
    theta: Theta,
    days: Sequence[float],
    *,
    inputs: Inputs | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """The probability of each state on each of `days` (increasing): (B, T, S), exact.

    It starts on the first of `days`, from `start` (B, S) or else from where the physiology starts. Where rates are
    shared (theta and inputs with one row) the exponentials are taken once for everybody in `start`.
    """
    inputs = inputs or Inputs()
    state = physiology.start(theta) if start is None else start
    persons = max((len(value) for value in theta.values()), default=1)
    persons = max(persons, *(len(given) for given in inputs.amounts.values()), 1)
    matrices: dict[tuple[int, float], Tensor] = {}
    states = [state]
    for begin, end in pairwise(days):
        if not end > begin:
            raise ValueError(f"days must increase: {begin:g}, {end:g}")
        bounds = [begin, *(day for day in inputs.starts if begin < day < end), end]
        for left, right in pairwise(bounds):
            # Steps of one length under one treatment share their exponential.
            key = (sum(day <= left for day in inputs.starts), round(right - left, 9))
            if key not in matrices:
                rates = physiology.rates(inputs.on(left, persons), theta)
                matrices[key] = transition_matrices(rates, (right - left) / DAYS_PER_YEAR)
            state = _moved(state, matrices[key])
        states.append(state)
    return torch.stack([state.expand(len(states[-1]), -1) for state in states], dim=1)


def _moved(state: Tensor, matrices: Tensor) -> Tensor:
    return state @ matrices[0] if len(matrices) == 1 else (state[:, None, :] @ matrices)[:, 0, :]


def _jumped(state: Tensor, jumps: Sequence[Jump], day: float) -> Tensor:
    for jump in jumps:
        if jump.day == day:
            state = jump.change(state)
    return state
