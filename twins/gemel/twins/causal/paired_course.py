"""One patient under two plans, many times over with the same luck: what differs is the plan alone.

The shares of futures in which only one plan brings the event depend on how luck is shared between two worlds of which only one
is ever seen. No data can tell that; what the two risks alone allow (Fréchet bounds) is given beside them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemel.core.programme import DAYS_PER_YEAR, Endpoint, Programme, TargetKind
from gemel.twins.causal.estimand import horizons_of, is_mean
from gemel.twins.prediction import SimulatedCourse
from gemel.twins.treatment_plan import TreatmentPlan
from gemel.twins.twin import Twin

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PairedDifference:
    """What simulated pairs of futures show at one horizon of one endpoint.

    Attributes:
        paths: How many pairs there were (of a measured value: in which the patient lived in both).
        difference, error: Mean of the pairs' differences, and the error of having so many pairs only.
        low, high: Of a measured value: between what 90 of 100 differences lie. None for an event.
        only_here, only_there: Of an event: the share of futures in which the plan alone brings it, or the other alone.
        fewest_only_there, most_only_there: Between what `only_there` must lie, whatever the luck they share.
    """

    endpoint: str
    horizon_days: int
    paths: int
    difference: float
    error: float
    low: float | None = None
    high: float | None = None
    only_here: float | None = None
    only_there: float | None = None
    fewest_only_there: float | None = None
    most_only_there: float | None = None


def paired_differences(
    twin: Twin,
    values: NDArray[np.floating],
    plan: TreatmentPlan,
    other_plan: TreatmentPlan,
    *,
    paths: int,
    seed: int,
) -> tuple[PairedDifference, ...]:
    """Simulate one patient, raw values (1, d), `paths` times under each plan with the same noise: each endpoint and horizon."""
    here = twin.simulate(values, seed=seed, plan=plan, paths=paths)
    there = twin.simulate(values, seed=seed, plan=other_plan, paths=paths)
    programme = twin.programme
    return tuple(
        _compared(programme, endpoint, day, observed(programme, endpoint, day, here), there)
        for endpoint in programme.endpoints
        for day in horizons_of(programme, endpoint)
        if endpoint.outcome or endpoint.target in here.targets
    )


def observed(programme: Programme, endpoint: Endpoint, day: int, course: SimulatedCourse) -> Floats:
    """What a simulated course shows of an endpoint at a day, (n,): 1 or 0 of an event, the value of a measured one; NaN: not seen."""
    if endpoint.outcome:
        j = programme.outcome_names.index(endpoint.outcome)
        # Half a second: times are float32 years.
        by = course.time_years[:, j].astype(np.float64) <= (day + 5e-3) / DAYS_PER_YEAR
        shown = np.where(course.event[:, j] == 1, by, 0.0)
        return np.where(course.event[:, j] == -1, np.nan, shown).astype(np.float64)
    target = next(t for t in programme.targets if t.name == endpoint.target)
    value = np.asarray(course.targets[target.name], np.float64)
    if target.kind is TargetKind.VALUE_AT:
        return value
    least = endpoint.at_least if target.kind is TargetKind.ORDINAL else 1
    reached = np.where(np.isnan(value), np.nan, value >= least)
    if endpoint.with_death:
        died = (course.event[:, 0] == 1) & (
            course.time_years[:, 0].astype(np.float64) <= (day + 5e-3) / DAYS_PER_YEAR
        )
        reached = np.where(died, 1.0, reached)
    return reached


def _compared(
    programme: Programme, endpoint: Endpoint, day: int, here: Floats, other: SimulatedCourse
) -> PairedDifference:
    there = observed(programme, endpoint, day, other)
    seen = np.isfinite(here) & np.isfinite(there)
    each = here[seen] - there[seen]
    pairs = len(each)
    mean = float(each.mean()) if pairs else float("nan")
    error = float(each.std(ddof=1) / np.sqrt(pairs)) if pairs > 1 else float("nan")
    if is_mean(programme, endpoint):
        low, high = np.quantile(each, [0.05, 0.95]) if pairs else (np.nan, np.nan)
        return PairedDifference(endpoint.name, day, pairs, mean, error, float(low), float(high))
    if not pairs:
        return PairedDifference(endpoint.name, day, 0, mean, error)
    risk, other_risk = float(here[seen].mean()), float(there[seen].mean())
    return PairedDifference(
        endpoint.name,
        day,
        pairs,
        mean,
        error,
        only_here=float((each > 0).mean()),
        only_there=float((each < 0).mean()),
        fewest_only_there=max(0.0, other_risk - risk),
        most_only_there=min(other_risk, 1 - risk),
    )
