"""Noisy counts under attack: their distribution, and what two cohorts that differ by one patient give away."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gemel.core.mechanism import Mechanism, MechanismKind
from gemel.privacy.accounting import epsilon
from gemel.privacy.audit.intervals import (
    FALSE_ALARM,
    at_least,
    at_most,
    epsilon_of_rates,
    variance_ratio_limits,
)
from gemel.privacy.audit.report import Check
from gemel.privacy.noise import NoiseSource
from gemel.privacy.statistics import noisy_counts

NOISE, DIFFERENCING = "table noise", "differencing"
_LEAST_EXPECTED = 20.0
# Four thresholds are tried, so each has a quarter of the 5 %.
_THRESHOLDS = (0.0, 0.5, 1.0, 1.5)


def attack(noise_multiplier: float, *, delta: float, draws: int = 40_000) -> Iterator[Check]:
    """Try the noise of counts at one multiplier: chi-square against the exact law, then tell n from n + 1."""
    noise = NoiseSource.secure()
    exact = np.full(draws, 1000, np.int64)
    exact[::2] = 0  # noise must not depend on what it hides
    released = noisy_counts(exact, noise_multiplier=noise_multiplier, noise=noise)
    residual = (released - exact).astype(np.int64)
    yield _spread(residual, noise_multiplier)
    yield _law(residual, noise_multiplier)
    yield _differencing(noise_multiplier, delta=delta, draws=draws)


def mass(values: NDArray[np.int64], sigma: float) -> NDArray[np.float64]:
    """P(X = x) of the discrete Gaussian, by its definition and not by the tables that draw from it."""
    reach = np.arange(-math.ceil(12 * sigma) - 12, math.ceil(12 * sigma) + 13)
    total = np.exp(-(reach**2) / (2 * sigma**2)).sum()
    weights: NDArray[np.float64] = np.exp(-(values.astype(np.float64) ** 2) / (2 * sigma**2)) / total
    return weights


def variance_of(sigma: float) -> float:
    """Variance of the discrete Gaussian of parameter σ."""
    reach = np.arange(-math.ceil(12 * sigma) - 12, math.ceil(12 * sigma) + 13)
    return float(np.sum(reach**2 * mass(reach, sigma)))


def _spread(residual: NDArray[np.int64], sigma: float) -> Check:
    expected = math.sqrt(variance_of(sigma))
    measured = float(np.sqrt(np.mean(residual.astype(np.float64) ** 2)))
    low, high = (math.sqrt(limit) * expected for limit in variance_ratio_limits(residual.size))
    return Check(
        NOISE,
        f"Counts carry noise of the plan's standard deviation (z = {sigma:.4g}).",
        f"{expected:.4g}; {low:.4g} to {high:.4g} allowed",
        f"{measured:.4g}, {residual.size} draws",
        low <= measured <= high,
        numbers={"claimed": expected, "measured": measured},
    )


def _law(residual: NDArray[np.int64], sigma: float) -> Check:
    """Chi-square of the counts of each integer against the exact probabilities; the tails are two more cells."""
    reach = np.arange(-math.ceil(5 * sigma), math.ceil(5 * sigma) + 1)
    expected = mass(reach, sigma) * residual.size
    inside = reach[expected >= _LEAST_EXPECTED]
    observed = [float(np.sum(residual == x)) for x in inside]
    wanted = list(mass(inside, sigma) * residual.size)
    observed.append(residual.size - sum(observed))
    wanted.append(residual.size - sum(wanted))
    if wanted[-1] < _LEAST_EXPECTED:
        observed[-2:], wanted[-2:] = [sum(observed[-2:])], [sum(wanted[-2:])]
    statistic = sum((o - w) ** 2 / w for o, w in zip(observed, wanted, strict=True))
    p = float(stats.chi2.sf(statistic, len(wanted) - 1))
    return Check(
        NOISE,
        f"The noise of counts follows the discrete Gaussian (chi-square, z = {sigma:.4g}).",
        f"p >= {FALSE_ALARM:g}",
        f"p = {p:.3g}, {len(wanted)} cells",
        p >= FALSE_ALARM,
        numbers={"claimed": FALSE_ALARM, "measured": p},
    )


def _differencing(sigma: float, *, delta: float, draws: int) -> Check:
    """Release n and n + 1 many times; threshold each; what TPR and FPR disprove stays below the claim."""
    noise = NoiseSource.secure()
    without, with_one = (
        noisy_counts(np.full(draws, n, np.int64), noise_multiplier=sigma, noise=noise) - 100
        for n in (100, 101)
    )
    confidence = 1 - 0.05 / (4 * len(_THRESHOLDS))
    bound = 0.0
    for quantile in _THRESHOLDS:
        threshold = math.ceil(quantile * sigma)
        hits, alarms = int(np.sum(with_one >= threshold)), int(np.sum(without >= threshold))
        bound = max(
            bound,
            epsilon_of_rates(
                at_least(hits, draws, confidence=confidence),
                at_most(alarms, draws, confidence=confidence),
                delta,
            ),
        )
    mechanism = Mechanism(kind=MechanismKind.DISCRETE_GAUSSIAN, noise_multiplier=sigma)
    claimed = epsilon((mechanism,), delta=delta)
    return Check(
        DIFFERENCING,
        f"One count of n patients and one of n + 1 are not told apart better than ε allows (z = {sigma:.4g}).",
        f"ε = {claimed:.4f}",
        f"ε >= {bound:.4f} (95 %), {draws} releases of each",
        bound <= claimed,
        numbers={"claimed": claimed, "measured": bound},
    )
