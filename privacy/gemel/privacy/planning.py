"""Divide a study's (ε, δ) among its releases: noise multipliers that spend it all, and never more."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from gemel.core.errors import GemelError
from gemel.core.mechanism import Mechanism, MechanismKind
from gemel.privacy.accounting import epsilon as epsilon_of

TOLERANCE = 1e-3
_GRAIN = 10.0**6  # multipliers have six decimals
_MAX_EVALUATIONS = 60


class Shares(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the budget is divided, in units of 1/σ² (what Gaussian releases add up in); sums to 1.

    For training with a sample rate below 1 the share is nominal (the central limit cost of sampling).
    """

    training: float = 0.6
    metrics: float = 0.15
    marginals: float = 0.2
    count: float = 0.05


class NoisePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Noise multipliers of one training step, one metrics table, one marginal table, the count; their ε."""

    training: float
    metrics: float
    marginals: float
    count: float
    epsilon: float


def plan(
    *,
    epsilon: float,
    delta: float,
    rounds: int,
    local_steps: int,
    metrics_tables: int,
    marginal_tables: int,
    shares: Shares,
    sample_rate: float = 1.0,
) -> NoisePlan:
    """Solve for the noise that makes the whole study cost at most `epsilon`, and at least `epsilon` - 1e-3.

    One factor scales all shares; multipliers are rounded up to six decimals, and what is returned was accounted
    after that rounding: `accounting.epsilon(study.all_mechanisms(), delta=delta) <= epsilon`. Raises GEM305
    when the request is out of range or no noise in the allowed range meets it.
    """
    steps = rounds * local_steps
    counts = (rounds, local_steps, metrics_tables, marginal_tables)
    if not (0 < epsilon <= 100 and 0 < delta <= 1e-3 and 0 < sample_rate <= 1 and min(counts) >= 1):
        raise GemelError("GEM305", f"Out of range: {epsilon=}, {delta=}, {sample_rate=}, {counts=}.")
    _check_shares(shares)

    def at(log_scale: float) -> NoisePlan:
        scale = math.exp(log_scale)
        training = _step_multiplier(shares.training * scale / steps, sample_rate)
        metrics = _round_up(math.sqrt(metrics_tables / (shares.metrics * scale)))
        marginals = _round_up(math.sqrt(marginal_tables / (shares.marginals * scale)))
        count = _round_up(math.sqrt(1 / (shares.count * scale)))
        discrete = MechanismKind.DISCRETE_GAUSSIAN
        kind = MechanismKind.GAUSSIAN if sample_rate == 1 else MechanismKind.POISSON_GAUSSIAN
        mechanisms = (
            Mechanism(kind=kind, noise_multiplier=training, sample_rate=sample_rate, count=steps),
            Mechanism(kind=discrete, noise_multiplier=metrics, count=metrics_tables),
            Mechanism(kind=discrete, noise_multiplier=marginals, count=marginal_tables),
            Mechanism(kind=discrete, noise_multiplier=count),
        )
        cost = epsilon_of(mechanisms, delta=delta)
        return NoisePlan(training=training, metrics=metrics, marginals=marginals, count=count, epsilon=cost)

    try:
        return _solve(at, epsilon, start=2 * math.log(_gaussian_mu(epsilon, delta)))
    except GemelError as error:
        message = f"No noise meets epsilon={epsilon} at delta={delta}: {error.message}"
        raise GemelError("GEM305", message) from error


def _check_shares(shares: Shares) -> None:
    parts = (shares.training, shares.metrics, shares.marginals, shares.count)
    if min(parts) <= 0 or not math.isclose(math.fsum(parts), 1, abs_tol=1e-9):
        raise GemelError("GEM305", f"Shares must be positive and sum to 1, got {shares}.")


def _solve(at: Callable[[float], NoisePlan], target: float, *, start: float) -> NoisePlan:
    """Regula falsi (Illinois) for log ε, which is almost linear in the log of the scale."""
    tolerance = min(TOLERANCE, target / 100)
    aim = math.log(target - tolerance / 2)
    ends: dict[bool, tuple[float, float]] = {}  # too much or not: (log scale, log ε - aim)
    at_scale, side_before = start, None
    for _ in range(_MAX_EVALUATIONS):
        candidate = at(at_scale)
        if target - tolerance <= candidate.epsilon <= target:
            return candidate
        # Clamped: ε may be 0, or infinite.
        excess = min(max(math.log(max(candidate.epsilon, 1e-9)) - aim, -2.0), 2.0)
        side = excess > 0
        ends[side] = (at_scale, excess)
        if (not side) not in ends:
            at_scale -= 2 * math.copysign(max(abs(excess), 0.01), excess)
            continue
        other_scale, other_excess = ends[not side]
        if side == side_before:
            ends[not side] = (other_scale, other_excess / 2)
            other_excess /= 2
        side_before = side
        at_scale -= excess * (at_scale - other_scale) / (excess - other_excess)
    raise GemelError("GEM305", f"the search ended at epsilon={candidate.epsilon}.")


def _round_up(multiplier: float) -> float:
    return math.ceil(multiplier * _GRAIN) / _GRAIN


def _step_multiplier(precision: float, sample_rate: float) -> float:
    """The noise of one step that costs `precision` (1/σ²): exact for full batches, else by the CLT.

    The central limit of Poisson sampling, q² (exp(1/z²) - 1), is from Bu, Dong, Long & Su, 2020. It only divides
    the budget; what is enforced is the accountant's ε.
    """
    if sample_rate == 1:
        return _round_up(1 / math.sqrt(precision))
    return _round_up(1 / math.sqrt(math.log1p(precision / sample_rate**2)))


def _gaussian_mu(epsilon: float, delta: float) -> float:
    """The μ at which a Gaussian mechanism is exactly (ε, δ)-DP (Balle & Wang, 2018)."""

    def tail(x: float) -> float:
        return math.erfc(x / math.sqrt(2)) / 2

    low, high = 1e-6, 100.0
    for _ in range(60):
        mu = math.sqrt(low * high)
        excess = tail(epsilon / mu - mu / 2) - math.exp(epsilon) * tail(epsilon / mu + mu / 2) > delta
        low, high = (low, mu) if excess else (mu, high)
    return low
