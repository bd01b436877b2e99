"""Split conformal prediction: intervals and sets that hold the truth as often as they say, whatever the twin is worth.

With n held-out patients who are exchangeable with the next one, the next score is at most the ceil((n + 1) · level)-th smallest of
theirs with probability at least `level` (Vovk, Gammerman & Shafer 2005; Lei et al., JASA 2018;113:1094), and above it by no more than
1/(n + 1) where scores do not tie. Weighted where some patients stand for others who left (Tibshirani et al., NeurIPS 2019; Candès,
Lei & Ren, JRSS B 2023;85:24). The promise is of patients of one hospital together: a shifted hospital breaks it, and needs a
calibration of its own; a subgroup can be given one (Mondrian).

Scores and thresholds come from exact local data: they stay at the hospital.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from gemel.core.errors import GemelError

Floats = NDArray[np.float64]
_ROUNDING = 1e-9


def conformal_quantile(
    scores: Floats, level: float, *, weight: Floats | None = None, own_weight: float | None = None
) -> float:
    """The exact finite-sample quantile of scores (n,); infinite where n is too small for the level.

    With weights: of the scores so weighted, and of an infinite score that weighs `own_weight`, the most that the next patient's
    weight can be (by default the largest weight). Raises GEM631 for a level that is not between 0 and 1.

    >>> conformal_quantile(np.arange(1.0, 20.0), 0.9), conformal_quantile(np.arange(1.0, 9.0), 0.9)
    (18.0, inf)
    """
    check_level(level)
    if weight is None:
        rank = math.ceil((len(scores) + 1) * level - _ROUNDING)
        return float(np.partition(scores, rank - 1)[rank - 1]) if rank <= len(scores) else math.inf
    used = weight > 0
    if not used.any():
        return math.inf
    own = float(weight.max()) if own_weight is None else own_weight
    order = np.argsort(scores[used], kind="stable")
    share = np.cumsum(weight[used][order]) / (float(weight.sum()) + own)
    rank = int(np.searchsorted(share, level - _ROUNDING))
    return float(scores[used][order][rank]) if rank < len(share) else math.inf


def value_scores(measured: Floats, mean: Floats, spread: Floats) -> Floats:
    """(n,): |error| over the predicted spread, so that the interval mean ± threshold · spread is wide where the twin is unsure."""
    return np.asarray(np.abs(measured - mean) / _positive(spread), np.float64)


def value_interval(mean: Floats, spread: Floats, threshold: Floats | float) -> tuple[Floats, Floats]:
    """(low, high), (n,) each, of who scores at most the threshold."""
    half = threshold * _positive(spread)
    return np.asarray(mean - half, np.float64), np.asarray(mean + half, np.float64)


def quantile_scores(measured: Floats, low: Floats, high: Floats) -> Floats:
    """(n,): how far a value lies outside predicted quantiles, negative inside (CQR; Romano, Patterson & Candès, NeurIPS 2019).

    The interval is (low - threshold, high + threshold).
    """
    return np.maximum(low - measured, measured - high)


def set_scores(probabilities: Floats, tie_break: Floats) -> Floats:
    """(n, levels): how much must be taken in before each level is: adaptive prediction sets that hold neighbouring levels only.

    Levels join from the likeliest outwards, of two neighbours the likelier first; a level's score is the probability of what
    joined before it, plus `tie_break` (n,), between 0 and 1, of its own (Romano, Sesia & Candès, NeurIPS 2020; for ordered
    levels Lu, Angelopoulos & Pomerantz, MICCAI 2022). A patient's set holds the levels that score at most the threshold.
    """
    order = _outwards(probabilities)
    sorted_by_joining = np.take_along_axis(probabilities, order, axis=1)
    before = np.cumsum(sorted_by_joining, axis=1) - sorted_by_joining
    scores = np.empty_like(probabilities)
    np.put_along_axis(scores, order, before + tie_break[:, None] * sorted_by_joining, axis=1)
    return scores


def prediction_sets(
    probabilities: Floats, tie_break: Floats, threshold: Floats | float, *, keep_likeliest: bool = True
) -> NDArray[np.bool_]:
    """(n, levels): the levels in each patient's set; `threshold` is one number or (n,).

    A set that came out empty is given its likeliest level, which can only raise coverage.
    """
    limit = np.broadcast_to(np.asarray(threshold, np.float64), len(probabilities))
    held = set_scores(probabilities, tie_break) <= limit[:, None]
    if keep_likeliest:
        empty = ~held.any(axis=1)
        held[empty, probabilities[empty].argmax(axis=1)] = True
    return held


def tie_breaks(values: NDArray[np.floating]) -> Floats:
    """(n,) between 0 and 1, from the hash of each patient's raw values (n, d): the same patient always gets the same set."""
    rows = np.ascontiguousarray(np.where(np.isnan(values), np.nan, values).astype("<f4"))
    numbers = [int.from_bytes(hashlib.sha256(row.tobytes()).digest()[:6], "big") for row in rows]
    return np.array(numbers, np.float64) / 2.0**48


def survival_threshold(
    incidence_at_event: Floats, case: NDArray[np.bool_], weight: Floats, level: float
) -> float:
    """The predicted incidence τ whose time is a lower bound of the event's time with probability at least `level`.

    From held-out patients: the predicted incidence (n,) at the time of the event of the cases by the horizon (of the others it is
    not read), and weights that are 0 for who left before it was known. Patients whose event comes earlier than their predicted
    incidence reaches τ are at most 1 - level of all. Candès, Lei & Ren (2023) need everybody's time of leaving, which nobody knows of
    those who died; here the inverse probability of being followed stands for it, which is right where leaving hangs on nothing that
    is predicted. Infinite: fewer have the event than may be missed.
    """
    check_level(level)
    used = weight > 0
    if not used.any():
        return 0.0
    own = float(weight.max())
    total = float(weight.sum()) + own
    mine = used & case
    order = np.argsort(incidence_at_event[mine], kind="stable")
    missed = (own + np.cumsum(weight[mine][order])) / total
    if own / total > 1 - level + _ROUNDING:
        return 0.0
    rank = int(np.searchsorted(missed, 1 - level + _ROUNDING, side="right"))
    return float(incidence_at_event[mine][order][rank]) if rank < len(missed) else math.inf


def survival_bound(incidence: Floats, times_years: NDArray[np.floating], threshold: Floats | float) -> Floats:
    """(n,) years: when a predicted incidence (n, T) on a grid from 0 on first reaches the threshold; the grid's end if never.

    Between the grid's times incidence is a straight line.
    """
    limit = np.broadcast_to(np.asarray(threshold, np.float64), len(incidence))
    times = np.asarray(times_years, np.float64)
    reached = incidence >= limit[:, None]
    step = np.where(reached.any(axis=1), reached.argmax(axis=1), len(times))
    bound = np.full(len(incidence), times[-1])
    bound[step == 0] = times[0]
    rows = np.flatnonzero((step > 0) & (step < len(times)))
    at = step[rows]
    low, high = incidence[rows, at - 1], incidence[rows, at]
    part = (limit[rows] - low) / (high - low)
    bound[rows] = times[at - 1] + part * (times[at] - times[at - 1])
    return bound


def incidence_at(incidence: Floats, times_years: NDArray[np.floating], at_years: Floats) -> Floats:
    """(n,): a predicted incidence (n, T) at each patient's own time, by straight lines between the grid's times."""
    times = np.asarray(times_years, np.float64)
    step = np.clip(np.searchsorted(times, at_years, side="right"), 1, len(times) - 1)
    rows = np.arange(len(incidence))
    low, high = incidence[rows, step - 1], incidence[rows, step]
    part = np.clip((at_years - times[step - 1]) / (times[step] - times[step - 1]), 0, 1)
    return np.asarray(low + part * (high - low), np.float64)


def check_level(level: float) -> None:
    """Raises GEM631 for a level that is not between 0 and 1."""
    if not 0 < level < 1:
        raise GemelError("GEM631", f"The level is {level:g}; it lies between 0 and 1.")


def _outwards(probabilities: Floats) -> NDArray[np.intp]:
    """(n, levels): the order in which levels join, from the likeliest outwards."""
    patients, levels = probabilities.shape
    rows = np.arange(patients)
    padded = np.full((patients, levels + 2), -1.0)
    padded[:, 1:-1] = probabilities
    low = probabilities.argmax(axis=1)
    high = low.copy()
    order = np.empty((patients, levels), np.intp)
    order[:, 0] = low
    for joined in range(1, levels):
        down = padded[rows, low] >= padded[rows, high + 2]
        low, high = np.where(down, low - 1, low), np.where(down, high, high + 1)
        order[:, joined] = np.where(down, low, high)
    return order


def _positive(spread: Floats) -> Floats:
    return np.maximum(spread, 1e-12)
