"""Reading how well a score predicts: AUC, Brier score, C-index and calibration, all from one noisy table."""

from __future__ import annotations

import itertools

import msgspec
import numpy as np
from numpy.typing import NDArray

from gemel.core.statistic_request import STATUSES_OF_PREDICTION, PredictionRequest
from gemel.privacy.statistics.follow_up import (
    cases_and_controls,
    concordant_and_pairs,
    squared_error,
)
from gemel.privacy.statistics.uncertainty import Estimate, ratio_estimate, spread

Floats = NDArray[np.float64]


class CalibrationBin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Observed against predicted risk of the patients whose score is in a bin."""

    low: float
    high: float
    predicted: float
    observed: Estimate


class PredictionResult(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="prediction"
):
    """What the table says at the horizon; None for what a score or an outcome of its kind does not have.

    `c_index` is Harrell's, of pairs whose first event is by the horizon; a death by something else censors there, and
    is a control for AUC, Brier score and calibration.
    """

    name: str
    auc: Estimate
    brier: Estimate | None
    c_index: Estimate | None
    calibration: tuple[CalibrationBin, ...]


def read_prediction(request: PredictionRequest, table: Floats, sigma: float) -> PredictionResult:
    """Every measure is a ratio of two sums over the table: limits by Fieller, covariances by `spread`."""
    edges = request.score.edges
    middle = [(a + b) / 2 for a, b in itertools.pairwise(edges)]
    predicted = np.array(request.predicted or middle)
    intervals = len(request.edges_years) - 1

    def sums(counts: Floats) -> Floats:
        return _sums(counts, predicted, intervals, sigma**2)

    value, sampling, noise = spread(sums, table[:-1], sigma)
    covariance = sampling + noise

    def ratio(i: int) -> Estimate:
        pair = slice(2 * i, 2 * i + 2)
        above, below = value[pair].tolist()
        return ratio_estimate(above, below, covariance[pair, pair], least=0.0, most=1.0)

    return PredictionResult(
        name=request.name,
        auc=ratio(0),
        brier=ratio(1) if request.is_risk else None,
        c_index=ratio(2) if intervals > 0 else None,
        calibration=tuple(
            CalibrationBin(
                low=edges[b], high=edges[b + 1], predicted=float(predicted[b]), observed=ratio(3 + b)
            )
            for b in range(len(predicted))
        ),
    )


def _sums(counts: Floats, predicted: Floats, intervals: int, noise_variance: float) -> Floats:
    """Numerators and denominators (..., 2 x (3 + bins)), in turn, of tables (..., bins, statuses)."""
    cases, controls = (
        cases_and_controls(counts, intervals - 1) if intervals > 0 else (counts[..., 0], counts[..., 1])
    )
    both = cases + controls
    measures = [
        concordant_and_pairs(cases, controls),
        (squared_error(cases, controls, predicted), both.sum(axis=-1)),
        _concordance(counts, intervals, noise_variance),
        *((cases[..., b], both[..., b]) for b in range(len(predicted))),
    ]
    return np.stack([part for pair in measures for part in pair], axis=-1)


def _concordance(counts: Floats, intervals: int, noise_variance: float) -> tuple[Floats, Floats]:
    """Harrell's pairs: an event, and whoever was followed beyond it; of those whose time ends in the same interval, half.

    Nobody is a pair with themselves, and the square of a noisy count is too large by the noise's variance: both go.
    """
    concordant, pairs = np.zeros(counts.shape[:-2]), np.zeros(counts.shape[:-2])
    for i in range(intervals):
        start = STATUSES_OF_PREDICTION * i
        event = counts[..., start]
        ending = counts[..., start : start + STATUSES_OF_PREDICTION].sum(axis=-1)
        later = counts[..., start + STATUSES_OF_PREDICTION :].sum(axis=-1) + ending / 2
        right, all_pairs = concordant_and_pairs(event, later)
        alone = (event + noise_variance).sum(axis=-1) / 2
        concordant, pairs = concordant + right - alone / 2, pairs + all_pairs - alone
    return concordant, pairs
