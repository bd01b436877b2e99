"""One step of many patients between sets of diseases: all pairs of a set and what it may become, at once.

A disease that a patient has stays; one that a patient has not either comes or does not: 3^m pairs for m diseases.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from gemel.twins.prediction import Floats

_STAYS_FREE, _COMES, _IS_THERE = range(3)
_TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class _Pairs:
    """Of each pair: the set at the start, and of each disease what becomes of it. Ordered by the set at the end.

    Attributes:
        start: (pairs,). kind: (m, pairs).
        first: (2^m,), where the pairs that end in each set begin.
    """

    start: NDArray[np.int64]
    kind: NDArray[np.int64]
    first: NDArray[np.int64]


@cache
def _pairs(diseases: int) -> _Pairs:
    kinds = np.array(list(product(range(3), repeat=diseases)), np.int64).reshape(3**diseases, diseases)
    bits = 1 << np.arange(diseases)
    start, end = (kinds == _IS_THERE) @ bits, (kinds != _STAYS_FREE) @ bits
    order = np.argsort(end, kind="stable")
    return _Pairs(start[order], kinds[order].T.copy(), np.searchsorted(end[order], np.arange(1 << diseases)))


def moved(occupied: Floats, rate: Floats) -> tuple[Floats, Floats]:
    """What a step with constant, competing hazards does.

    Args:
        occupied: (2^m, n), the probability of each set of diseases at the start, of the living.
        rate: (2^m, 1 + m, n), cumulative hazards of death and of each disease over the step, by the set at its start.

    Returns:
        The probability of each set at the end (2^m, n), and of each outcome within the step (1 + m, n): death with
        1 - exp(-λ), a disease before death and the end with λ/(λ + λ_death) · (1 - exp(-(λ + λ_death))).
    """
    states, patients = occupied.shape
    diseases = rate.shape[1] - 1
    pairs = _pairs(diseases)
    death, onset = rate[:, :1], rate[:, 1:]
    free = np.array([[not s >> i & 1 for i in range(diseases)] for s in range(states)]).reshape(
        states, diseases, 1
    )
    both = onset + death
    before_death = free * onset / np.maximum(both, _TINY) * -np.expm1(-both)
    within = np.concatenate([-np.expm1(-death), before_death], axis=1)
    came = np.einsum("sn,skn->kn", occupied, within)
    moving = (occupied * np.exp(-death[:, 0]))[pairs.start]
    what = np.ones((3, states, patients))
    for disease in range(diseases):
        what[_STAYS_FREE] = np.exp(-onset[:, disease])
        what[_COMES] = -np.expm1(-onset[:, disease])
        moving *= what[pairs.kind[disease], pairs.start]
    return np.add.reduceat(moving, pairs.first, axis=0), came
