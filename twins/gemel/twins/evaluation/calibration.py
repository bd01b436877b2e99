"""Whether risks are as high as they say: in the large, along the scale, and bent how (van Calster et al., J Clin Epidemiol 2016;74:167).

With weights of censoring throughout. The smooth curve is a weighted logistic regression of the event on a restricted cubic spline of
logit(p), four knots at the 5th, 35th, 65th and 95th centile (Harrell's); ICI is the mean distance of curve and diagonal (Austin &
Steyerberg, Stat Med 2019;38:4051). Chance alone makes it positive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemel.twins.evaluation.estimate import (
    NOTHING_SEEN,
    Estimate,
    effective_number,
    standard_error,
    wilson,
)
from gemel.twins.evaluation.observed import Floats, Observed

_KNOTS = (0.05, 0.35, 0.65, 0.95)
_TENTHS = 10
_STEPS, _CLOSE = 50, 1e-9
# Fewer cases or controls than this make no slope and no curve.
_FEWEST = 10
# A log odds beyond: the fit runs off, because the columns part cases and controls.
_FARTHEST = 50.0


@dataclass(frozen=True)
class CalibrationGroup:
    """Patients with similar predicted risks: how many, their mean predicted risk, what was observed."""

    patients: int
    predicted: float
    observed: Estimate


@dataclass(frozen=True)
class Calibration:
    """See the module.

    Attributes:
        observed_over_expected: Below 1: the twin says too much.
        intercept: Of logit(risk) with slope 1; 0 is right.
        slope: Of logit(risk); below 1: predictions too extreme.
        ici, e90: Mean and 90th centile of |smooth curve - predicted|; NaN where there is no curve.
        curve: (predicted, smooth) pairs at the 5th to 95th centile of the predictions.
        groups: Tenths of the predicted risks.
    """

    observed_over_expected: Estimate
    intercept: Estimate
    slope: Estimate
    ici: float
    e90: float
    curve: tuple[tuple[float, float], ...]
    groups: tuple[CalibrationGroup, ...]


@dataclass(frozen=True)
class Fit:
    """A weighted logistic regression: coefficients (p,) and their covariance (p, p), NaN where there is none."""

    coefficients: Floats
    covariance: Floats

    def estimate(self, i: int) -> Estimate:
        """One coefficient."""
        return Estimate.plain(float(self.coefficients[i]), math.sqrt(float(self.covariance[i, i])))


def calibration(observed: Observed, risk: Floats) -> Calibration:
    """Of predicted risks (n,)."""
    intercept, slope = intercept_and_slope(observed, risk)
    ici, e90, curve = _curve(observed, risk)
    return Calibration(
        observed_over_expected(observed, risk), intercept, slope, ici, e90, curve, _groups(observed, risk)
    )


def observed_over_expected(observed: Observed, risk: Floats) -> Estimate:
    """Weighted incidence over the mean predicted risk of those at risk; the interval's upper end also where no case was seen."""
    mine = observed.at_risk & np.isfinite(risk)
    expected = float(risk[mine].sum())
    if expected <= 0 or not observed.known.any():
        return Estimate.none()
    share = observed.incidence
    ratio = share * np.count_nonzero(mine) / expected
    if share == 0:
        return Estimate(0.0, 0.0, NOTHING_SEEN / expected)
    weight = observed.weight / observed.weight.sum()
    influence = ratio * (
        weight * (observed.case - share) / share
        - mine * (np.where(mine, risk, 0.0) / expected - 1 / mine.sum())
    )
    return Estimate.of_ratio(ratio, standard_error(influence))


def intercept_and_slope(observed: Observed, risk: Floats) -> tuple[Estimate, Estimate]:
    """The calibration intercept (slope 1) and the calibration slope."""
    offset = _logit(risk)
    alone = logistic(observed, np.ones((len(risk), 1)), offset=offset)
    both = logistic(observed, np.stack([np.ones(len(risk)), offset], axis=1))
    return alone.estimate(0), both.estimate(1)


def logistic(observed: Observed, columns: Floats, *, offset: Floats | None = None) -> Fit:
    """Weighted logistic regression of the event on columns (n, p) by Newton's method, with a sandwich covariance (HC0).

    Few cases or controls, and groups that the columns part, have no fit: all NaN.
    """
    used = observed.known & np.isfinite(columns).all(axis=1)
    x, y, w = columns[used], observed.case[used].astype(np.float64), observed.weight[used]
    shift = np.zeros(len(x)) if offset is None else offset[used]
    found = np.zeros(x.shape[1])
    none = Fit(np.full(len(found), np.nan), np.full((len(found), len(found)), np.nan))
    if min(np.count_nonzero(y), np.count_nonzero(1 - y)) < _FEWEST:
        return none
    for _ in range(_STEPS):
        p = _expit(x @ found + shift)
        score = x.T @ (w * (y - p))
        information = (x * (w * p * (1 - p))[:, None]).T @ x
        if np.linalg.cond(information) > 1e14:
            return none
        step = np.linalg.solve(information, score)
        # No step moves anybody's log odds by more than 2.
        moved = float(np.abs(x @ step).max())
        found = found + step * min(1.0, 2.0 / max(moved, 1e-12))
        if np.abs(x @ found).max() > _FARTHEST:
            return none
        if moved < _CLOSE:
            break
    else:
        return none
    residual = x * (w * (y - p))[:, None]
    bread = np.linalg.inv(information)
    return Fit(found, bread @ (residual.T @ residual) @ bread)


def _curve(observed: Observed, risk: Floats) -> tuple[float, float, tuple[tuple[float, float], ...]]:
    mine = observed.at_risk & np.isfinite(risk)
    if not mine.any():
        return math.nan, math.nan, ()
    logit = _logit(risk)
    knots = np.unique(np.quantile(logit[mine], _KNOTS))
    fit = logistic(observed, _spline(logit, knots))
    if not np.isfinite(fit.coefficients).all():
        return math.nan, math.nan, ()
    smooth = _expit(_spline(logit, knots) @ fit.coefficients)
    distance = np.abs(smooth - risk)[mine]
    at = np.quantile(risk[mine], np.linspace(0.05, 0.95, 19))
    along = _expit(_spline(_logit(at), knots) @ fit.coefficients)
    points = tuple((float(p), float(s)) for p, s in zip(at, along, strict=True))
    return float(distance.mean()), float(np.quantile(distance, 0.9)), points


def _spline(x: Floats, knots: Floats) -> Floats:
    """(n, knots): a restricted cubic spline, straight beyond the outer knots; with under three knots a straight line."""
    line = [np.ones_like(x), x]
    if len(knots) < 3:
        return np.stack(line, axis=1)
    last, before = knots[-1], knots[-2]
    cubes = [np.maximum(x - knot, 0) ** 3 for knot in knots]
    scale = (last - knots[0]) ** 2
    for i in range(len(knots) - 2):
        bent = (
            cubes[i]
            - cubes[-2] * (last - knots[i]) / (last - before)
            + cubes[-1] * (before - knots[i]) / (last - before)
        )
        line.append(bent / scale)
    return np.stack(line, axis=1)


def _groups(observed: Observed, risk: Floats) -> tuple[CalibrationGroup, ...]:
    mine = observed.at_risk & np.isfinite(risk)
    if not mine.any():
        return ()
    edges = np.unique(np.quantile(risk[mine], np.linspace(0, 1, _TENTHS + 1)[1:-1]))
    tenth: NDArray[np.int64] = np.searchsorted(edges, risk, side="right")
    groups = []
    for i in range(len(edges) + 1):
        group = observed.only(mine & (tenth == i))
        if not group.at_risk.any():
            continue
        people = effective_number(group.weight)
        seen = wilson(group.incidence * people, people) if people else Estimate.none()
        groups.append(CalibrationGroup(int(group.at_risk.sum()), float(risk[group.at_risk].mean()), seen))
    return tuple(groups)


def _logit(p: Floats) -> Floats:
    inside = np.clip(p, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(inside / (1 - inside)), np.float64)


def _expit(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)), np.float64)
