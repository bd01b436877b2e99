"""Scores from released tables: what can be read from what a node let out, with errors that hold noise and sampling.

The tables are those of `gemel.twins.endpoint_tables`. The exact scores on individual data are in `gemel.twins.scores`;
they are no release.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemel.core.arrays import check_arrays
from gemel.core.programme import Endpoint, FeatureKind, Programme
from gemel.privacy.statistics.follow_up import concordant_and_pairs, squared_error
from gemel.twins.endpoint_tables import (
    EndpointTable,
    OutcomeTable,
    RiskTable,
    ValueTable,
    count_metric_tables,
    metric_tables,
    table_of,
)
from gemel.twins.reference_cohort import reference_values
from gemel.twins.twin import Twin

__all__ = [
    "ReleasedScores",
    "ReleasedTable",
    "Score",
    "count_metric_tables",
    "expected_risks",
    "loss_of",
    "metric_tables",
    "metrics_from_tables",
    "released_tables",
]

Floats = NDArray[np.float64]
REFERENCE_PATIENTS, LEAST_PREVALENCE = 3_000, 0.1
_DRAWS = 300


@dataclass(frozen=True)
class Score:
    """A number and its standard error: sampling of patients and privacy noise together."""

    value: float
    standard_error: float


# What a table says on one endpoint, by name: of a risk `auc_5y`, `brier_5y` for each horizon (`auc_182d` where it is no
# whole year) and, of an outcome, `integrated_brier`; of a value `rmse` and `mean_error` (predicted minus measured).
# Bins lower an AUC by up to 0.02 (measured with five), and raise an rmse by less than 0.41 bin widths: no error shows that.
# Calibration is not among them: see `gemel.twins.recalibration`.
ReleasedScores = Mapping[str, Score]


@dataclass(frozen=True)
class ReleasedTable:
    """One endpoint's released counts with 300 replicas of them, made by a fixed seed: sampling and noise.

    Attributes:
        counts: (rows, columns). replicas: (300, rows, columns).
        expected: Of a risk, what the twin predicts in each row at each horizon, (rows, horizons), at public reference
            patients; of a value, nothing.
    """

    table: EndpointTable
    counts: Floats
    replicas: Floats
    expected: Floats


def metrics_from_tables(
    twin: Twin,
    tables: Mapping[str, NDArray[np.integer]],
    *,
    noise_sigma: float,
    expected: Mapping[str, Floats] | None = None,
) -> dict[str, ReleasedScores]:
    """Scores of a released twin from (noisy, possibly summed) tables, by endpoint.

    `noise_sigma` is the standard deviation of the noise in each cell: of a sum over sites, the root of the sum of
    squares. Who was followed stands for who left, weighted by the inverse probability of being followed, taken
    from the table's own totals; the predicted risk of a bin is the twin's own at public reference patients. Standard
    errors come from 300 replicas (Poisson counts, with negative cells removed first, plus noise) by a fixed seed.
    `expected` is `expected_risks(twin)`, for whoever asks about many tables of one twin.
    Raises GEM403 when the tables are not the declared ones.
    """
    scores: dict[str, ReleasedScores] = {}
    for released in released_tables(twin, tables, noise_sigma=noise_sigma, expected=expected):
        point = _scores(released.table, released.counts, released.expected)
        spread = _scores(released.table, released.replicas, released.expected)
        scores[released.table.endpoint.name] = {
            name: Score(float(point[name]), float(np.std(spread[name]))) for name in point
        }
    return scores


def expected_risks(twin: Twin) -> dict[str, Floats]:
    """What the twin predicts in each row of each risk's table, (rows, horizons), at public reference patients."""
    programme = twin.programme
    prediction = twin.predict(_reference_patients(programme))
    tables = [table_of(programme, endpoint) for endpoint in programme.endpoints]
    return {
        table.endpoint.name: _expected_risk(table, prediction.risk(programme, table.endpoint))
        for table in tables
        if isinstance(table, RiskTable)
    }


def released_tables(
    twin: Twin,
    tables: Mapping[str, NDArray[np.integer]],
    *,
    noise_sigma: float,
    expected: Mapping[str, Floats] | None = None,
) -> Iterator[ReleasedTable]:
    """Each endpoint's table with its replicas, in the programme's order. Raises GEM403 for others than the declared ones."""
    programme = twin.programme
    check_arrays(dict(tables), metric_tables(programme))
    risks = expected_risks(twin) if expected is None else expected
    # By the programme's order: a dictionary read from a file is in the order of its names.
    for endpoint in programme.endpoints:
        table = table_of(programme, endpoint)
        counts = np.asarray(tables[endpoint.name], dtype=np.float64) * table.possible
        random = np.random.default_rng(0)
        replicas = random.poisson(_without_negatives(counts), (_DRAWS, *counts.shape))
        noise = noise_sigma * random.standard_normal(replicas.shape)
        none = np.zeros((0, 0))
        yield ReleasedTable(table, counts, replicas + noise * table.possible, risks.get(endpoint.name, none))


def loss_of(programme: Programme, endpoint: Endpoint, scores: ReleasedScores) -> Score:
    """One number from 0 to 1 to be made small: the (integrated) Brier score, or the squared error over the squared range."""
    table = table_of(programme, endpoint)
    if isinstance(table, RiskTable):
        return scores["integrated_brier" if endpoint.outcome else f"brier_{table.labels[0]}"]
    width = float(table.edges[-1] - table.edges[0])
    error = scores["rmse"]
    share = error.value / width
    return Score(share**2, 2 * share * error.standard_error / width)


def _scores(table: EndpointTable, counts: Floats, expected: Floats) -> dict[str, Floats]:
    """Scores (...) of tables (..., rows, columns).

    All sums are linear in the cells, so noise of mean zero moves no score systematically.
    """
    if isinstance(table, ValueTable):
        return _of_values(table, counts)
    if not isinstance(table, RiskTable):
        raise TypeError(f"{table.endpoint.name} has a table of no known kind")
    scores: dict[str, Floats] = {}
    for i, label in enumerate(table.labels):
        cases, controls = table.cases_and_controls(counts, i)
        right, pairs = concordant_and_pairs(cases, controls)
        scores[f"auc_{label}"] = np.clip(right / np.maximum(pairs, 1.0), 0, 1)
        everyone = np.maximum((cases + controls).sum(axis=-1), 1.0)
        scores[f"brier_{label}"] = squared_error(cases, controls, expected[:, i]) / everyone
    if isinstance(table, OutcomeTable):
        shares = _shares_of_the_integral(table)
        parts = [share * scores[f"brier_{label}"] for share, label in zip(shares, table.labels, strict=True)]
        scores["integrated_brier"] = np.sum(parts, axis=0)
    return scores


def _shares_of_the_integral(table: OutcomeTable) -> Floats:
    """By how much the Brier score at each horizon enters the mean over the grid's steps up to the last one.

    The score between the horizons is taken from straight lines through it, from 0 at the start on.
    """
    programme, days = table.programme, table.endpoint.horizons_days
    times = np.array(programme.times_years[: programme.step_at(days[-1]) + 1])
    knots = np.array([0.0, *(programme.times_years[programme.step_at(day)] for day in days)])
    lines = [np.interp(times[1:], knots, row) for row in np.eye(len(knots))[1:]]
    shares: Floats = np.average(lines, axis=1, weights=np.diff(times))
    return shares


def _of_values(table: ValueTable, counts: Floats) -> dict[str, Floats]:
    """From the middles of the bins; who was not measured is left out."""
    measured, middle = counts[..., :-1], table.middles
    error = middle[:, None] - middle[None, :]
    people = np.maximum(measured.sum(axis=(-1, -2)), 1.0)
    squared = (measured * error**2).sum(axis=(-1, -2)) / people
    return {
        "rmse": np.sqrt(np.maximum(squared, 0)),
        "mean_error": np.asarray((measured * error).sum(axis=(-1, -2)) / people),
    }


def _without_negatives(counts: Floats) -> Floats:
    """The nearest table (rows, columns) without negative cells that keeps each column's total."""
    total = np.maximum(counts.sum(axis=-2, keepdims=True), 0)
    descending = -np.sort(-counts, axis=-2)
    rank = np.arange(1, counts.shape[-2] + 1)[:, None]
    excess = (np.cumsum(descending, axis=-2) - total) / rank
    kept = np.maximum((descending > excess).sum(axis=-2, keepdims=True), 1)
    projected: Floats = np.maximum(counts - np.take_along_axis(excess, kept - 1, axis=-2), 0)
    return projected


def _expected_risk(table: RiskTable, risk: Floats) -> Floats:
    """Predicted risk (rows, horizons) of each row, from that of public reference patients (n, horizons)."""
    bins, horizons = table.rows(risk[:, -1]), np.array(table.horizons_years)
    middle = (table.edges[1:] + table.edges[:-1]) / 2
    expected: Floats = middle[:, None] * horizons / horizons[-1]
    for b in range(len(middle)):
        if (mine := (bins == b) & (risk[:, -1] > 0)).any():
            expected[b] = risk[mine].mean(axis=0)
    return expected


def _reference_patients(programme: Programme) -> NDArray[np.float32]:
    """People by the programme's public reference numbers; what is recorded of nobody there is of one in ten."""
    rare = {
        feature.name: max(float(feature.reference_mean), LEAST_PREVALENCE)
        for feature in programme.columns
        if feature.kind is FeatureKind.PRESENT
    }
    return reference_values(programme, REFERENCE_PATIENTS, seed=0, prevalence=rare)
