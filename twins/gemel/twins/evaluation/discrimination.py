"""How well a score orders patients: AUC by a day and C over time, with intervals, and paired differences.

The AUC's variance is DeLong's (Biometrics 1988;44:837) in its weighted form: each patient's influence on the AUC is the weight
times (the share of the other group that it is rightly ordered against, minus the AUC). Without censoring it is DeLong's exactly.
C is that of Uno et al. (Stat Med 2011;30:1105), with who died first of something else as a comparator (Wolbers et al.,
Biostatistics 2014;15:526).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gemel.core.dataset import CENSORED, OCCURRED, Dataset
from gemel.twins.evaluation.estimate import Estimate, standard_error
from gemel.twins.evaluation.observed import Floats, Observed
from gemel.twins.scores import followed

Ranks = NDArray[np.int64]


def auc(observed: Observed, score: Floats) -> Estimate:
    """P(a case has a higher score than a control), ties half; NaN with fewer than two of either."""
    value, influence = auc_and_influence(observed, score)
    return Estimate.of_share(value, standard_error(influence))


def auc_difference(observed: Observed, first: Floats, second: Floats) -> Estimate:
    """AUC of the first minus that of the second score of the same patients (DeLong's paired comparison)."""
    one, influence = auc_and_influence(observed, first)
    other, influence_of_other = auc_and_influence(observed, second)
    return Estimate.plain(one - other, standard_error(influence - influence_of_other))


def auc_and_influence(observed: Observed, score: Floats) -> tuple[float, Floats]:
    """The AUC and each patient's influence on it (n,)."""
    used = observed.known
    case, weight = observed.case[used], observed.weight[used]
    influence = np.zeros(len(score))
    if min(np.count_nonzero(case), np.count_nonzero(~case)) < 2:
        return math.nan, np.full(len(score), np.nan)
    _, rank = np.unique(score[used], return_inverse=True)
    cases = np.bincount(rank, weight * case)
    controls = np.bincount(rank, weight * ~case, minlength=len(cases))
    cases = np.concatenate([cases, np.zeros(len(controls) - len(cases))])
    below = (np.cumsum(controls) - controls / 2) / controls.sum()  # of controls, under each score
    above = (cases.sum() - np.cumsum(cases) + cases / 2) / cases.sum()  # of cases, over each score
    value = float((cases * below).sum() / cases.sum())
    of_case = _scaled(weight[case] / cases.sum() * (below[rank][case] - value))
    of_control = _scaled(weight[~case] / controls.sum() * (above[rank][~case] - value))
    mine = np.zeros(len(case))
    mine[case], mine[~case] = of_case, of_control
    influence[used] = mine
    return value, influence


def concordance(dataset: Dataset, outcome: int, score: Floats, *, years: float) -> Estimate:
    """P(of two patients the one with the earlier event, by `years`, has the higher score), ties half.

    A case is set against everybody who was still there without the event, both weighted by the inverse probability of being
    followed until then, and against who had died first, weighted by the same until their death. n log² n steps.
    """
    weight = followed(dataset, outcome, years=np.inf).weight
    time = dataset.time_years[:, outcome].astype(np.float64)
    event = dataset.event[:, outcome]
    at_risk = (event >= CENSORED).astype(np.float64)
    died_first = (event == CENSORED) & (dataset.event[:, 0] == OCCURRED) & (outcome != 0)
    case = (event == OCCURRED) & (time <= years + 1e-6)
    if np.count_nonzero(case) < 2:
        return Estimate.none()
    # At one time: who died first, then events (not set against each other), then who left.
    position = _dense(time, np.where(died_first, 0, np.where(event == OCCURRED, 1, 2)))
    rank = _dense(score)
    of_case, of_dead = case * weight, died_first * weight
    right = (
        of_case**2 * _below_before(-position, rank, at_risk)
        + of_case * _below_before(position, rank, of_dead)
        + at_risk * _below_before(position, -rank, of_case**2)
        + of_dead * _below_before(-position, -rank, of_case)
    )
    pairs = (
        of_case**2 * _before(-position, at_risk)
        + of_case * _before(position, of_dead)
        + at_risk * _before(position, of_case**2)
        + of_dead * _before(-position, of_case)
    )
    # Every pair was counted at both of its members.
    value = float(right.sum() / pairs.sum()) if pairs.sum() > 0 else math.nan
    return Estimate.of_share(value, standard_error((right - value * pairs) / (pairs.sum() / 2)))


def _below_before(position: Ranks, rank: Ranks, weight: Floats) -> Floats:
    """(n,): the weight of all at an earlier position with a lower rank, and half of that with an equal one.

    Two positions first differ in one binary digit: for each digit, all are sorted by the digits above it and rank, and those whose
    digit is 0 are summed up for those whose digit is 1.
    """
    position, rank = position - position.min(), rank - rank.min()
    found = np.zeros(len(rank))
    for digit in range(int(position.max()).bit_length()):
        block, is_later = position >> (digit + 1), (position >> digit) & 1 == 1
        key = block * (int(rank.max()) + 1) + rank
        order = np.argsort(key, kind="stable")
        of_earlier = np.concatenate([[0.0], np.cumsum(np.where(is_later, 0.0, weight)[order])])
        ordered = key[order]
        start = np.searchsorted(ordered, block * (int(rank.max()) + 1))
        lower, equal = np.searchsorted(ordered, key), np.searchsorted(ordered, key, side="right")
        below = (of_earlier[lower] + of_earlier[equal]) / 2 - of_earlier[start]
        found += np.where(is_later, below, 0.0)
    return found


def _before(position: Ranks, weight: Floats) -> Floats:
    """(n,): the weight of all at an earlier position."""
    position = position - position.min()
    at = np.bincount(position, weight)
    return np.asarray((np.cumsum(at) - at)[position], np.float64)


def _dense(*keys: NDArray[np.generic]) -> Ranks:
    """(n,): whole numbers in the order of the first key, then the second; equal where all are equal."""
    _, found = np.unique(
        np.stack([np.asarray(key, np.float64) for key in keys], axis=1), axis=0, return_inverse=True
    )
    return np.asarray(found.reshape(-1), np.int64)


def _scaled(influence: Floats) -> Floats:
    """DeLong divides by one less than the number of cases, or of controls."""
    return np.asarray(influence * math.sqrt(len(influence) / (len(influence) - 1)), np.float64)
