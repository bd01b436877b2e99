"""Follow-up in public intervals: what became of a patient, and for how many others each of them stands.

A status is `kinds` x interval + kind: 0 the event, then what else ends follow-up, last of all leaving; and one status
for all who were followed beyond the last interval.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def interval_status(
    time: NDArray[np.floating], kind: NDArray[np.int64], ends: Sequence[float], *, kinds: int
) -> NDArray[np.int64]:
    """Status (n,) of patients from their time and the kind of its end; `ends` are those of the intervals.

    An event at the end of an interval belongs to it; who left exactly then was followed through it.
    """
    limits = np.asarray(ends, dtype=np.float64)
    of_event = np.searchsorted(limits, time, side="left")
    interval = np.where(kind == kinds - 1, np.searchsorted(limits, time, side="right"), of_event)
    return np.where(interval < len(limits), kinds * interval + kind, kinds * len(limits)).astype(np.int64)


def follow_up_weights(totals: Floats, interval: int) -> Floats:
    """What one patient of each status (..., 3 x intervals + 1) counts at the end of an interval, or 0 for who left.

    The statuses are event, died first, left. The weight is 1 / P(still followed), which falls in a straight line over
    each interval by the share that left of those without an event; events happen half-way.
    """
    weights = np.zeros_like(totals)
    followed = np.ones(totals.shape[:-1])
    for i in range(interval + 1):
        left = np.maximum(totals[..., 3 * i + 2], 0)
        through = np.maximum(totals[..., 3 * i + 3 :].sum(axis=-1), 1.0)
        still = followed * through / (through + left)
        half_way = (followed + still) / 2
        weights[..., 3 * i] = weights[..., 3 * i + 1] = 1 / half_way
        followed = still
    weights[..., 3 * interval + 3 :] = (1 / followed)[..., None]
    return weights


def cases_and_controls(counts: Floats, interval: int) -> tuple[Floats, Floats]:
    """Weighted cases and controls (..., bins) at the end of an interval, of tables (..., bins, statuses).

    A case had the event by then; a control was followed to then without it, or died first (Blanche, Dartigues &
    Jacqmin-Gadda, Stat Med 2013;32:5381). Who left is stood for by the others. Linear in the cells but for the weights.
    """
    weighted = counts * follow_up_weights(counts.sum(axis=-2), interval)[..., None, :]
    cases = weighted[..., 0 : 3 * interval + 1 : 3].sum(axis=-1)
    return cases, weighted.sum(axis=-1) - cases


def concordant_and_pairs(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """Pairs (...) in which the first's bin is the higher, ties half, and all pairs, of counts (..., bins)."""
    below = np.cumsum(second, axis=-1) - second
    return (first * (below + second / 2)).sum(axis=-1), first.sum(axis=-1) * second.sum(axis=-1)


def squared_error(cases: Floats, controls: Floats, predicted: Floats) -> Floats:
    """Sum (...) of squared differences of predicted risk (bins,) and outcome, over cases and controls (..., bins)."""
    result: Floats = (cases * (1 - predicted) ** 2 + controls * predicted**2).sum(axis=-1)
    return result
