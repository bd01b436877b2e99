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

# Cases that are set against everybody at once: bounds the memory.
_AT_ONCE = 256


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
    """P(of two patients the one with the earlier event, by `years`, has the higher score), ties half."""
    everyone = followed(dataset, outcome, years=np.inf)
    time = dataset.time_years[:, outcome].astype(np.float64)
    event = dataset.event[:, outcome]
    case = (event == OCCURRED) & (time <= years + 1e-6)
    at_risk = event >= CENSORED
    died_first = (event == CENSORED) & (dataset.event[:, 0] == OCCURRED) & (outcome != 0)
    if np.count_nonzero(case) < 2:
        return Estimate.none()
    right, pairs = np.zeros(len(time)), np.zeros(len(time))
    cases = np.flatnonzero(case)
    for start in range(0, len(cases), _AT_ONCE):
        mine = cases[start : start + _AT_ONCE]
        weight = _pair_weights(mine, time, event == OCCURRED, died_first, everyone.weight) * at_risk
        higher = (score[mine][:, None] > score) + 0.5 * (score[mine][:, None] == score)
        for total, part in ((right, weight * higher), (pairs, weight)):
            total[mine] += part.sum(axis=1)
            total += part.sum(axis=0)
    # Every pair was counted at both of its members.
    value = float(right.sum() / pairs.sum()) if pairs.sum() > 0 else math.nan
    return Estimate.of_share(value, standard_error((right - value * pairs) / (pairs.sum() / 2)))


def _pair_weights(
    mine: NDArray[np.intp],
    time: Floats,
    occurred: NDArray[np.bool_],
    died_first: NDArray[np.bool_],
    weight: Floats,
) -> Floats:
    """(cases, n): what a pair of a case and another stands for; 0 where the order of the two is not known."""
    at, of_case = time[mine][:, None], weight[mine][:, None]
    later = (time > at) | ((time == at) & ~occurred)
    gone = died_first & (time <= at)
    return np.where(gone, of_case * weight, np.where(later, of_case**2, 0.0))


def _scaled(influence: Floats) -> Floats:
    """DeLong divides by one less than the number of cases, or of controls."""
    return np.asarray(influence * math.sqrt(len(influence) / (len(influence) - 1)), np.float64)
