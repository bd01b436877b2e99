"""How well virtual people can be told from real ones, for information: by what is known of everybody, one by one.

It sees how values lie within their public bins and how missing ones are written, so that no cohort of public bins looks real:
nothing is decided by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from gemel.synthetic.report.covariates import covariates, matrix, predictors
from gemel.synthetic.report.findings import Finding
from gemel.synthetic.report.logistic import logistic
from gemel.synthetic.report.measures import measured
from gemel.synthetic.report.people_table import PeopleTable

BLOCK = "telling apart"


def telling_apart_rows(
    training: PeopleTable, holdout: PeopleTable, draws: Sequence[PeopleTable], *, internal: bool
) -> Iterator[Finding]:
    """One row for information."""
    yield measured(
        BLOCK,
        "propensity score: mean squared error over what chance alone makes (pMSE ratio)",
        [error_ratio(training, draw) for draw in draws],
        internal=internal,
        baseline=error_ratio(training, holdout),
    )


def error_ratio(real: PeopleTable, other: PeopleTable) -> float:
    """The pMSE of a logistic regression of "virtual", over its expectation where both are of one law (Snoke et al., JRSS A 2018)."""
    names = predictors(real)
    chosen = covariates(real, names)
    columns = np.concatenate([matrix(real, chosen), matrix(other, chosen)])
    is_other = np.arange(len(columns)) >= len(real)
    share = float(is_other.mean())
    chance = logistic(columns, is_other).chance(columns)
    expected = len(chosen) * (1 - share) ** 2 * share / len(columns)
    return float(np.square(chance - share).mean() / expected) if chosen else math.nan
