"""Cox regression on virtual beside real people: which covariates, by how much coefficients differ, how intervals overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gemel.core.dataset import OCCURRED, PREVALENT
from gemel.synthetic.columns import Column
from gemel.synthetic.report.covariates import Covariate, covariates, matrix, predictors, share_missing
from gemel.synthetic.report.cox import CoxFit, cox
from gemel.synthetic.report.findings import Finding
from gemel.synthetic.report.measures import Limit, measured, untested
from gemel.synthetic.report.people_table import PeopleTable
from gemel.synthetic.report.survival import time_columns
from gemel.synthetic.report.thresholds import LEAST_INTERVAL_OVERLAP, MOST_COEFFICIENT_DIFFERENCE

BLOCK = "regression"
# The public rule of what goes into the model, all read off virtual people: known in four of five, had by one in twenty at least, and
# a covariate for each ten events (Peduzzi et al., J Clin Epidemiol 1995;48:1503), in the order of the domain.
_MOST_MISSING, _LEAST_SHARE, _EVENTS_OF_EACH = 0.2, 0.05, 10
# So small that it changes no coefficient by a hundredth of its error, and two columns that say the same still have a fit.
_RIDGE = 1e-3


def regression_rows(
    training: PeopleTable, holdout: PeopleTable, draws: Sequence[PeopleTable], *, internal: bool
) -> Iterator[Finding]:
    """Two rows for each outcome: differences of coefficients, and overlap of their intervals."""
    for column in time_columns(training):
        chosen = chosen_covariates(column, draws[0])
        measure = f"{column.title}: Cox coefficients per standard deviation, mean absolute difference"
        overlap = f"{column.title}: what 95 % intervals of Cox coefficients share of the narrower"
        if not chosen:
            for words, limit in ((measure, MOST_COEFFICIENT_DIFFERENCE), (overlap, LEAST_INTERVAL_OVERLAP)):
                detail = "too few events for a covariate"
                yield untested(BLOCK, words, f"{limit:g}", internal=internal, detail=detail)
            continue
        real = cox_of(column, training, chosen)
        held = cox_of(column, holdout, chosen)
        fits = [cox_of(column, draw, chosen) for draw in draws]
        names = sorted({covariate.column for covariate in chosen}, key=training.domain.names.index)
        detail = f"{len(chosen)} covariates: {', '.join(names)}"
        yield measured(
            BLOCK,
            measure,
            [difference(real, fit) for fit in fits],
            Limit(most=MOST_COEFFICIENT_DIFFERENCE),
            baseline=difference(real, held),
            against_chance=True,
            internal=internal,
            detail=detail,
        )
        yield measured(
            BLOCK,
            overlap,
            [interval_overlap(real, fit) for fit in fits],
            Limit(least=LEAST_INTERVAL_OVERLAP),
            baseline=interval_overlap(real, held),
            against_chance=True,
            internal=internal,
            detail=detail,
        )


def chosen_covariates(column: Column, virtual: PeopleTable) -> tuple[Covariate, ...]:
    """The covariates of an outcome's model, by the public rule."""
    names = [n for n in predictors(virtual) if share_missing(virtual, n) <= _MOST_MISSING]
    found = [c for c in covariates(virtual, names, least_share=_LEAST_SHARE) if not _is_missing(virtual, c)]
    return tuple(found[: _events(column, virtual) // _EVENTS_OF_EACH])


def enough_events(column: Column, people: PeopleTable, chosen: Sequence[Covariate]) -> bool:
    """Whether there are as many events as so many covariates need."""
    return _events(column, people) >= _EVENTS_OF_EACH * len(chosen)


def cox_of(column: Column, people: PeopleTable, chosen: Sequence[Covariate]) -> CoxFit:
    """The model of an outcome, of who did not have it before."""
    days, event = people.times(column.name)
    free = event != PREVALENT
    return cox(matrix(people, chosen)[free], days[free], event[free] == OCCURRED, ridge=_RIDGE)


def difference(one: CoxFit, other: CoxFit) -> float:
    """Mean absolute difference of the coefficients; NaN where one has no fit."""
    return float(np.abs(one.coefficients - other.coefficients).mean())


def interval_overlap(one: CoxFit, other: CoxFit) -> float:
    """The mean share of the narrower 95 % interval that lies within the other; NaN where one has no fit."""
    first, second = one.intervals, other.intervals
    common = np.minimum(first[:, 1], second[:, 1]) - np.maximum(first[:, 0], second[:, 0])
    narrower = np.minimum(np.ptp(first, axis=1), np.ptp(second, axis=1))
    return float(np.mean(np.maximum(common, 0) / narrower))


def _events(column: Column, people: PeopleTable) -> int:
    return int(np.count_nonzero(people.times(column.name)[1] == OCCURRED))


def _is_missing(virtual: PeopleTable, covariate: Covariate) -> bool:
    levels = virtual.domain.column(covariate.column).levels
    return covariate.level is not None and levels[covariate.level] == "missing"
