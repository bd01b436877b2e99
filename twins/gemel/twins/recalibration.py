"""Is a twin right about risks at one hospital, and how to correct it there: from released tables, never from patients.

Logistic recalibration (Cox, Biometrika 1958;45:562; Steyerberg, Clinical Prediction Models, ch. 15 and 20): with p the risk
that the twin predicts, logit(risk) = intercept + slope · logit(p). What is known of a hospital are noisy counts in five bins of
predicted risk, so the p of a bin is the twin's mean at public reference patients (`metrics`). The intervals hold the
noise and the sampling of patients, not what bins hide: that has a margin of its own. How much is corrected follows the
closed test of Vergouwe et al. (Stat Med 2017;36:4529): nothing where the twin cannot be told from right, the intercept
alone where that is enough, both where it is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gemel.privacy.statistics.follow_up import cases_and_controls
from gemel.twins.metrics import HORIZONS_YEARS, RISK_EDGES, metric_replicas

if TYPE_CHECKING:
    from gemel.twins.hazard import HazardTwin

Floats = NDArray[np.float64]
# What bins alone made of a twin that is right (measured: 0.18 and 0.10 on 12,000 virtual patients); nothing below is told.
INTERCEPT_OF_BINS, SLOPE_OF_BINS = 0.2, 0.15
_STEPS = 25
_FARTHEST = 3.0  # of intercept and slope: beyond, the tables say nothing


class Correction(StrEnum):
    """What a hospital's tables support."""

    NONE = "none"
    INTERCEPT = "intercept"
    INTERCEPT_AND_SLOPE = "intercept_and_slope"


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval: of sampling patients and of the noise together."""

    value: float
    low: float
    high: float

    def reaches(self, value: float, *, within: float) -> bool:
        """Whether the interval comes as near to a value as `within`."""
        return self.low <= value + within and self.high >= value - within


@dataclass(frozen=True)
class Recalibration:
    """What one hospital's tables say of a twin's risk of one outcome at 10 years.

    Attributes:
        observed_over_expected: Of all bins together; by_bin: of each, nothing where too few patients are expected.
        intercept: With slope 1: calibration in the large.
        intercept_with_slope, slope: Of both fitted together.
        correction: How much of it to apply.
    """

    observed_over_expected: Interval
    by_bin: tuple[Interval | None, ...]
    intercept: Interval
    intercept_with_slope: Interval
    slope: Interval
    correction: Correction

    def apply(self, risk: NDArray[np.floating]) -> Floats:
        """The corrected risks, in the same order (both coefficients keep it): any shape, 0 to 1."""
        if self.correction is Correction.NONE:
            return np.asarray(risk, np.float64)
        alone = self.correction is Correction.INTERCEPT
        slope = 1.0 if alone else self.slope.value
        intercept = self.intercept.value if alone else self.intercept_with_slope.value
        return _expit(intercept + slope * _logit(np.asarray(risk, np.float64)))


def recalibrate(
    twin: HazardTwin, tables: Mapping[str, NDArray[np.integer]], *, noise_sigma: float
) -> dict[str, Recalibration]:
    """By outcome, from one hospital's released tables; `noise_sigma` is the standard deviation of a cell's noise.

    Raises GEM403 when the tables are not the declared ones. The same tables give the same numbers.
    """
    last = len(HORIZONS_YEARS) - 1
    found: dict[str, Recalibration] = {}
    for name, counts, replicas, expected in metric_replicas(twin, tables, noise_sigma=noise_sigma):
        cases, controls = cases_and_controls(np.concatenate([counts[None], replicas]), last)
        found[name] = _from_bins(cases, np.maximum(cases + controls, 0), expected[:, last])
    return found


def _from_bins(cases: Floats, people: Floats, predicted: Floats) -> Recalibration:
    """From weighted cases and people (1 + replicas, bins): the first is the hospital's own table."""
    cases = np.clip(cases, 0, people)
    expected = people * predicted
    ratio = _ratio(cases.sum(axis=1), expected.sum(axis=1))
    by_bin = tuple(
        _interval(_ratio(cases[:, b], expected[:, b])) if expected[0, b] >= 1 else None
        for b in range(len(RISK_EDGES) - 1)
    )
    intercept = _fitted(cases, people, predicted, free_slope=False)[:, 0]
    both = _fitted(cases, people, predicted, free_slope=True)
    alone, with_slope, slope = _interval(intercept), _interval(both[:, 0]), _interval(both[:, 1])
    straight = slope.reaches(1.0, within=SLOPE_OF_BINS)
    correction = Correction.INTERCEPT if straight else Correction.INTERCEPT_AND_SLOPE
    if straight and alone.reaches(0.0, within=INTERCEPT_OF_BINS):
        correction = Correction.NONE
    # A slope that is not positive would turn the order of patients round: the tables do not support that.
    if correction is Correction.INTERCEPT_AND_SLOPE and slope.value <= 0:
        correction = Correction.INTERCEPT
    return Recalibration(_interval(ratio), by_bin, alone, with_slope, slope, correction)


def _fitted(cases: Floats, people: Floats, predicted: Floats, *, free_slope: bool) -> Floats:
    """Intercept and slope (tables, 2) by Newton steps of the binomial likelihood, with a weak pull to (0, 1).

    The pull (a normal prior of standard deviation 3) keeps a table without cases from running off.
    """
    x = _logit(predicted)
    found = np.tile([0.0, 1.0], (len(cases), 1))
    prior = 1 / _FARTHEST**2
    for _ in range(_STEPS):
        p = _expit(found[:, :1] + found[:, 1:] * x)
        residual, weight = cases - people * p, people * p * (1 - p)
        g0 = residual.sum(1) - prior * found[:, 0]
        h00 = weight.sum(1) + prior
        if not free_slope:
            found[:, 0] = np.clip(found[:, 0] + np.clip(g0 / h00, -1, 1), -_FARTHEST, _FARTHEST)
            continue
        g1 = (residual * x).sum(1) - prior * (found[:, 1] - 1)
        h01, h11 = (weight * x).sum(1), (weight * x * x).sum(1) + prior
        determinant = h00 * h11 - h01**2
        step = np.stack([h11 * g0 - h01 * g1, h00 * g1 - h01 * g0], axis=1) / determinant[:, None]
        found = np.clip(found + np.clip(step, -1, 1), -_FARTHEST, [_FARTHEST, 1 + _FARTHEST])
    return found


def _interval(values: Floats) -> Interval:
    """The first value, and where 95 of 100 of the others lie around it."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return Interval(float(values[0]), float(min(low, values[0])), float(max(high, values[0])))


def _ratio(observed: Floats, expected: Floats) -> Floats:
    return np.asarray(observed / np.maximum(expected, 1e-9))


def _logit(p: Floats) -> Floats:
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(p / (1 - p)))


def _expit(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))
