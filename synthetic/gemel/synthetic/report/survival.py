"""Survival of virtual beside real people: curves, mean times, the log-rank test of both as one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gemel.core.dataset import OCCURRED, PREVALENT
from gemel.synthetic.columns import Column, Times
from gemel.synthetic.report.findings import Finding
from gemel.synthetic.report.measures import Limit, measured
from gemel.synthetic.report.people_table import Floats, PeopleTable
from gemel.synthetic.report.thresholds import MOST_CURVE_DIFFERENCE, MOST_MEAN_TIME_DIFFERENCE

BLOCK = "survival"
_STEPS = 120
# A curve is read as long as enough are still observed: a tenth of a group (Pocock et al., Lancet 2002;359:1686), and twenty people.
_LEAST_AT_RISK, _FEWEST_AT_RISK = 0.1, 20


def survival_rows(
    training: PeopleTable, holdout: PeopleTable, draws: Sequence[PeopleTable], *, internal: bool
) -> Iterator[Finding]:
    """The rows of each outcome, over the time in which enough people of every group are observed."""
    for column in time_columns(training):
        name = column.title
        of_draws = [compare(column, training, draw) for draw in draws]
        of_holdout = compare(column, training, holdout)
        until = min(days for *_, days in (*of_draws, of_holdout))
        detail = f"to day {until:.0f}"
        yield measured(
            BLOCK,
            f"{name}: largest difference of the curves",
            [curve for curve, *_ in of_draws],
            Limit(most=MOST_CURVE_DIFFERENCE),
            baseline=of_holdout[0],
            against_chance=True,
            internal=internal,
            detail=detail,
        )
        yield measured(
            BLOCK,
            f"{name}: restricted mean time without it, relative difference",
            [mean for _, mean, _ in of_draws],
            Limit(most=MOST_MEAN_TIME_DIFFERENCE),
            baseline=of_holdout[1],
            against_chance=True,
            internal=internal,
            detail=detail,
        )
        whole = [compare(column, training, draw, share=0.0) for draw in draws]
        yield measured(
            BLOCK,
            f"{name}: largest difference of the curves as long as {_FEWEST_AT_RISK} people are observed",
            [curve for curve, *_ in whole],
            baseline=compare(column, training, holdout, share=0.0)[0],
            internal=internal,
            detail=f"to day {min(days for *_, days in whole):.0f}",
        )
        yield measured(
            BLOCK,
            f"{name}: p of the log-rank test, virtual against real",
            [log_rank(_at_risk(column, training), _at_risk(column, draw)) for draw in draws],
            baseline=log_rank(_at_risk(column, training), _at_risk(column, holdout)),
            internal=internal,
            detail="as if virtual rows were patients",
        )


def time_columns(people: PeopleTable) -> tuple[Column, ...]:
    """The outcomes with a time."""
    return tuple(column for column in people.domain.columns if isinstance(column.form, Times))


def time_grid(column: Column) -> Floats:
    """Days from 0 to the public horizon of an outcome, evenly."""
    form = column.form
    return np.linspace(0, float(form.span[1].max()) if isinstance(form, Times) else 0.0, _STEPS + 1)


def compare(
    column: Column, real: PeopleTable, other: PeopleTable, *, share: float = _LEAST_AT_RISK
) -> tuple[float, float, float]:
    """(largest difference of the curves, relative difference of the mean times, the day up to which both are observed).

    Curves are read while at least this share of both groups is at risk.
    NaN where nobody is observed for long enough to tell.
    """
    grid = time_grid(column)
    sides = [kaplan_meier(*people.times(column.name), grid) for people in (real, other)]
    observed = np.all([enough_at_risk(present, share) for _, present in sides], axis=0)
    days = grid[observed]
    if len(days) < 2:
        return math.nan, math.nan, 0.0
    first, second = (share[observed] for share, _ in sides)
    means = [float(np.trapezoid(share, days)) for share in (first, second)]
    return float(np.abs(first - second).max()), abs(means[1] - means[0]) / means[0], float(days[-1])


def enough_at_risk(present: Floats, share: float = _LEAST_AT_RISK) -> NDArray[np.bool_]:
    """Where a curve is read, by how many are at risk at each day, all at the first."""
    return np.greater_equal(present, max(_FEWEST_AT_RISK, share * float(present[0])))


def kaplan_meier(days: Floats, event: NDArray[np.integer], grid: Floats) -> tuple[Floats, Floats]:
    """(share still free of the event, number at risk) at each day of the grid; who had it before is left out.

    Kaplan & Meier 1958; those censored at a time are at risk of the events of that time.
    """
    free = event != PREVALENT
    time, occurred = np.asarray(days, np.float64)[free], event[free] == OCCURRED
    moments, events = np.unique(time[occurred], return_counts=True)
    ordered = np.sort(time)
    remaining = len(ordered) - np.searchsorted(ordered, moments, side="left")
    survival = np.concatenate([[1.0], np.cumprod(1.0 - events / remaining)])
    present = len(ordered) - np.searchsorted(ordered, grid, side="left")
    return survival[np.searchsorted(moments, grid, side="right")], present.astype(np.float64)


def log_rank(one: tuple[Floats, NDArray[np.bool_]], other: tuple[Floats, NDArray[np.bool_]]) -> float:
    """p of the two-sided log-rank test of two groups of (days (n,), occurred (n,)); NaN where nothing occurred.

    Mantel 1966: observed minus expected events of the first group, over all times, with the hypergeometric variance.
    """
    times = np.unique(np.concatenate([days[occurred] for days, occurred in (one, other)]))
    at_risk, events = [], []
    for days, occurred in (one, other):
        at_risk.append(len(days) - np.searchsorted(np.sort(days), times, side="left"))
        happened = np.sort(days[occurred])
        events.append(
            np.searchsorted(happened, times, side="right") - np.searchsorted(happened, times, side="left")
        )
    risk, seen = at_risk[0] + at_risk[1], events[0] + events[1]
    share = at_risk[0] / np.maximum(risk, 1)
    variance = seen * share * (1 - share) * (risk - seen) / np.maximum(risk - 1, 1)
    if variance.sum() <= 0:
        return math.nan
    z = float((events[0] - seen * share).sum() / math.sqrt(variance.sum()))
    return math.erfc(abs(z) / math.sqrt(2))


def _at_risk(column: Column, people: PeopleTable) -> tuple[Floats, NDArray[np.bool_]]:
    """Days and whether it occurred, of who did not have it before."""
    days, event = people.times(column.name)
    free = event != PREVALENT
    return days[free], event[free] == OCCURRED
