"""Intervals that a sound mechanism leaves once in a million audits: how far a measurement may lie from its claim.

Each function takes `alpha`, the chance that it cries wolf. The defaults are so small that a failed check is a finding.
"""

from __future__ import annotations

import math

from scipy import stats

FALSE_ALARM = 1e-7
CONFIDENCE = 0.95


def variance_ratio_limits(draws: int, *, alpha: float = FALSE_ALARM) -> tuple[float, float]:
    """Where the mean square of `draws` normal draws over their variance lies (chi-square)."""
    low, high = stats.chi2.ppf([alpha / 2, 1 - alpha / 2], draws)
    return float(low / draws), float(high / draws)


def normal_limit(*, tests: int = 1, alpha: float = FALSE_ALARM) -> float:
    """The |z| that the largest of `tests` standard normal statistics does not pass (Bonferroni)."""
    return float(stats.norm.isf(alpha / (2 * tests)))


def binomial_limits(draws: int, p: float, *, tests: int = 1, alpha: float = FALSE_ALARM) -> tuple[int, int]:
    """Where each of `tests` counts of successes lies."""
    share = alpha / (2 * tests)
    return int(stats.binom.ppf(share, draws, p)), int(stats.binom.isf(share, draws, p))


def at_least(successes: int, trials: int, *, confidence: float = CONFIDENCE) -> float:
    """Lower limit of a proportion (Clopper & Pearson, 1934)."""
    if successes == 0:
        return 0.0
    return float(stats.beta.ppf(1 - confidence, successes, trials - successes + 1))


def at_most(successes: int, trials: int, *, confidence: float = CONFIDENCE) -> float:
    """Upper limit of a proportion (Clopper & Pearson, 1934)."""
    if successes == trials:
        return 1.0
    return float(stats.beta.ppf(confidence, successes + 1, trials - successes))


def epsilon_of_rates(true_positives: float, false_positives: float, delta: float) -> float:
    """The ε that an attack with these rates disproves: any smaller one forbids them.

    (ε, δ) implies TPR <= e^ε FPR + δ, and the same of the complements (Kairouz, Oh & Viswanath, 2015).
    """
    bounds = [0.0]
    if true_positives > delta and false_positives > 0:
        bounds.append(math.log((true_positives - delta) / false_positives))
    if 1 - false_positives > delta and true_positives < 1:
        bounds.append(math.log((1 - false_positives - delta) / (1 - true_positives)))
    return max(bounds)


def most_true_positives(false_positives: float, epsilon: float, delta: float) -> float:
    """The largest TPR at an FPR that (ε, δ) allows."""
    shrink = math.exp(-epsilon)
    return min(1.0, math.exp(epsilon) * false_positives + delta, 1 - shrink * (1 - delta - false_positives))
