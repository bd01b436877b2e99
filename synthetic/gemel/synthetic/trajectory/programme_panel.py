"""A programme's public panel, and a data set's histories in it."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.programme import DAYS_PER_YEAR, Programme, VisitPlan
from gemel.synthetic.trajectory.histories import NO_VISIT, NOT_MEASURED, Field, Histories, Levels, Panel


def panel_of(programme: Programme) -> Panel:
    """What the programme declares of visits. Raises GEM730 where it declares none."""
    plan = declared_visits(programme)
    return Panel(
        strata=math.prod(len(stratum.cuts) + 1 for stratum in plan.strata),
        fields=tuple(Field(field.series, (NOT_MEASURED, *_middles(field.edges))) for field in plan.fields),
        visits=plan.visits,
        days_between=plan.days_between,
    )


def declared_visits(programme: Programme) -> VisitPlan:
    """The programme's plan of visits. Raises GEM730 where there is none."""
    if programme.visits is None:
        raise GemelError(
            "GEM730", f"{programme.name} declares no visits: none can be learnt from its data sets."
        )
    return programme.visits


def strata_of(programme: Programme, values: NDArray[np.floating]) -> Levels:
    """The stratum (n,) of raw values (n, d): how a virtual cohort's patients become baselines of its panel."""
    strata = np.zeros(len(values), np.int64)
    for stratum in declared_visits(programme).strata:
        column = values[:, programme.feature_names.index(stratum.feature)].astype(np.float64)
        known = np.where(np.isnan(column), -np.inf, column)
        strata = strata * (len(stratum.cuts) + 1) + np.digitize(known, stratum.cuts)
    return strata


def histories_of(programme: Programme, dataset: Dataset) -> Histories:
    """The patients of a data set in the programme's panel. Nothing of one patient depends on another.

    Everybody has the first visit, the period from the index date on, and one more for each period that their follow-up
    reaches. Raises GEM730, and GEM103 for a data set without the series.
    """
    plan, panel = declared_visits(programme), panel_of(programme)
    followed = dataset.time_years[:, 0].astype(np.float64) * DAYS_PER_YEAR
    reached = np.clip(np.floor(followed / plan.days_between), 0, panel.visits - 1)
    here = np.arange(panel.visits)[None, :] <= reached[:, None]
    levels = np.zeros((len(dataset), panel.visits, len(panel.fields)), np.int64)
    for number, field in enumerate(plan.fields):
        if field.series not in dataset.series:
            raise GemelError("GEM103", f"The data set has no series {field.series}.")
        levels[:, :, number] = _last_of_each_period(dataset, field.series, field.edges, plan)
    levels[~here] = NO_VISIT
    return Histories(panel, strata_of(programme, dataset.values), levels)


def _last_of_each_period(dataset: Dataset, name: str, edges: tuple[float, ...], plan: VisitPlan) -> Levels:
    """(n, visits): 0 where nothing was measured in the period, else one more than the number of its last value's bin."""
    series = dataset.series[name]
    found = np.zeros((len(dataset), plan.visits), np.int64)
    patient = np.repeat(np.arange(len(dataset)), series.lengths)
    period = np.floor(series.days.astype(np.float64) / plan.days_between).astype(np.int64)
    inside = (period >= 0) & (period < plan.visits) & np.isfinite(series.values)
    bins = np.digitize(series.values, edges[1:-1]) + 1
    # Runs are sorted by day: of several in a period the last one stays.
    found[patient[inside], period[inside]] = bins[inside]
    return found


def _middles(edges: tuple[float, ...]) -> tuple[float, ...]:
    return tuple((low + high) / 2 for low, high in pairwise(edges))
