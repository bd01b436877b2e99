"""How far predictions lie from what came: Brier and ranked probability scores, errors and CRPS of values, with paired differences."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from gemel.twins.evaluation.estimate import Estimate, standard_error
from gemel.twins.evaluation.observed import Floats, Observed

_ROOT_PI = math.sqrt(math.pi)


@dataclass(frozen=True)
class ValueScores:
    """Of a predicted value: errors in its unit; `bias` is predicted minus measured.

    Attributes:
        crps: The mean continuous ranked probability score of the predicted normal distribution (Gneiting & Raftery, JASA
            2007;102:359), in the value's unit; of a certain prediction it is the absolute error.
        slope: Of measured on predicted; 1 is right.
        explained: 1 - squared error / variance; at or below 0: no better than the mean of those patients.
        normal_80: The share of measurements within the central 80 % of the predicted distribution.
    """

    patients: int
    rmse: Estimate
    mae: Estimate
    bias: Estimate
    crps: Estimate
    slope: float
    explained: float
    normal_80: float


def brier(observed: Observed, risk: Floats) -> Estimate:
    """The weighted mean squared difference of risk and event."""
    value, influence = brier_and_influence(observed, risk)
    return Estimate.plain(value, standard_error(influence))


def brier_difference(observed: Observed, first: Floats, second: Floats) -> Estimate:
    """Brier score of the first minus that of the second prediction; below 0 the first is nearer."""
    one, influence = brier_and_influence(observed, first)
    other, influence_of_other = brier_and_influence(observed, second)
    return Estimate.plain(one - other, standard_error(influence - influence_of_other))


def scaled_brier(observed: Observed, risk: Floats) -> Estimate:
    """1 - Brier score / that of everybody's mean incidence: 0 for no information, below 0 for worse than none."""
    value, influence = brier_and_influence(observed, risk)
    share = observed.incidence
    null = share * (1 - share)
    if not null > 0:
        return Estimate.none()
    weight = observed.weight / observed.weight.sum()
    of_null = (1 - 2 * share) * weight * (observed.case - share)
    return Estimate.plain(1 - value / null, standard_error(-influence / null + value / null**2 * of_null))


def brier_and_influence(observed: Observed, risk: Floats) -> tuple[float, Floats]:
    """The Brier score and each patient's influence on it (n,)."""
    if not observed.known.any():
        return math.nan, np.full(len(risk), np.nan)
    weight = observed.weight / observed.weight.sum()
    squared = np.where(observed.known, (observed.case - risk) ** 2, 0.0)
    value = float((weight * squared).sum())
    return value, weight * (squared - value)


def ranked_probability(level: Floats, probabilities: Floats, weight: Floats) -> Estimate:
    """Mean ranked probability score of levels (n,) under probabilities (n, levels), over (levels - 1): 0 to 1, lower is better.

    Epstein, J Appl Meteorol 1969;8:985. Of two levels it is the Brier score. Who weighs 0 does not count.
    """
    if not (weight > 0).any():
        return Estimate.none()
    predicted = np.cumsum(probabilities, axis=1)[:, :-1]
    reached = level[:, None] <= np.arange(predicted.shape[1])
    each = np.where(weight > 0, ((predicted - reached) ** 2).mean(axis=1), 0.0)
    share = weight / weight.sum()
    value = float((share * each).sum())
    return Estimate.plain(value, standard_error(share * (each - value)))


def value_scores(measured: Floats, mean: Floats, spread: Floats) -> ValueScores:
    """Of measurements (n,), all finite, under a normal prediction (n,) each; a spread of 0 is certainty."""
    error = mean - measured
    if len(error) < 2:
        nothing = Estimate.none()
        return ValueScores(len(error), nothing, nothing, nothing, nothing, math.nan, math.nan, math.nan)
    variance, covariance = float(mean.var()), float(np.mean((mean - mean.mean()) * measured))
    return ValueScores(
        patients=len(error),
        rmse=root_mean_squared(error),
        mae=_mean(np.abs(error)),
        bias=_mean(error),
        crps=_mean(crps(measured, mean, spread)),
        slope=covariance / variance if variance > 0 else math.nan,
        explained=1 - float(np.mean(error**2) / measured.var()) if measured.var() > 0 else math.nan,
        normal_80=float(np.mean(np.abs(error) <= 1.2815515655446004 * spread)),
    )


def crps(measured: Floats, mean: Floats, spread: Floats) -> Floats:
    """(n,): of a normal distribution, in closed form."""
    width = np.maximum(spread, 1e-12)
    z = (measured - mean) / width
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return np.asarray(width * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / _ROOT_PI), np.float64)


def root_mean_squared(error: Floats) -> Estimate:
    """The root mean squared error, from errors (n,)."""
    if len(error) < 2:
        return Estimate.none()
    squared = error**2
    root = math.sqrt(float(squared.mean()))
    return Estimate.plain(root, float(squared.std(ddof=1) / math.sqrt(len(squared))) / (2 * max(root, 1e-12)))


def rmse_difference(measured: Floats, first: Floats, second: Floats) -> Estimate:
    """Root mean squared error of the first minus that of the second prediction of the same patients."""
    if len(measured) < 2:
        return Estimate.none()
    one, influence = _root_and_influence(first - measured)
    other, influence_of_other = _root_and_influence(second - measured)
    return Estimate.plain(one - other, standard_error(influence - influence_of_other))


def _root_and_influence(error: Floats) -> tuple[float, Floats]:
    squared = error**2
    root = math.sqrt(float(squared.mean()))
    return root, (squared - root**2) / (2 * max(root, 1e-12) * len(error))


def _mean(values: Floats) -> Estimate:
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return Estimate.plain(float(values.mean()), error)
