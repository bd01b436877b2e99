"""A patient's course: exact propagation of the state's probabilities, and simulated courses.

Within a step hazards are constant, given the state at its start, and outcomes compete as independent clocks: see
`gemel.twins.state_moves.moved`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gemel.core.programme import Programme
from gemel.twins.known_events import KnownEvents
from gemel.twins.many_paths import event_courses
from gemel.twins.prediction import Prediction, SimulatedCourse
from gemel.twins.state_moves import moved
from gemel.twins.treatment_plan import NOTHING_CHANGED, TreatmentPlan

if TYPE_CHECKING:
    from gemel.twins.hazard import HazardTwin

# Patients whose moves are held at once: all pairs of states of so many fit a processor's cache.
_AT_ONCE = 256


def predict(
    twin: HazardTwin,
    values: NDArray[np.floating],
    plan: TreatmentPlan = NOTHING_CHANGED,
    *,
    known: KnownEvents | None = None,
) -> Prediction:
    """The course of each patient from raw values (n, d); values beyond the public bounds are clipped to them.

    `known` is what came of it already: such an event has probability 1 from then on, and what had not come 0 until then.
    Call `gemel.twins.design.check_support` first where an individual is told the result.
    """
    hazards = twin.hazards_by_state(values, plan)
    return propagate(twin.programme, twin.design.prevalent(values), hazards, known=known)


def propagate(
    programme: Programme,
    prevalent: NDArray[np.bool_],
    hazards: NDArray[np.floating],
    *,
    known: KnownEvents | None = None,
) -> Prediction:
    """The course of n patients under hazards (n, 2^m, k, steps) by set of diseases, from what they have, prevalent (n, k)."""
    patients, outcomes = prevalent.shape
    diseases, times = outcomes - 1, programme.times_years
    state = np.zeros((patients, len(times), 1 << diseases))
    state[np.arange(patients), 0, prevalent[:, 1:] @ (1 << np.arange(diseases))] = 1.0
    incidence = np.zeros((patients, len(times), outcomes))
    for first in range(0, patients, _AT_ONCE):
        rows = slice(first, first + _AT_ONCE)
        rates = np.ascontiguousarray(hazards[rows].transpose(3, 1, 2, 0), np.float64)
        mine = None if known is None else known.of(rows)
        for step, span in enumerate(pairwise(times)):
            left = 1.0 if mine is None else mine.open_share(*span).T
            after, came = moved(state[rows, step].T, rates[step] * left)
            state[rows, step + 1] = after.T
            incidence[rows, step + 1] = incidence[rows, step] + came.T
            if mine is not None:
                mine.take_in(state[rows, step + 1], incidence[rows, step + 1], *span)
    return Prediction(programme.outcome_names, times, incidence, state_names(programme), state, prevalent)


def simulate(
    twin: HazardTwin,
    values: NDArray[np.floating],
    plan: TreatmentPlan = NOTHING_CHANGED,
    *,
    seed: int,
    paths: int = 1,
) -> SimulatedCourse:
    """`paths` random courses for each row of raw values (n, d), one after the other: equal seeds give equal courses."""
    prevalent = twin.design.prevalent(values)
    hazards = twin.hazards_by_state(values, plan)
    return SimulatedCourse(
        *event_courses(hazards, prevalent, twin.programme.times_years, seed=seed, paths=paths)
    )


def state_names(programme: Programme) -> tuple[str, ...]:
    """A name for each set of diseases, "well" for none, "stroke+diabetes": bit i of its number is disease i + 1."""
    diseases = programme.outcome_names[1:]
    sets = ([d for i, d in enumerate(diseases) if state >> i & 1] for state in range(1 << len(diseases)))
    return tuple("+".join(held) or "well" for held in sets)
