"""Noise in shares: each node adds little, and only the sum, which alone is seen, is private.

Each node adds to its integer table discrete Gaussian noise of σ_share = z / sqrt(nodes - dropouts - colluders). The
sum of discrete Gaussians is not one, but nearly: its probabilities differ from those of a discrete Gaussian of
σ = z by factors between e^-τ and e^τ (Kairouz, Liu & Steinke, "The distributed discrete Gaussian mechanism for
federated learning with secure aggregation", ICML 2021, Theorem 1). A sum that is accounted as the discrete Gaussian
may then cost 2τ more of ε and e^τ times the δ; where that is not below 1e-10 the plan is refused, not approximated.
"""

from __future__ import annotations

import math

from gemel.core.errors import GemelError
from gemel.core.mechanism import Mechanism, MechanismKind

MOST_EXCESS_EPSILON = 1e-10
_LEAST_SIGMA = 0.5  # below, the theorem says nothing


def guaranteed(*, nodes: int, dropouts: int, colluders: int) -> int:
    """How many nodes' noise the sum surely has and nobody outside knows. Raises GEM322 when that is none."""
    if dropouts < 0 or colluders < 0 or nodes - dropouts - colluders < 1:
        raise GemelError(
            "GEM322", f"Of {nodes} nodes, {dropouts} may drop and {colluders} collude: no noise is left."
        )
    return nodes - dropouts - colluders


def share_sigma(noise_multiplier: float, *, nodes: int, dropouts: int, colluders: int) -> float:
    """σ of the noise that each node adds so that the guaranteed nodes together add at least `noise_multiplier`."""
    # One unit in the last place up: rounded down, the shares would add up to a little less.
    exact = noise_multiplier / math.sqrt(guaranteed(nodes=nodes, dropouts=dropouts, colluders=colluders))
    return math.nextafter(exact, math.inf)


def tau(sigma: float, *, shares: int) -> float:
    """Bound of |log (P[sum of shares = x] / P[discrete Gaussian of σ·sqrt(shares) = x])| over all x.

    10 · Σ_{k=1}^{shares-1} exp(-2π²σ² k/(k+1)), for σ >= 1/2 (infinite below). One share is exact: 0.
    """
    if shares == 1:
        return 0.0
    if sigma < _LEAST_SIGMA:
        return math.inf
    return 10.0 * sum(math.exp(-2 * math.pi**2 * sigma**2 * k / (k + 1)) for k in range(1, shares))


def mechanism_of_sum(
    noise_multiplier: float, *, nodes: int, dropouts: int, colluders: int, count: int = 1
) -> Mechanism:
    """What the release of `count` summed tables costs a patient, against everyone but more than `colluders` nodes.

    A patient changes one cell by one at one hospital. Noise beyond the guaranteed nodes' is independent of it and
    only helps. Raises GEM305 when the shares are so small that their sum is no discrete Gaussian to within 1e-10 of
    ε, GEM322 when no noise is guaranteed.
    """
    honest = guaranteed(nodes=nodes, dropouts=dropouts, colluders=colluders)
    sigma = share_sigma(noise_multiplier, nodes=nodes, dropouts=dropouts, colluders=colluders)
    excess = 2 * tau(sigma, shares=honest)
    if not excess <= MOST_EXCESS_EPSILON:
        raise GemelError(
            "GEM305",
            f"Shares of σ {sigma:.3g} add up to a discrete Gaussian only to within ε {excess:.2g}; "
            f"noise of at least {least_noise_multiplier(honest):.3g} is needed.",
        )
    return Mechanism(
        kind=MechanismKind.DISCRETE_GAUSSIAN, noise_multiplier=float(noise_multiplier), count=count
    )


def least_noise_multiplier(honest: int) -> float:
    """The smallest multiplier, to 0.01 above, that `mechanism_of_sum` takes for so many guaranteed shares."""
    low, high = 0.0, 4.0
    while high - low > 0.001:
        middle = (low + high) / 2
        fits = 2 * tau(middle, shares=honest) <= MOST_EXCESS_EPSILON
        low, high = (low, middle) if fits else (middle, high)
    return math.ceil(high * math.sqrt(honest) * 100) / 100
