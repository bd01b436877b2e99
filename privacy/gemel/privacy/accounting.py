"""How much privacy mechanisms cost together: privacy loss distributions by dp-accounting, unit one patient.

Neighbouring data sets differ by adding or removing one patient. Composition holds for mechanisms whose
parameters were fixed before any private output was seen, as a signed study fixes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from dp_accounting.pld import pld_pmf
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.pld.privacy_loss_mechanism import GaussianPrivacyLoss

from gemel.core.errors import GemelError
from gemel.core.mechanism import Charge, Mechanism, MechanismKind, mechanisms_by_patient
from gemel.privacy import renyi
from gemel.privacy.accounted import check_mechanism
from gemel.privacy.loss_distributions import epsilon_for_delta, sampled_gaussian, self_composed

NEIGHBOURING_RELATION = "add_or_remove_one_patient"
# The grid of privacy losses. dp-accounting rounds so that the result is an upper bound; at 1e-4 the excess is
# about 1e-6 of ε for a study of some 150 releases, and accounting for it takes about 0.3 s.
VALUE_DISCRETIZATION_INTERVAL = 1e-4
# ε is rounded up to this: two machines whose FFTs differ in the last bits then state the same number.
EPSILON_STEP = 1e-6
# Time and memory: points on the grid of one run of each mechanism, and of all runs together.
_MOST_POINTS_OF_ONE, _MOST_POINTS_OF_ALL, _MOST_RUNS = 2**19, 2**21, 10**6
# Such a mean loss is an ε beyond use, and not worked out for minutes: Rényi's bound will do.
_MOST_EXPECTED_LOSS = 200.0
_ROUNDING = 1e-15
_MU_OF_OVERFLOW = 20.0
_POISSON = MechanismKind.POISSON_GAUSSIAN.value


def epsilon(mechanisms: Sequence[Mechanism], *, delta: float) -> float:
    """The smallest ε, rounded up to 1e-6, such that running all the mechanisms is (ε, δ)-DP for each patient.

    Equal mechanisms are merged and all are composed in one order, so the order of the argument is of no
    consequence. Nothing run costs 0. The discrete Gaussian is accounted by its own privacy loss distribution,
    not as the continuous one. Raises GEM303 for a mechanism that is unknown or has impossible parameters.
    """
    if not 0 < delta < 1:
        raise GemelError("GEM303", f"delta must lie in (0, 1), got {delta}.")
    return _epsilon(_merged(mechanisms), delta)


def price(charges: Iterable[Charge], *, delta: float) -> float:
    """What the charges cost the patient who pays most, at δ: training and held-out patients are disjoint."""
    return max(epsilon(paid, delta=delta) for paid in mechanisms_by_patient(charges).values())


def epsilon_of_events_json(events: Sequence[Mapping[str, Any]], *, delta: float) -> float:
    """ε of mechanisms in their JSON form, as an exported ledger lists them (`docs/privacy.md`)."""
    try:
        mechanisms = [msgspec.convert(dict(event), Mechanism) for event in events]
    except msgspec.ValidationError as error:
        raise GemelError("GEM303", f"Not a mechanism of the plan: {error}.") from error
    return epsilon(mechanisms, delta=delta)


def merged(mechanisms: Sequence[Mechanism]) -> tuple[Mechanism, ...]:
    """Equal mechanisms as one with their counts added, in a fixed order. Raises GEM303 as `epsilon` does."""
    return tuple(map(_mechanism, _merged(mechanisms)))


_Key = tuple[str, float, float, int]  # kind, noise multiplier, sample rate, count


def _merged(mechanisms: Sequence[Mechanism]) -> tuple[_Key, ...]:
    counts: dict[tuple[str, float, float], int] = {}
    for mechanism in mechanisms:
        check_mechanism(mechanism)
        key = (str(mechanism.kind), float(mechanism.noise_multiplier), float(mechanism.sample_rate))
        counts[key] = counts.get(key, 0) + mechanism.count
        if mechanism.kind != MechanismKind.GAUSSIAN and counts[key] > _MOST_RUNS:
            raise GemelError("GEM303", f"At most {_MOST_RUNS} runs of a {mechanism.kind} are accounted for.")
    return tuple((*key, count) for key, count in sorted(counts.items()))


@lru_cache(maxsize=1024)
def _epsilon(keys: tuple[_Key, ...], delta: float) -> float:
    if not keys:
        return 0.0
    bound = min(_by_distributions(_with_one_gaussian(keys), delta), _by_moments(keys, delta))
    return bound if math.isinf(bound) else math.ceil(bound / EPSILON_STEP) / round(1 / EPSILON_STEP)


def _by_distributions(parts: tuple[_Key, ...], delta: float) -> float:
    # Rounding in the transforms of n runs leaves some n times a double's precision of mass unseen, and on the grid a bit.
    seen = delta - _ROUNDING * (100 + sum(count for *_, count in parts))
    if seen <= 0 or sum(map(_expected_loss, parts)) > _MOST_EXPECTED_LOSS:
        return math.inf
    step = _grid(parts)
    first, *others = (_distribution(key, step) for key in parts)
    for other in others:
        first = first.compose(other)
    return epsilon_for_delta(first, seen)


def _by_moments(keys: tuple[_Key, ...], delta: float) -> float:
    """Rényi's bound: looser by some percent, but there is always one, and it needs no grid that losses may be below."""
    curves = np.array([renyi.curve(_mechanism(key)) for key in keys])
    return float(renyi.epsilon(curves.sum(axis=0), delta=delta, margin=0.0))


def _mechanism(key: _Key) -> Mechanism:
    kind, z, q, count = key
    return Mechanism(kind=MechanismKind(kind), noise_multiplier=z, sample_rate=q, count=count)


def _with_one_gaussian(keys: tuple[_Key, ...]) -> tuple[_Key, ...]:
    """Exact: the privacy losses of full-batch Gaussians are normal, and add up to those of a single one."""
    full = [key for key in keys if key[0] == MechanismKind.GAUSSIAN or (key[0] == _POISSON and key[2] == 1)]
    if not full:
        return keys
    precision = sum(n / z**2 for _, z, _, n in full)
    one = (MechanismKind.GAUSSIAN.value, precision**-0.5, 1.0, 1)
    return (one, *(key for key in keys if key not in full))


def _expected_loss(key: _Key) -> float:
    """An upper bound on the mean privacy loss of all runs."""
    kind, z, q, count = key
    if kind in (MechanismKind.LAPLACE, MechanismKind.DISCRETE_LAPLACE, MechanismKind.EXPONENTIAL):
        return count * min(1 / z, z**-2 / 2)
    if kind == _POISSON and z > _MU_OF_OVERFLOW**-1:
        return count * min(q / (2 * z**2), q**2 * math.expm1(z**-2) / 2)
    return count * q / (2 * z**2)


def _range(key: _Key) -> float:
    """The width of the privacy losses of one run, less negligible tails (as dp-accounting cuts them)."""
    kind, z, q, _ = key
    if kind in (MechanismKind.LAPLACE, MechanismKind.DISCRETE_LAPLACE, MechanismKind.EXPONENTIAL):
        return 2 / z
    half = 0.5 / z**2 + 10 / z
    return half + (min(half, -math.log1p(-q)) if q < 1 else half)


def _grid(parts: tuple[_Key, ...]) -> float:
    """The usual grid, doubled until time and memory are bounded: a coarser one is an upper bound too."""
    one = sum(_range(key) for key in parts)
    all_runs = 0.0
    for key in parts:
        spread = 20 * math.sqrt(2 * _expected_loss(key)) + 3 * _range(key)
        all_runs += min(key[3] * _range(key), spread)
    step = VALUE_DISCRETIZATION_INTERVAL
    while one / step > _MOST_POINTS_OF_ONE or all_runs / step > _MOST_POINTS_OF_ALL:
        step *= 2
    return step


@lru_cache(maxsize=32)
def _distribution(key: _Key, step: float) -> pld.PrivacyLossDistribution:
    kind, z, q, count = key
    return self_composed(_single(kind, z, q, step), count)


@lru_cache(maxsize=128)
def _single(kind: str, z: float, q: float, step: float) -> pld.PrivacyLossDistribution:
    # Kept apart: to make one takes longer than to compose it, and patients' histories differ in how often it ran.
    if kind == MechanismKind.DISCRETE_GAUSSIAN:
        # A table changes in one cell by one, so the scalar mechanism of sensitivity 1 is what a patient sees,
        # whatever the table's size. (dp-accounting 0.6 has this distribution, but no DpEvent for it.)
        return pld.from_discrete_gaussian_mechanism(
            z, sensitivity=1, value_discretization_interval=step, use_connect_dots=True
        )
    if kind == MechanismKind.LAPLACE:
        return pld.from_laplace_mechanism(z, value_discretization_interval=step)
    if kind == MechanismKind.DISCRETE_LAPLACE:
        return pld.from_discrete_laplace_mechanism(
            1 / z, sensitivity=1, value_discretization_interval=step, use_connect_dots=True
        )
    if kind == MechanismKind.EXPONENTIAL:
        return _selection(1 / z, step)
    if q < 1:
        return sampled_gaussian(z, sample_rate=q, value_discretization_interval=step)
    return _gaussian(z, step)


def _gaussian(z: float, step: float) -> pld.PrivacyLossDistribution:
    """As `pld.from_gaussian_mechanism`, its hockey-stick divergences (Balle & Wang 2018) as one array."""
    loss = GaussianPrivacyLoss(z)
    bounds = loss.connect_dots_bounds()
    lowest, highest = math.floor(bounds.epsilon_lower / step), math.ceil(bounds.epsilon_upper / step)
    losses = np.arange(lowest, highest + 1) * step
    x = -losses * z**2 - 0.5
    deltas = np.clip(loss.mu_upper_cdf(x) - np.exp(losses + loss.mu_lower_log_cdf(x)), 0, 1)
    return pld.PrivacyLossDistribution(
        pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(step, lowest, highest, deltas)
    )


def _selection(epsilon: float, step: float) -> pld.PrivacyLossDistribution:
    """The pair of distributions that dominates every exponential selection of ε, adaptive ones included.

    Its privacy loss lies in an interval of width ε that depends on the data (bounded range: Durfee & Rogers 2019), so
    it is a post-processing of randomised response with losses t and t-ε for some t in [0, ε] (Dong, Durfee & Rogers
    2020). The worst t differs from one hockey-stick divergence to the next; their supremum over t,
    (1 - exp((x-ε)/2))² / (1 - exp(-ε)) at x in [-ε, ε], is again that of a pair (Zhu, Dong & Wang 2022), with the loss
    distributed on [-ε, ε] with density ∝ exp(x/2), and pairs that dominate compose. Each cell of the grid
    is divided between its ends so that both distributions keep their mass (connect the dots).
    """
    most = math.ceil(epsilon / step)
    ends = np.arange(-most, most + 1) * step
    low, high = np.maximum(ends[:-1], -epsilon), np.minimum(ends[1:], epsilon)
    mass = np.exp(low / 2) * np.expm1((high - low) / 2) / (2 * math.sinh(epsilon / 2))
    left = mass * np.expm1(ends[1:] - (low + high) / 2) / math.expm1(step)
    probabilities = np.append(left, 0.0)
    probabilities[1:] += mass - left
    by_loss = dict(zip(range(-most, most + 1), probabilities.tolist(), strict=True))
    return pld.PrivacyLossDistribution.create_from_rounded_probability(by_loss, 0.0, step)
