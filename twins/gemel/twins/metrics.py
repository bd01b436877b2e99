"""Scores from released tables: what a node may let out, noised and charged, and what can be read from it.

One table per scored outcome: predicted 10-year risk bin x what became of the patient. A patient not at risk is in no
cell, every other in exactly one, so adding or removing a patient changes each table by at most 1 in one cell. The
exact scores on individual data are in `gemel.twins.scores`; they are no release.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gemel.core.arrays import ArraySpec, check_arrays
from gemel.core.dataset import CENSORED, OCCURRED, Dataset
from gemel.core.programme import FeatureKind, Programme
from gemel.privacy.statistics.follow_up import (
    cases_and_controls,
    concordant_and_pairs,
    interval_status,
    squared_error,
)
from gemel.twins.scores import at_risk

if TYPE_CHECKING:
    from gemel.twins.hazard import HazardTwin

Floats = NDArray[np.float64]
# Each further table costs every patient privacy; the noise for each cell is lowest with two.
SCORED_OUTCOMES = 2
HORIZONS_YEARS = (5, 10)
# Public edges of the predicted 10-year risk, about one doubling each; nothing is fitted to the risks at hand.
# Few, because every cell is noised: twice as many low-risk bins made the standard errors twice as large (measured).
RISK_EDGES = (0.0, 0.05, 0.1, 0.2, 0.4, 1.0)
# For each interval (0, 5] and (5, 10] years: the outcome, death before it, follow-up ended; then: beyond 10 years.
STATUSES = ("case_5", "died_first_5", "left_5", "case_10", "died_first_10", "left_10", "beyond_10")
# Few patients are older: they would make the highest bin look worse than its patients are.
OLDEST_REFERENCE_AGE = 85
_DRAWS = 300


@dataclass(frozen=True)
class Score:
    """A number and its standard error: sampling of patients and privacy noise together."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class ReleasedScores:
    """What the tables say on one outcome. Bins lower an AUC by up to 0.02 (measured), which no error shows.

    Calibration is not among them: five bins cannot tell a miscalibrated twin from the spread within a bin.
    """

    auc_5y: Score
    auc_10y: Score
    brier_5y: Score
    brier_10y: Score
    integrated_brier: Score


def metric_tables(programme: Programme) -> dict[str, ArraySpec]:
    """The declared tables, int64 (risk bins, statuses), by outcome name; sensitivity 1 each."""
    shape = (len(RISK_EDGES) - 1, len(STATUSES))
    return {outcome.name: ArraySpec(shape, "int64") for outcome in programme.outcomes[:SCORED_OUTCOMES]}


def count_metric_tables(
    programme: Programme, risk: NDArray[np.floating], dataset: Dataset
) -> dict[str, NDArray[np.int64]]:
    """Count the tables, exactly: add noise before they leave.

    `risk` is the cumulative incidence (n, horizon + 1, k) that the twin predicts for these patients.
    """
    tables: dict[str, NDArray[np.int64]] = {}
    for j, name in enumerate(metric_tables(programme)):
        mine = at_risk(dataset, j)
        # Clipping first: a risk that is 1 + 1e-9, or not a number, must not fall out of every cell.
        predicted = np.clip(np.nan_to_num(risk[:, HORIZONS_YEARS[-1], j]), 0, 1)
        bins = np.digitize(predicted, RISK_EDGES[1:-1])
        cells = (bins * len(STATUSES) + _status(dataset, j))[mine]
        counts = np.bincount(cells, minlength=(len(RISK_EDGES) - 1) * len(STATUSES))
        tables[name] = counts.reshape(len(RISK_EDGES) - 1, len(STATUSES)).astype(np.int64)
    return tables


def metrics_from_tables(
    twin: HazardTwin, tables: Mapping[str, NDArray[np.integer]], *, noise_sigma: float
) -> dict[str, ReleasedScores]:
    """Scores of a released twin from (noisy, possibly summed) tables, by outcome.

    `noise_sigma` is the standard deviation of the noise in each cell: of a sum over sites, the root of the sum of
    squares. Who was followed stands for who left, weighted by the inverse probability of being followed, taken
    from the table's own totals; the predicted risk of a bin is the twin's own at public reference patients. Standard
    errors come from 300 replicas (Poisson counts, with negative cells removed first, plus noise) by a fixed seed.
    Raises GEM403 when the tables are not the declared ones.
    """
    scores: dict[str, ReleasedScores] = {}
    for name, counts, replicas, expected in metric_replicas(twin, tables, noise_sigma=noise_sigma):
        point, spread = _scores(counts, expected), _scores(replicas, expected)
        scores[name] = ReleasedScores(
            **{key: Score(float(point[key]), float(np.std(spread[key]))) for key in point}
        )
    return scores


def metric_replicas(
    twin: HazardTwin, tables: Mapping[str, NDArray[np.integer]], *, noise_sigma: float
) -> list[tuple[str, Floats, Floats, Floats]]:
    """By outcome: its table (bins, statuses), 300 replicas of it with noise, the twin's risk in each bin (bins, 2).

    Raises GEM403 when the tables are not the declared ones.
    """
    check_arrays(dict(tables), metric_tables(twin.programme))
    found: list[tuple[str, Floats, Floats, Floats]] = []
    # By the programme's order: a dictionary read from a file is in the order of its names.
    for j, name in enumerate(metric_tables(twin.programme)):
        # Nobody dies before death: what is in those cells is noise, and known to be.
        possible = np.array([j > 0 or not status.startswith("died_first") for status in STATUSES])
        counts = np.asarray(tables[name], dtype=np.float64) * possible
        random = np.random.default_rng(0)
        replicas = random.poisson(_without_negatives(counts), (_DRAWS, *counts.shape))
        noise = noise_sigma * random.standard_normal(replicas.shape)
        found.append((name, counts, replicas + noise * possible, _expected_risk(twin, j)))
    return found


def _status(dataset: Dataset, outcome: int) -> NDArray[np.int64]:
    time, event = dataset.time_years[:, outcome], dataset.event[:, outcome]
    died_first = (event == CENSORED) & (dataset.event[:, 0] == OCCURRED) & (outcome != 0)
    kind = np.where(event == OCCURRED, 0, np.where(died_first, 1, 2))
    return interval_status(time, kind.astype(np.int64), HORIZONS_YEARS, kinds=3)


def _scores(counts: Floats, expected: Floats) -> dict[str, Floats]:
    """Scores (...) of tables (..., bins, statuses), given the predicted risk (bins, 2) at 5 and 10 years.

    All sums are linear in the cells, so noise of mean zero moves no score systematically.
    """
    scores: dict[str, Floats] = {}
    for i, years in enumerate(HORIZONS_YEARS):
        cases, controls = cases_and_controls(counts, i)
        right, pairs = concordant_and_pairs(cases, controls)
        scores[f"auc_{years}y"] = np.clip(right / np.maximum(pairs, 1.0), 0, 1)
        everyone = np.maximum((cases + controls).sum(axis=-1), 1.0)
        scores[f"brier_{years}y"] = squared_error(cases, controls, expected[:, i]) / everyone
    # The mean over the years 1 to 10 of straight lines through the score at 0, 5 and 10 years.
    scores["integrated_brier"] = 0.5 * scores["brier_5y"] + 0.3 * scores["brier_10y"]
    return scores


def _without_negatives(counts: Floats) -> Floats:
    """The nearest table (bins, statuses) without negative cells that keeps each status' total."""
    total = np.maximum(counts.sum(axis=-2, keepdims=True), 0)
    descending = -np.sort(-counts, axis=-2)
    rank = np.arange(1, counts.shape[-2] + 1)[:, None]
    excess = (np.cumsum(descending, axis=-2) - total) / rank
    kept = np.maximum((descending > excess).sum(axis=-2, keepdims=True), 1)
    projected: Floats = np.maximum(counts - np.take_along_axis(excess, kept - 1, axis=-2), 0)
    return projected


def _expected_risk(twin: HazardTwin, outcome: int) -> Floats:
    """Predicted risk (bins, 2) at 5 and 10 years of each bin, from the twin at public reference patients."""
    incidence = twin.predict(_reference_patients(twin.programme)).cumulative_incidence[:, :, outcome]
    risk = incidence[:, list(HORIZONS_YEARS)]
    bins = np.digitize(risk[:, -1], RISK_EDGES[1:-1])
    middle = (np.array(RISK_EDGES[1:]) + np.array(RISK_EDGES[:-1])) / 2
    expected = np.stack([middle / 2, middle], axis=1)
    for b in range(len(middle)):
        if (mine := (bins == b) & (risk[:, -1] > 0)).any():
            expected[b] = risk[mine].mean(axis=0)
    return expected


def _reference_patients(programme: Programme) -> Floats:
    """Every whole age x sex x (no history | one history), measurements at their public reference mean."""
    kinds = [feature.kind for feature in programme.features]
    base = np.array(
        [
            0.0 if kind is FeatureKind.PRESENT else f.reference_mean
            for kind, f in zip(kinds, programme.features, strict=True)
        ]
    )
    rows = [base]
    rows += [
        base + (np.arange(len(kinds)) == i) for i, kind in enumerate(kinds) if kind is FeatureKind.PRESENT
    ]
    patients = np.array(rows)
    for i, feature in enumerate(programme.features):
        if feature.kind is FeatureKind.MALE:
            patients = np.concatenate([_with(patients, i, sex) for sex in (0.0, 1.0)])
        if feature.kind is FeatureKind.AGE:
            ages = np.arange(np.ceil(feature.low), min(feature.high, OLDEST_REFERENCE_AGE) + 1)
            patients = np.concatenate([_with(patients, i, float(age)) for age in ages])
    return patients


def _with(patients: Floats, column: int, value: float) -> Floats:
    changed = patients.copy()
    changed[:, column] = value
    return changed
