"""Exact scores on individual data: time-dependent AUC, Brier score, calibration, with censoring weighed in.

A case by t had the outcome by t; everyone else who was followed to t, or died first of something else, is a
control (Blanche, Dartigues & Jacqmin-Gadda, Stat Med 2013;32:5381, definition with competing events among the
controls). Who left before t has weight 0; the others stand for them, weighted by the inverse Kaplan-Meier
probability of still being followed. These numbers are exact, hence no release: they stay where the patients are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemel.core.dataset import CENSORED, OCCURRED, PREVALENT, Dataset

Floats = NDArray[np.float64]
INTEGRATION_YEARS = tuple(range(1, 11))


@dataclass(frozen=True)
class Followed:
    """Who is a case by t, and with what weight each patient counts: case bool (n,), weight (n,)."""

    case: NDArray[np.bool_]
    weight: Floats


def at_risk(dataset: Dataset, outcome: int) -> NDArray[np.bool_]:
    """bool (n,): who did not have the outcome at the start."""
    return np.not_equal(dataset.event[:, outcome], PREVALENT)


def followed(dataset: Dataset, outcome: int, *, years: float) -> Followed:
    """Cases and weights at `years`; those who are not at risk, or left before, weigh 0."""
    time = dataset.time_years[:, outcome].astype(np.float64)
    event, risk = dataset.event[:, outcome], at_risk(dataset, outcome)
    # Death ends another outcome's clock as an event that competes, not as censoring.
    died_first = (event == CENSORED) & (dataset.event[:, 0] == OCCURRED) & (outcome != 0)
    censored = risk & (event == CENSORED) & ~died_first
    known = risk & ((time >= years) | ~censored)
    still_followed = _left_limit_of_follow_up(time[risk], censored[risk], at=np.minimum(time, years))
    weight = np.where(known, 1 / np.maximum(still_followed, 1e-12), 0.0)
    return Followed((event == OCCURRED) & (time <= years), weight)


def auc(dataset: Dataset, outcome: int, risk: NDArray[np.floating], *, years: float) -> float:
    """P(a case by `years` has a higher risk than a control), ties half; NaN without cases or controls."""
    group = followed(dataset, outcome, years=years)
    used = group.weight > 0
    case, weight = group.case[used], group.weight[used]
    _, rank = np.unique(np.asarray(risk, dtype=np.float64)[used], return_inverse=True)
    cases = np.bincount(rank, weight * case, minlength=rank.max(initial=0) + 1)
    controls = np.bincount(rank, weight * ~case, minlength=len(cases))
    below = np.cumsum(controls) - controls
    pairs = cases.sum() * controls.sum()
    return float((cases * (below + controls / 2)).sum() / pairs) if pairs > 0 else float("nan")


def brier(dataset: Dataset, outcome: int, risk: NDArray[np.floating], *, years: float) -> float:
    """Weighted mean squared difference of the predicted risk and the outcome at `years`."""
    group = followed(dataset, outcome, years=years)
    squared = (group.case - np.asarray(risk, dtype=np.float64)) ** 2
    return float((group.weight * squared).sum() / np.count_nonzero(at_risk(dataset, outcome)))


def observed_over_expected(
    dataset: Dataset, outcome: int, risk: NDArray[np.floating], *, years: float
) -> float:
    """Weighted observed cumulative incidence over the mean predicted risk, of those at risk."""
    group, mine = followed(dataset, outcome, years=years), at_risk(dataset, outcome)
    observed = (group.weight * group.case).sum() / mine.sum()
    return float(observed / np.asarray(risk, dtype=np.float64)[mine].mean())


def integrated_brier(dataset: Dataset, outcome: int, cumulative_incidence: Floats) -> float:
    """Mean Brier score over the years 1 to 10, of cumulative incidences (n, at least 11)."""
    return float(
        np.mean([brier(dataset, outcome, cumulative_incidence[:, t], years=t) for t in INTEGRATION_YEARS])
    )


def _left_limit_of_follow_up(time: Floats, censored: NDArray[np.bool_], *, at: Floats) -> Floats:
    """Kaplan-Meier probability of not having left before (strictly) each of `at`."""
    times, where = np.unique(time, return_inverse=True)
    leaving = np.bincount(where, censored, minlength=len(times))
    present = len(time) - np.concatenate([[0], np.cumsum(np.bincount(where, minlength=len(times)))[:-1]])
    # At tied times events come first: those who leave then are still there for them.
    others = np.bincount(where, ~censored, minlength=len(times))
    factor = 1 - leaving / np.maximum(present - others, 1)
    curve = np.concatenate([[1.0], np.cumprod(factor)])
    return curve[np.searchsorted(times, at, side="left")]
