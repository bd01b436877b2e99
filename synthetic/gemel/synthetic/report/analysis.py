"""What an analysis of virtual cohorts may claim: estimates of several combined, with intervals that know of the noise.

An interval that takes virtual rows for patients covers the chance of drawing rows from a model, and nothing of how that model came
about. Here the whole of it is done again, many times, on people drawn from the model itself: draw as many as there were patients, count
them, add the noise, fit, draw. How estimates scatter over these repeats is what the chance among patients, the noise and the drawing
make together (a parametric bootstrap). It touches no patient and costs nothing. What it does not cover: what the model cannot
represent at all. Raab, Nowok & Dibben (2016) and Räisä et al. (NAPSU-MQ, 2023) treat parts of the same by formulas.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gemel.synthetic.columns import Column
from gemel.synthetic.report.attacks.membership import Generator
from gemel.synthetic.report.covariates import Covariate
from gemel.synthetic.report.findings import Finding
from gemel.synthetic.report.measures import measured
from gemel.synthetic.report.people_table import Floats, PeopleTable
from gemel.synthetic.report.regression import chosen_covariates, cox_of
from gemel.synthetic.report.survival import time_columns
from gemel.twins.evaluation.estimate import Z95

BLOCK = "analysis"
FEWEST_COHORTS = 20


@dataclass(frozen=True)
class Combined:
    """Estimates (p,) of several cohorts as one, with standard errors.

    Attributes:
        value: The mean over cohorts.
        naive_error: As if the rows of one cohort were patients.
        error: Of chance among patients, noise and drawing together; what the model cannot represent is not in it.
        pull: By how much estimates from cohorts of virtual people are off these people's own, on average: what noise and coarse tables
            do to the estimate. The value is not corrected for it.
    """

    value: Floats
    naive_error: Floats
    error: Floats
    pull: Floats

    @property
    def intervals(self) -> Floats:
        """95 % intervals (p, 2), wider by the pull."""
        width = Z95 * self.error + np.abs(self.pull)
        return np.stack([self.value - width, self.value + width], axis=1)


def combine(values: Floats, variances: Floats, repeated: Floats) -> Combined:
    """Combine an analysis of m cohorts of one model.

    Args:
        values: Estimates (m, p) of each cohort.
        variances: Their squared standard errors (m, p), rows taken for patients.
        repeated: The same estimates (r, p) of cohorts of fits to people drawn from the model (`repeat`).
    """
    value, between = values.mean(axis=0), values.var(axis=0, ddof=1)
    # A repeat has the chance of one drawing in it, the mean of m cohorts an m-th of that.
    whole = repeated.var(axis=0, ddof=1) - between * (1 - 1 / len(values))
    error = np.sqrt(np.maximum(whole, between / len(values)))
    return Combined(value, np.sqrt(variances.mean(axis=0)), error, repeated.mean(axis=0) - value)


def repeat(
    draws: Sequence[PeopleTable], generator: Generator, *, times: int, seed: int
) -> Iterator[PeopleTable]:
    """Cohorts of fits to people drawn from the model, as many as a draw has; each from other people and other noise."""
    random, domain = np.random.default_rng(seed), draws[0].domain
    pool = {name: np.concatenate([draw.codes[name] for draw in draws]) for name in domain.names}
    size = len(draws[0])
    for number in range(times):
        rows = random.integers(0, len(pool[domain.names[0]]), size)
        levels = generator({name: codes[rows] for name, codes in pool.items()}, seed + number)
        yield PeopleTable(domain, domain.decode_columns(levels, seed=seed + number))


def analysis_rows(
    draws: Sequence[PeopleTable],
    training: PeopleTable | None,
    generator: Generator,
    *,
    times: int = FEWEST_COHORTS,
    seed: int = 0,
    internal: bool,
) -> Iterator[Finding]:
    """For information: how much too narrow naive intervals are, and how often either kind holds what real patients say.

    Internal are those that real patients are in.
    """
    repeats = list(repeat(draws, generator, times=times, seed=seed))
    for column in time_columns(draws[0]):
        chosen = chosen_covariates(column, draws[0])
        if not chosen:
            continue
        values, variances = _coefficients(column, draws, chosen)
        combined = combine(values, variances, _coefficients(column, repeats, chosen)[0])
        measure = f"{column.title}: Cox coefficients"
        yield measured(
            BLOCK,
            f"{measure}: noise-aware over naive standard error, median",
            [float(np.median(combined.error / combined.naive_error))],
            internal=False,
            baseline=1.0,
            detail=f"{times} repeats of the whole mechanism on virtual people; {len(chosen)} coefficients",
        )
        yield measured(
            BLOCK,
            f"{measure}: pull of the mechanism, mean absolute",
            [float(np.abs(combined.pull).mean())],
            internal=False,
            baseline=0.0,
        )
        if training is not None:
            real = cox_of(column, training, chosen).coefficients
            yield measured(
                BLOCK,
                f"{measure}: share of real patients' within noise-aware 95 % intervals",
                [_share_within(real, combined.intervals)],
                internal=internal,
                baseline=_share_within(real, _naive(combined)),
                detail="beside it: within naive intervals",
            )


def _coefficients(
    column: Column, tables: Sequence[PeopleTable], chosen: Sequence[Covariate]
) -> tuple[Floats, Floats]:
    fits = [cox_of(column, table, chosen) for table in tables]
    values, variances = (
        np.stack([fit.coefficients for fit in fits]),
        np.stack([np.diag(fit.covariance) for fit in fits]),
    )
    return values, variances


def _naive(combined: Combined) -> Floats:
    width = Z95 * combined.naive_error
    return np.stack([combined.value - width, combined.value + width], axis=1)


def _share_within(values: Floats, intervals: Floats) -> float:
    if not np.isfinite(values).all():
        return math.nan
    return float(np.mean((intervals[:, 0] <= values) & (values <= intervals[:, 1])))
