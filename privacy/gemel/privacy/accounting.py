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
from dp_accounting.pld import privacy_loss_distribution as pld

from gemel.core.errors import GemelError
from gemel.core.mechanism import Charge, Mechanism, MechanismKind, mechanisms_by_patient
from gemel.privacy.noise import MAX_DISCRETE_SIGMA

NEIGHBOURING_RELATION = "add_or_remove_one_patient"
# The grid of privacy losses. dp-accounting rounds so that the result is an upper bound; at 1e-4 the excess is
# about 1e-6 of ε for a study of some 150 releases, and accounting for it takes about 0.3 s.
VALUE_DISCRETIZATION_INTERVAL = 1e-4
# ε is rounded up to this: two machines whose FFTs differ in the last bits then state the same number.
EPSILON_STEP = 1e-6
# Listed, not "every member": a kind that is only added to the vocabulary stays refused.
_ACCOUNTED = frozenset(
    {
        MechanismKind.GAUSSIAN,
        MechanismKind.POISSON_GAUSSIAN,
        MechanismKind.DISCRETE_GAUSSIAN,
        MechanismKind.LAPLACE,
    }
)


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
    return tuple(
        Mechanism(kind=MechanismKind(kind), noise_multiplier=z, sample_rate=q, count=count)
        for kind, z, q, count in _merged(mechanisms)
    )


_Key = tuple[str, float, float, int]  # kind, noise multiplier, sample rate, count


def _merged(mechanisms: Sequence[Mechanism]) -> tuple[_Key, ...]:
    counts: dict[tuple[str, float, float], int] = {}
    for mechanism in mechanisms:
        _check(mechanism)
        key = (str(mechanism.kind), float(mechanism.noise_multiplier), float(mechanism.sample_rate))
        counts[key] = counts.get(key, 0) + mechanism.count
    return tuple((*key, count) for key, count in sorted(counts.items()))


def _check(mechanism: Mechanism) -> None:
    z, q = mechanism.noise_multiplier, mechanism.sample_rate
    if mechanism.kind not in _ACCOUNTED:
        raise GemelError("GEM303", f"Mechanism {mechanism.kind!r} is not accounted for.")
    sampled = mechanism.kind == MechanismKind.POISSON_GAUSSIAN
    if not (math.isfinite(z) and z > 0 and mechanism.count >= 1):
        raise GemelError("GEM303", f"Needs a positive noise multiplier and count, got {mechanism}.")
    if not (0 < q <= 1 and (sampled or q == 1)):
        raise GemelError("GEM303", f"Only poisson_gaussian has a sample rate below 1, got {mechanism}.")
    if mechanism.kind == MechanismKind.DISCRETE_GAUSSIAN and z > MAX_DISCRETE_SIGMA:
        raise GemelError("GEM303", f"A discrete Gaussian's noise is at most {MAX_DISCRETE_SIGMA}, got {z}.")


@lru_cache(maxsize=1024)
def _epsilon(keys: tuple[_Key, ...], delta: float) -> float:
    if not keys:
        return 0.0
    composed = pld.identity(value_discretization_interval=VALUE_DISCRETIZATION_INTERVAL)
    gaussian_precision = sum(n / z**2 for kind, z, _, n in keys if kind == MechanismKind.GAUSSIAN)
    if gaussian_precision > 0:
        # Exact: the privacy losses of full-batch Gaussians are normal, and add up to those of a single one.
        composed = _distribution((MechanismKind.GAUSSIAN.value, gaussian_precision**-0.5, 1.0, 1))
    for key in keys:
        if key[0] != MechanismKind.GAUSSIAN:
            composed = composed.compose(_distribution(key))
    exact = float(composed.get_epsilon_for_delta(delta))
    return exact if math.isinf(exact) else math.ceil(exact / EPSILON_STEP) / round(1 / EPSILON_STEP)


@lru_cache(maxsize=32)
def _distribution(key: _Key) -> pld.PrivacyLossDistribution:
    kind, z, q, count = key
    step = VALUE_DISCRETIZATION_INTERVAL
    if kind == MechanismKind.DISCRETE_GAUSSIAN:
        # A table changes in one cell by one, so the scalar mechanism of sensitivity 1 is what a patient sees,
        # whatever the table's size. (dp-accounting 0.6 has this distribution, but no DpEvent for it.)
        single = pld.from_discrete_gaussian_mechanism(
            z, sensitivity=1, value_discretization_interval=step, use_connect_dots=True
        )
    elif kind == MechanismKind.LAPLACE:
        single = pld.from_laplace_mechanism(z, value_discretization_interval=step)
    else:
        single = pld.from_gaussian_mechanism(z, value_discretization_interval=step, sampling_prob=q)
    return single.self_compose(count)
