"""A patient's course: exact propagation of the state's probabilities, and simulated courses.

Within a step hazards are constant, given the state at its start, and outcomes compete as independent clocks: death
comes with probability 1 - exp(-λ_death), a disease before death and the step's end with
λ/(λ + λ_death) · (1 - exp(-(λ + λ_death))).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gemel.core.programme import Programme
from gemel.twins.known_events import KnownEvents
from gemel.twins.many_paths import event_courses
from gemel.twins.prediction import Prediction, SimulatedCourse
from gemel.twins.treatment_plan import NOTHING_CHANGED, TreatmentPlan

if TYPE_CHECKING:
    from gemel.twins.hazard import HazardTwin


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
    hazards = hazards.astype(np.float64)
    state = np.zeros((patients, len(times), 1 << diseases))
    state[np.arange(patients), 0, prevalent[:, 1:] @ (1 << np.arange(diseases))] = 1.0
    incidence = np.zeros((patients, len(times), outcomes))
    for step in range(len(times) - 1):
        span = times[step], times[step + 1]
        left = 1.0 if known is None else known.open_share(*span)
        incidence[:, step + 1] = incidence[:, step]
        for start in range(1 << diseases):
            occupied, rate = state[:, step, start], hazards[:, start, :, step] * left
            death, survived = rate[:, 0], np.exp(-rate[:, 0])
            incidence[:, step + 1, 0] += occupied * -np.expm1(-death)
            open_diseases = [i for i in range(diseases) if not start >> i & 1]
            new, moved = np.array([start]), (occupied * survived)[:, None]
            for i in open_diseases:
                both = rate[:, i + 1] + death
                share = rate[:, i + 1] / np.maximum(both, np.finfo(np.float64).tiny)
                incidence[:, step + 1, i + 1] += occupied * share * -np.expm1(-both)
                stays_free = np.exp(-rate[:, i + 1, None])
                new, moved = (
                    np.concatenate([new, new | 1 << i]),
                    np.concatenate([moved * stays_free, moved * (1 - stays_free)], axis=1),
                )
            state[:, step + 1, new] += moved
        if known is not None:
            known.take_in(state[:, step + 1], incidence[:, step + 1], *span)
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
