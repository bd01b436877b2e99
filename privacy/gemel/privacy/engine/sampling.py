"""Poisson samples of patients, drawn in memory: each patient at each step with probability q, whoever else is taken."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Context, Decimal
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gemel.privacy.noise import NoiseSource

# From this rate on a coin for each patient is cheaper than a walk from one taken patient to the next.
COIN_RATE = 0.2
_LONGEST_TABLE = 4096
_STEPS_AHEAD = 64
_WORD = 1 << 64


def poisson_samples(
    noise: NoiseSource, *, rate: float, patients: int, steps: int
) -> Iterator[NDArray[np.int64]]:
    """For each step the ascending row numbers of the patients that it takes.

    All steps' trials form one sequence of `steps` · `patients` independent coins of probability `rate`; it is drawn some
    steps at a time. Below `COIN_RATE` not the coins are drawn but the gaps between successes.
    """
    done = 0
    while done < steps:
        ahead = min(_STEPS_AHEAD, steps - done, max(1, 10**6 // max(patients, 1)))
        taken = _successes(noise, rate, ahead * patients)
        ends = np.searchsorted(taken, np.arange(1, ahead + 1) * patients)
        start = 0
        for step, end in enumerate(ends):
            yield taken[start:end] - step * patients
            start = int(end)
        done += ahead


def _successes(noise: NoiseSource, rate: float, trials: int) -> NDArray[np.int64]:
    """The ascending positions of the successes among independent trials."""
    if rate >= COIN_RATE:
        return np.flatnonzero(noise.bernoulli(rate, trials)).astype(np.int64)
    table = _gap_table(rate)
    parts, position = [], 0
    while position < trials:
        # The trial after each gap is a success; a draw past the table is as many failures, and the walk goes on
        # from there, for a geometric variable has no memory.
        gaps = np.searchsorted(table, noise.words(_draws(rate, trials - position, len(table))), side="right")
        success = gaps < len(table)
        ends = position + np.cumsum(gaps + success, dtype=np.int64)
        parts.append(ends[success] - 1)
        position = int(ends[-1])
    taken = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    return taken[: int(np.searchsorted(taken, trials))]


def _draws(rate: float, trials: int, longest: int) -> int:
    """About as many gaps as cover the trials, in most cases in one go."""
    expected = trials * max(rate, 1 / longest)
    return int(expected + 4 * expected**0.5) + 8


@lru_cache(maxsize=8)
def _gap_table(rate: float) -> NDArray[np.uint64]:
    """P(gap <= k) · 2^64 rounded down for k = 0, 1, …, at most 4096 of them: exact to 2^-64 for any float `rate`.

    A gap k has probability (1 - rate)^k · rate.
    """
    context = Context(prec=60)
    stay = context.subtract(Decimal(1), Decimal(rate))
    beyond, thresholds = stay, list[int]()
    while len(thresholds) < _LONGEST_TABLE and beyond * _WORD > 1:
        thresholds.append(int(context.multiply(context.subtract(Decimal(1), beyond), Decimal(_WORD))))
        beyond = context.multiply(beyond, stay)
    return np.array(thresholds, dtype=np.uint64)
