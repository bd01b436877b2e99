"""Whether patients, or how well they are predicted, changed between two times at one hospital: flags by a stated rule.

Both are exact local numbers: they stay there. Two sets of different patients are compared, so the errors are independent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from gemel.core.dataset import Dataset
from gemel.core.programme import Feature, FeatureKind, Programme
from gemel.twins.evaluation.estimate import Z95, Estimate
from gemel.twins.evaluation.evaluation import Evaluation, RiskEvaluation, ValueEvaluation, check_dataset
from gemel.twins.evaluation.subgroups import ACCEPTED

ACCEPTED_SHIFT = 0.25  # of a feature's public scale
ACCEPTED_SHARE = 0.1  # of patients
ACCEPTED_LOSS = 0.03  # of AUC
ACCEPTED_GROWTH = 1.1  # of a root mean squared error
RULE = (
    "A feature is flagged when its mean moved by more than a quarter of its public scale (of a flag: the share by more than 10 points), "
    "or the share that lacks it by more than 10 points. An endpoint is flagged when observed over expected moved by more than a tenth, "
    "when the AUC fell by more than 0.03, or when a root mean squared error grew by more than a tenth. In each case the 95 % interval "
    "of the change, widened for the number of comparisons (Bonferroni), must exclude no change."
)
_FLAGS = (FeatureKind.MALE, FeatureKind.PRESENT)


@dataclass(frozen=True)
class FeatureDrift:
    """How a feature changed: `shift` in units of its public scale (of a flag: of its share), `lacking` of the share without it."""

    feature: str
    shift: Estimate
    lacking: Estimate
    flagged: bool


@dataclass(frozen=True)
class EndpointDrift:
    """How the scores of an endpoint changed: `ratio` is observed over expected (or the error) now over then."""

    endpoint: str
    day: int
    ratio: Estimate
    auc: Estimate
    flagged: bool


def input_drift(programme: Programme, then: Dataset, now: Dataset) -> tuple[FeatureDrift, ...]:
    """Of each feature, from two data sets of the programme. Raises GEM630 for another's."""
    for dataset in (then, now):
        check_dataset(programme, dataset)
    compared = 2 * len(programme.columns)
    return tuple(
        _feature(feature, then.values[:, i], now.values[:, i], compared)
        for i, feature in enumerate(programme.columns)
    )


def performance_drift(then: Evaluation, now: Evaluation) -> tuple[EndpointDrift, ...]:
    """Of each endpoint and day that both evaluations have."""
    before = {(e.endpoint, e.day): e for e in then.endpoints}
    pairs = [(before[e.endpoint, e.day], e) for e in now.endpoints if (e.endpoint, e.day) in before]
    return tuple(_endpoint(old, new, 2 * len(pairs)) for old, new in pairs)


def _feature(
    feature: Feature, then: NDArray[np.floating], now: NDArray[np.floating], compared: int
) -> FeatureDrift:
    scale = 1.0 if feature.kind in _FLAGS else feature.scale
    known = [column[np.isfinite(column)].astype(np.float64) / scale for column in (then, now)]
    shift = _difference(*known)
    lacking = _difference(*((~np.isfinite(column)).astype(np.float64) for column in (then, now)))
    accepted = ACCEPTED_SHARE if feature.kind in _FLAGS else ACCEPTED_SHIFT
    flagged = _moved(shift, accepted, compared) or _moved(lacking, ACCEPTED_SHARE, compared)
    return FeatureDrift(feature.name, shift, lacking, flagged)


def _difference(then: NDArray[np.float64], now: NDArray[np.float64]) -> Estimate:
    if min(len(then), len(now)) < 2:
        return Estimate.none()
    error = math.sqrt(then.var(ddof=1) / len(then) + now.var(ddof=1) / len(now))
    return Estimate.plain(float(now.mean() - then.mean()), error)


def _endpoint(
    then: RiskEvaluation | ValueEvaluation, now: RiskEvaluation | ValueEvaluation, compared: int
) -> EndpointDrift:
    if isinstance(then, ValueEvaluation) or isinstance(now, ValueEvaluation):
        old, new = (e.scores.rmse if isinstance(e, ValueEvaluation) else Estimate.none() for e in (then, now))
        growth = _ratio(old, new)
        grown = growth.value > ACCEPTED_GROWTH and _excludes(growth, 1.0, compared)
        return EndpointDrift(now.endpoint, now.day, growth, Estimate.none(), grown)
    ratio = _ratio(then.calibration.observed_over_expected, now.calibration.observed_over_expected)
    error = math.hypot(then.auc.high - then.auc.low, now.auc.high - now.auc.low) / (2 * Z95)
    auc = Estimate.plain(now.auc.value - then.auc.value, error)
    off = not ACCEPTED[0] <= ratio.value <= ACCEPTED[1] and _excludes(ratio, 1.0, compared)
    worse = auc.value < -ACCEPTED_LOSS and _excludes(auc, 0.0, compared)
    return EndpointDrift(now.endpoint, now.day, ratio, auc, off or worse)


def _ratio(then: Estimate, now: Estimate) -> Estimate:
    """Now over then, from intervals that are symmetric on the log scale or nearly."""
    if not (then.value > 0 and now.value > 0 and then.low > 0 and now.low > 0):
        return Estimate.none()
    value = now.value / then.value
    error = math.hypot(*(math.log(e.high / e.low) / (2 * Z95) for e in (then, now)))
    return Estimate.of_ratio(value, error * value)


def _moved(change: Estimate, accepted: float, compared: int) -> bool:
    return abs(change.value) > accepted and _excludes(change, 0.0, compared)


def _excludes(change: Estimate, value: float, compared: int) -> bool:
    """Whether the interval, widened for so many comparisons, still excludes a value."""
    if not math.isfinite(change.low):
        return False
    widening = float(norm.isf(0.025 / compared)) / Z95
    low, high = (change.value + (end - change.value) * widening for end in (change.low, change.high))
    return low > value or high < value
