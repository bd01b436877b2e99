"""From guesses about many patients in one run to a lower bound on ε.

Source: Steinke, Nasr & Jagielski, "Privacy auditing with one (1) training run", NeurIPS 2023 (Theorem 5.2 and its code).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95


def p_value(*, canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """An upper bound on P(at least `correct` of `guesses` are right) when the mechanism is (ε, δ)-DP.

    Each of `canaries` was in with probability 1/2, independently; the attacker may abstain. With δ = 0 the number of
    right guesses is dominated by a binomial of probability e^ε / (1 + e^ε); δ adds at most α 2 m δ.
    """
    if not 0 <= correct <= guesses <= canaries:
        raise ValueError(f"{correct} of {guesses} of {canaries}")
    accuracy = 1 / (1 + math.exp(-epsilon))
    tail = float(stats.binom.sf(correct - 1, guesses, accuracy))
    if correct == 0:
        return 1.0
    below = np.cumsum(stats.binom.pmf(np.arange(correct - 1, -1, -1), guesses, accuracy))
    alpha = float(np.max(below / np.arange(1, correct + 1)))
    return min(1.0, tail + 2 * alpha * delta * canaries)


def lower_bound(
    *, canaries: int, guesses: int, correct: int, delta: float, confidence: float = CONFIDENCE
) -> float:
    """The largest ε that so many right guesses disprove with that confidence; 0 when they disprove none.

    >>> round(lower_bound(canaries=1000, guesses=400, correct=400, delta=0.0), 2)
    4.89
    """

    def disproved(epsilon: float) -> bool:
        p = p_value(canaries=canaries, guesses=guesses, correct=correct, epsilon=epsilon, delta=delta)
        return p < 1 - confidence

    if not disproved(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while disproved(high):
        low, high = high, high + 1
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if disproved(middle) else (low, middle)
    return low


def guess(scores: NDArray[np.float64], present: NDArray[np.bool_], *, share: float = 0.2) -> tuple[int, int]:
    """(guesses, right ones) when the top and the bottom `share` of the scores are called in and out.

    The share is fixed beforehand: the best of several would be no 95 % bound.
    """
    each = int(share * len(scores))
    order = np.argsort(scores)
    right = int(np.sum(present[order[len(order) - each :]])) + int(np.sum(~present[order[:each]]))
    return 2 * each, right
