"""Many random futures of many patients, quickly: paths are drawn in chunks, counted, and let go.

Random numbers belong to a patient and a path, never to a plan: under two plans a path has the same clocks, so that what a
plan does not touch is identical and a difference is that of the plans alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gemel.core.dataset import OCCURRED, PREVALENT
from gemel.twins.person_prior import PersonPrior
from gemel.twins.physiology import OdePhysiology
from gemel.twins.prediction import SimulatedCourse
from gemel.twins.solvers import Inputs, Jump, ode_states
from gemel.twins.treatment_plan import TreatmentPlan
from gemel.twins.twin import Twin

Floats32 = NDArray[np.float32]

QUANTILES = (0.05, 0.5, 0.95)
# Paths that are held at once: with more, arrays of whole courses no longer stay in cache and are paged in anew each time.
CHUNK = 1 << 14
_CLOCKS, _MOVES, _PEOPLE, _CHUNKS = (3,), (5,), (6,), (7,)


@dataclass(frozen=True)
class PathSummary:
    """What many futures of n patients under one plan have in common; q is the number of quantiles asked for.

    Attributes:
        incidence: (n, T, k), the share of a patient's paths in which the outcome came by each time of the grid.
        by_path: (paths, T, k), the share of the patients to whom it came: each path is one virtual cohort, so that their
            quantiles are those of what a cohort of this size may see. Of two plans a path is a pair.
        targets: (n, 1 + q) by name: mean and quantiles over the paths that reach it alive; NaN where none does.
        courses: (n, T, 1 + q) by name, likewise.
    """

    plan: TreatmentPlan
    incidence: Floats32
    by_path: NDArray[np.float64]
    targets: Mapping[str, Floats32]
    courses: Mapping[str, Floats32]


def many_paths(
    twin: Twin,
    values: NDArray[np.floating],
    plans: Sequence[TreatmentPlan],
    *,
    paths: int,
    seed: int,
    quantiles: Sequence[float] = QUANTILES,
    threads: int | None = None,
) -> tuple[PathSummary, ...]:
    """`paths` futures of each row of raw values (n, d) under each plan, with the same random numbers under all plans.

    Memory is that of the summaries and of a few chunks, whatever the number of paths. `threads` None: one for each core.
    """
    patients = max(1, CHUNK // paths)
    chunks = [values[start : start + patients] for start in range(0, len(values), patients)]
    seeds = np.random.SeedSequence(seed, spawn_key=_CHUNKS).generate_state(max(1, len(chunks)))

    def summed(number: int) -> list[_Chunk]:
        return [
            _Chunk.of(
                twin.simulate(chunks[number], seed=int(seeds[number]), plan=plan, paths=paths),
                twin.programme.times_years,
                paths,
                quantiles,
            )
            for plan in plans
        ]

    with ThreadPoolExecutor(threads or _cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        parts = list(pool.map(summed, range(len(chunks))))
    return tuple(
        _joined(plan, [part[place] for part in parts], len(values)) for place, plan in enumerate(plans)
    )


@dataclass(frozen=True)
class _Chunk:
    incidence: Floats32
    by_path: NDArray[np.float64]  # counts
    targets: Mapping[str, Floats32]
    courses: Mapping[str, Floats32]

    @classmethod
    def of(
        cls, course: SimulatedCourse, times: Sequence[float], paths: int, quantiles: Sequence[float]
    ) -> _Chunk:
        came = _counted_by(course, np.asarray(times, np.float32), paths)
        return cls(
            came[0],
            came[1],
            {name: _spread(_folded(drawn, paths), quantiles) for name, drawn in course.targets.items()},
            {name: _spread(_folded(drawn, paths), quantiles) for name, drawn in course.courses.items()},
        )


def _joined(plan: TreatmentPlan, chunks: Sequence[_Chunk], patients: int) -> PathSummary:
    return PathSummary(
        plan,
        np.concatenate([chunk.incidence for chunk in chunks]),
        np.sum([chunk.by_path for chunk in chunks], axis=0) / patients,
        {name: np.concatenate([c.targets[name] for c in chunks]) for name in chunks[0].targets},
        {name: np.concatenate([c.courses[name] for c in chunks]) for name in chunks[0].courses},
    )


def _counted_by(course: SimulatedCourse, times: Floats32, paths: int) -> tuple[Floats32, NDArray[np.float64]]:
    """The share of each patient's paths, and the number of each path's patients, to whom an outcome came by each time."""
    rows, outcomes = course.event.shape
    patients, steps = rows // paths, len(times)
    by_patient = np.empty((patients, steps, outcomes), np.float32)
    by_path = np.empty((paths, steps, outcomes))
    patient, path = np.divmod(np.arange(rows), paths)
    for outcome in range(outcomes):
        came = course.event[:, outcome] == OCCURRED
        # Days of the grid in float32 must not fall behind their own end.
        step = np.searchsorted(times + np.float32(1e-6), course.time_years[came, outcome])
        within = step < steps
        for by, owner, size in ((by_patient, patient, patients), (by_path, path, paths)):
            place = owner[came][within] * steps + step[within]
            counts = np.bincount(place, minlength=size * steps).reshape(size, steps)
            by[:, :, outcome] = counts.cumsum(axis=1)
    return (by_patient / paths).astype(np.float32), by_path


def _folded(drawn: Floats32, paths: int) -> Tensor:
    """(n, paths, ...) from (n * paths, ...)."""
    return torch.from_numpy(drawn).reshape(-1, paths, *drawn.shape[1:])


def _spread(drawn: Tensor, quantiles: Sequence[float]) -> Floats32:
    """(n, ..., 1 + q): mean and quantiles over the paths (n, paths, ...) that are numbers; NaN where none is."""
    ordered = drawn.transpose(1, -1).contiguous().sort(dim=-1).values  # numbers first
    known = torch.isfinite(ordered)
    count = known.sum(-1, keepdim=True)
    mean = torch.where(known, ordered, 0.0).sum(-1, keepdim=True) / count
    parts = [mean]
    for quantile in quantiles:
        at = (count - 1).clamp(min=0) * quantile
        below = at.floor().long()
        low, high = (
            ordered.gather(-1, below),
            ordered.gather(-1, (below + 1).clamp(max=ordered.shape[-1] - 1)),
        )
        share = at - below
        between = torch.where(share > 0, low + (high - low) * share, low)
        parts.append(torch.where(count > 0, between, torch.nan))
    spread: Floats32 = torch.cat(parts, dim=-1).float().numpy()
    return spread


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def event_courses(
    hazards: NDArray[np.floating],
    prevalent: NDArray[np.bool_],
    times_years: Sequence[float],
    *,
    seed: int,
    paths: int = 1,
) -> tuple[Floats32, NDArray[np.int8]]:
    """Times and events of n patients' paths under hazards that are constant within a step, given the state at its start.

    Each outcome of each path has one exponential clock, drawn once. It runs at the hazard of the state that the path is in,
    and rings when it has run down: the same law as a fresh clock in each step, and under a plan with a lower hazard the same
    event comes later, never at random.

    Args:
        hazards: (n, 2^m, k, steps): cumulative over each step, by the set of diseases (bit i: disease i + 1).
        prevalent: (n, k).
        times_years: (steps + 1,).
        seed: Equal seeds give equal clocks, whatever the hazards.
        paths: How many for each patient.

    Returns:
        float32 time and int8 event, (n * paths, k), a patient's paths one after the other, in the conventions of
        `SimulatedCourse`.
    """
    patients, _, outcomes, steps = hazards.shape
    # A stream of its own: callers draw their values from the plain seed.
    random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=_CLOCKS))
    # Patients first, so that another patient behind them changes nobody's future.
    draws = random.standard_exponential((patients, paths, outcomes), dtype=np.float32)
    clocks = [clock.contiguous() for clock in torch.from_numpy(draws).unbind(2)]
    # By step and outcome, the states in the last dimension: (steps, k, n, states).
    rates = torch.from_numpy(np.ascontiguousarray(hazards.transpose(3, 2, 0, 1), dtype=np.float32))
    held = torch.from_numpy(prevalent)[:, :, None].expand(-1, -1, paths)
    never = torch.inf
    clocks = [clock.masked_fill_(held[:, j], never) for j, clock in enumerate(clocks)]
    times = [torch.full((patients, paths), never) for _ in range(outcomes)]
    state = torch.zeros((patients, paths), dtype=torch.int64)
    for disease in range(outcomes - 1):
        state += held[:, disease + 1] << disease
    for step in range(steps):
        _advance(clocks, times, state, rates[step], (times_years[step], times_years[step + 1]))
    return _as_course(times, held, float(times_years[-1]))


def _advance(
    clocks: list[Tensor], times: list[Tensor], state: Tensor, rates: Tensor, span: tuple[float, float]
) -> None:
    """One step of all paths, in place: clocks run; one that rings is stopped, and its time is written down."""
    start, width = span[0], span[1] - span[0]
    entered = state.clone()
    end, died = torch.ones(()), torch.zeros((), dtype=torch.bool)
    for outcome, clock in enumerate(clocks):
        rate = rates[outcome] if rates.shape[-1] == 1 else rates[outcome].gather(1, entered)
        part = clock / rate
        rings = part <= end
        clock.sub_(rate).masked_fill_(rings | died, torch.inf)
        if outcome == 0:  # death: nothing rings after it
            end, died = part.clamp(max=1.0), rings
        else:
            state += rings << (outcome - 1)
        torch.where(rings, part.mul_(width).add_(start), times[outcome], out=times[outcome])


def _as_course(times: list[Tensor], held: Tensor, horizon: float) -> tuple[Floats32, NDArray[np.int8]]:
    outcomes, rows = len(times), times[0].numel()
    time = torch.stack([one.reshape(-1) for one in times], dim=1)
    event = torch.isfinite(time).to(torch.int8) * OCCURRED
    ends = time[:, :1].clamp(max=horizon)
    time = torch.where(event == OCCURRED, time.clamp(max=horizon), ends.expand(rows, outcomes))
    before = held.transpose(1, 2).reshape(rows, outcomes)
    time = time.masked_fill(before, 0.0)
    return time.numpy(), event.masked_fill(before, PREVALENT).numpy()


def chain_courses(transitions: Tensor, start: Tensor, *, seed: int, paths: int = 1) -> NDArray[np.int8]:
    """The states of n patients' paths on a grid, int8 (n * paths, T): a patient's one after the other.

    Each step takes one uniform number of the path through the cumulative probabilities of where it may go, so that under a
    plan with other rates a path goes as nearly the same way as it can, states being in their natural order.

    Args:
        transitions: (n, T - 1, S, S), or (1, T - 1, S, S) where all patients share them.
        start: (n, S), the probability of each state at the first time.
        seed: Equal seeds give equal uniform numbers.
        paths: How many for each patient.
    """
    patients, states = start.shape
    steps = transitions.shape[1]
    random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=_MOVES))
    uniform = torch.from_numpy(random.random((patients, steps + 1, paths), dtype=np.float32))
    # The last one is 1, whatever the rounding: nobody goes beyond it.
    below = transitions.float().cumsum(-1)[..., :-1]
    state = (uniform[:, 0, :, None] > start.float().cumsum(-1)[:, None, :-1]).sum(-1)
    course = torch.empty((patients, paths, steps + 1), dtype=torch.int8)
    course[:, :, 0] = state
    for step in range(steps):
        drawn, moved = uniform[:, step + 1], torch.zeros_like(state)
        for edge in range(states - 1):
            limit = below[:, step, :, edge].expand(patients, -1).gather(1, state)
            moved += drawn > limit
        state = moved
        course[:, :, step + 1] = state
    drawn_states: NDArray[np.int8] = course.reshape(patients * paths, steps + 1).numpy()
    return drawn_states


def ode_courses(
    physiology: OdePhysiology,
    prior: PersonPrior,
    days: Sequence[float],
    *,
    seed: int,
    paths: int = 1,
    inputs: Inputs | None = None,
    jumps: Sequence[Jump] = (),
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What can be measured along n patients' paths, (n * paths, T) by name, and each path's parameters, (n * paths,) by name.

    Each path is a person drawn from the patient's prior: what the record does not say of the parameters is drawn, and the
    same under every plan. `inputs` are those of the n patients. Use a prior of float32: it is twice as fast.
    """
    patients, differing = prior.persons, len(prior.differing)
    random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=_PEOPLE))
    z = torch.from_numpy(random.standard_normal((patients, paths, differing), dtype=np.float32))
    given = inputs or Inputs()
    everybody = {
        name: one if len(one) == 1 else one.repeat_interleave(paths, dim=0)
        for name, one in given.amounts.items()
    }
    with torch.no_grad():
        theta = prior.theta(z.to(prior.location.dtype))
        course = ode_states(physiology, theta, days, inputs=Inputs(given.starts, everybody), jumps=jumps)
        seen = [physiology.observe(state, theta) for state in course]
        courses = {name: torch.stack([one[name] for one in seen], dim=1) for name in seen[0]}
    return courses, theta
