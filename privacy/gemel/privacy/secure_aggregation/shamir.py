"""Shamir's secret sharing of 32-byte secrets over a prime field just above 2^256."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from gemel.core.errors import GemelError

PRIME = (1 << 256) + 297  # the least prime above 2^256, so that every 32-byte secret is an element
SECRET_BYTES, SHARE_BYTES = 32, 33


def split(secret: bytes, *, threshold: int, points: int) -> dict[int, bytes]:
    """Share a secret among the points 1 … `points`: any `threshold` shares give it, fewer say nothing about it.

    Shares are 33 bytes: values of a random polynomial of degree `threshold` - 1 whose value at 0 is the secret
    (Shamir, CACM 1979). Raises GEM320 on a secret of another size, GEM322 on an impossible threshold.
    """
    if len(secret) != SECRET_BYTES:
        raise GemelError("GEM320", f"A shared secret has {SECRET_BYTES} bytes, got {len(secret)}.")
    if not 1 <= threshold <= points:
        raise GemelError("GEM322", f"A threshold of {threshold} with {points} shares.")
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return {x: _value(coefficients, x).to_bytes(SHARE_BYTES, "big") for x in range(1, points + 1)}


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The secret from at least as many shares (point -> share) as the threshold was.

    Fewer give an unrelated value, which only the caller can notice. Raises GEM320 when a share is malformed or the
    value is no 32-byte secret.
    """
    points = sorted(shares)
    if not points or points[0] < 1:
        raise GemelError("GEM320", "A share belongs to a point of 1 or above.")
    secret = 0
    for x in points:
        weight, divisor = 1, 1
        for other in points:
            if other != x:
                weight = weight * other % PRIME
                divisor = divisor * (other - x) % PRIME
        secret += _element(shares[x]) * weight * pow(divisor, -1, PRIME)
    secret %= PRIME
    if secret >> 256:
        raise GemelError("GEM320", "The shares do not belong to one secret.")
    return secret.to_bytes(SECRET_BYTES, "big")


def _value(coefficients: list[int], x: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value


def _element(share: bytes) -> int:
    value = int.from_bytes(share, "big")
    if len(share) != SHARE_BYTES or value >= PRIME:
        raise GemelError("GEM320", "A share is malformed.")
    return value
