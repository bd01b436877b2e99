"""Randomness for privacy: AES-256-CTR words, turned into Gaussian, discrete Gaussian and Bernoulli draws."""

from __future__ import annotations

import hashlib
import math
import os
import threading
from collections.abc import Callable
from decimal import Context, Decimal
from functools import lru_cache

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from gemel.core.errors import GemelError
from gemel.privacy.native import library

MAX_DISCRETE_SIGMA = 10_000.0
# Fits the cache, and is too small for torch to start threads for: those do not survive a fork.
_BLOCK = 8_192
_LOW_63_BITS = np.int64((1 << 63) - 1)
# What was noised keeps 20 bits below the noise's own size.
_LATTICE_BITS = 20
_NEGLIGIBLE_BITS = 100
_HALF_WORD = 1 << 64


def lattice_spacing(sigma: float) -> float:
    """The power of two to whose multiples a sum is rounded after noise of standard deviation `sigma` was added.

    Between 2^-21 and 2^-20 of σ: it adds less than 1e-12 to the variance, and hides which floats the noise could reach.
    """
    return 2.0 ** (math.floor(math.log2(sigma)) - _LATTICE_BITS)


class NoiseSource:
    """A stream of random words under a key that nobody sees, and the draws that mechanisms need.

    AES-256 in counter mode over zeros is a pseudo-random generator; its key comes from `os.urandom` and is
    drawn anew in a forked process, so that two processes never add the same noise. Draws are thread-safe.
    """

    def __init__(self, new_key: Callable[[], bytes], *, is_secure: bool) -> None:
        self._new_key = new_key
        self._is_secure = is_secure
        self._lock = threading.Lock()
        self._rekey()

    @classmethod
    def secure(cls) -> NoiseSource:
        """A source keyed by the operating system: the only kind that may touch a release."""
        return cls(lambda: os.urandom(32), is_secure=True)

    @classmethod
    def for_tests(cls, seed: int) -> NoiseSource:
        """The same algorithms under a key that the seed gives away: for tests, never for a release."""
        key = hashlib.sha256(f"gemel noise for tests {seed}".encode()).digest()
        return cls(lambda: key, is_secure=False)

    @property
    def is_secure(self) -> bool:
        """True when the key is the operating system's."""
        return self._is_secure

    def child(self) -> NoiseSource:
        """Another source, independent of this one, as secure; a seeded one's child is given by the seed."""
        if self._is_secure:
            return NoiseSource.secure()
        key = self.words(4).tobytes()
        return NoiseSource(lambda: key, is_secure=False)

    def _rekey(self) -> None:
        self._process = os.getpid()
        # A zero counter block is safe: each key is used for one stream only.
        self._stream = Cipher(algorithms.AES256(self._new_key()), modes.CTR(bytes(16))).encryptor()

    def words(self, count: int) -> NDArray[np.uint64]:
        """`count` uniform 64-bit words."""
        with self._lock:
            if self._is_secure and os.getpid() != self._process:
                self._rekey()
            # In place: the cipher asks for room for one block more than there is data.
            room = np.zeros(count + 2, dtype="<u8")
            view = memoryview(room.data).cast("B")
            self._stream.update_into(view[: 8 * count], view)
            return room[:count].astype(np.uint64, copy=False)

    def gaussian(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Standard normal draws by Box-Muller in float64: 63 random bits for each radius, 53 for each angle.

        Which floats a draw can reach tells of what it was added to (Mironov, "On significance of the least significant
        bits for differential privacy", CCS 2012): what was noised must be rounded to multiples of `lattice_spacing`.
        A radius is at most 9.35, which leaves out 2^-63 of the distribution.
        """
        size = math.prod(shape)
        pairs = (size + 1) // 2
        words = self.words(2 * pairs).view(np.int64).reshape(2, pairs)
        draws = np.empty((2, pairs))
        for start in range(0, pairs, _BLOCK):
            block = slice(start, start + _BLOCK)
            _box_muller(words[0, block], words[1, block], draws[:, block])
        return draws.reshape(-1)[:size].reshape(shape)

    def discrete_gaussian(self, sigma: float, shape: tuple[int, ...]) -> NDArray[np.int64]:
        """Integers x with probability proportional to exp(-x² / 2σ²).

        Source of the distribution: Canonne, Kamath & Steinke, NeurIPS 2020. Drawn by inverting a table of the
        distribution function with 128-bit integers: each probability is exact to 2^-128, and the two tails that
        the table leaves out weigh less than 2^-100 together. Raises GEM305 when σ is not in (0, 10000].
        """
        table = _discrete_gaussian_table(float(sigma))
        size = math.prod(shape)
        words = self.words(2 * size)
        high, low = words[:size], words[size:]
        # The draw is the number of thresholds that are not above the 128-bit uniform number.
        index = np.searchsorted(table.high, high, side="left")
        undecided = np.flatnonzero(index != np.searchsorted(table.high, high, side="right"))
        for i in undecided:  # the upper halves tie: once in about 2^54 draws, settled exactly
            uniform = int(high[i]) * _HALF_WORD + int(low[i])
            index[i] = sum(threshold <= uniform for threshold in table.thresholds)
        return (index.astype(np.int64) - table.bound).reshape(shape)

    def bernoulli(self, probability: float, count: int) -> NDArray[np.bool_]:
        """`count` independent coins: one 64-bit word each, compared with floor(p · 2^64), so exact to 2^-64."""
        if not 0 <= probability <= 1:
            raise GemelError("GEM305", f"A probability must lie in [0, 1], got {probability}.")
        if probability == 1:
            return np.ones(count, dtype=np.bool_)
        return self.words(count) < np.uint64(int(probability * _HALF_WORD))

    def __repr__(self) -> str:
        return f"NoiseSource(is_secure={self._is_secure})"


def _box_muller(
    for_radius: NDArray[np.int64], for_angle: NDArray[np.int64], draws: NDArray[np.float64]
) -> None:
    """Two draws a pair of words, into rows of (2, n): native where it was built, for the same numbers to 1e-14."""
    native = library()
    if native is not None:
        native.gemel_normals(*(part.ctypes.data for part in (for_radius, for_angle, *draws)), len(for_radius))
        return
    # For its float64 functions, which are two to three times numpy's; imported late, for the accountant needs none.
    import torch

    # Signed integers become floats many at a time, unsigned ones do not. In (0, 1], so that the logarithm is finite.
    uniform = ((for_radius & _LOW_63_BITS) + np.float64(1.0)) * 2.0**-63
    radius = torch.from_numpy(uniform).log_().mul_(-2.0).sqrt_()
    angle = torch.from_numpy((for_angle >> 11) * (math.pi * 2.0**-52))
    torch.mul(radius, angle.cos(), out=torch.from_numpy(draws[0]))
    torch.mul(radius, angle.sin_(), out=torch.from_numpy(draws[1]))


class _Table:
    """P(X <= x) · 2^128, rounded down, for x = -bound … bound - 1; every draw above them is `bound`."""

    def __init__(self, sigma: float) -> None:
        context = Context(prec=60)
        variance = context.multiply(Decimal(2), context.multiply(Decimal(sigma), Decimal(sigma)))
        # exp(-b²/2σ²) < 2^-100 for b >= σ sqrt(200 ln 2); one more step covers the tail's sum.
        self.bound = math.ceil(sigma * math.sqrt(2 * (_NEGLIGIBLE_BITS + 8) * math.log(2))) + 1
        half = [context.exp(context.divide(Decimal(-k * k), variance)) for k in range(self.bound + 1)]
        weights = half[:0:-1] + half
        total = Decimal(0)
        cumulated = [total := context.add(total, weight) for weight in weights]
        scale = context.divide(Decimal(1 << 128), total)
        # Far up, the sum rounds to the total; what is left of the mass there is less than 2^-128.
        largest = (1 << 128) - 1
        self.thresholds = [min(int(context.multiply(part, scale)), largest) for part in cumulated[:-1]]
        self.high = np.array([threshold >> 64 for threshold in self.thresholds], dtype=np.uint64)


@lru_cache(maxsize=32)
def _discrete_gaussian_table(sigma: float) -> _Table:
    if not 0 < sigma <= MAX_DISCRETE_SIGMA:
        raise GemelError("GEM305", f"A discrete Gaussian's sigma must be in (0, 10000], got {sigma}.")
    return _Table(sigma)
