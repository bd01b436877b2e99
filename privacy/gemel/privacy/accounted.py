"""Which mechanisms can be accounted for, and within which limits; all else is refused."""

from __future__ import annotations

from gemel.core.errors import GemelError
from gemel.core.mechanism import Mechanism, MechanismKind
from gemel.privacy.noise import MAX_DISCRETE_SIGMA

_LEAST_NOISE, _MOST_NOISE = 1e-3, 1e9
# Listed, not "every member": a kind that is only added to the vocabulary stays refused.
_ACCOUNTED = frozenset(
    {
        MechanismKind.GAUSSIAN,
        MechanismKind.POISSON_GAUSSIAN,
        MechanismKind.DISCRETE_GAUSSIAN,
        MechanismKind.LAPLACE,
        MechanismKind.DISCRETE_LAPLACE,
        MechanismKind.EXPONENTIAL,
    }
)


def check_mechanism(mechanism: Mechanism) -> None:
    """Refuse (GEM303) a mechanism that is unknown or has impossible parameters."""
    z, q = mechanism.noise_multiplier, mechanism.sample_rate
    if mechanism.kind not in _ACCOUNTED:
        raise GemelError("GEM303", f"Mechanism {mechanism.kind!r} is not accounted for.")
    sampled = mechanism.kind == MechanismKind.POISSON_GAUSSIAN
    if not (_LEAST_NOISE <= z <= _MOST_NOISE and mechanism.count >= 1):
        raise GemelError("GEM303", f"Needs a noise multiplier of 1e-3 to 1e9 and a count, got {mechanism}.")
    if not (0 < q <= 1 and (sampled or q == 1)):
        raise GemelError("GEM303", f"Only poisson_gaussian has a sample rate below 1, got {mechanism}.")
    if mechanism.kind == MechanismKind.DISCRETE_GAUSSIAN and z > MAX_DISCRETE_SIGMA:
        raise GemelError("GEM303", f"A discrete Gaussian's noise is at most {MAX_DISCRETE_SIGMA}, got {z}.")
