"""Numbers as words of a finite ring, so that sums are exact: integers as they are, reals in fixed point."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from gemel.core.arrays import Arrays
from gemel.core.canonical import document_hash
from gemel.core.errors import GemelError
from gemel.privacy.secure_aggregation.masks import Words

WEIGHT = "weight"
_CHUNK = 1 << 15


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One array of the sum.

    Attributes:
        name, shape: Of the array.
        limit: Largest absolute value that one node may add.
        fraction_bits: None for integers, which beyond the limit are refused; else reals are clipped to the limit and
            rounded to multiples of 2^-fraction_bits (half to even).
    """

    name: str
    shape: tuple[int, ...]
    limit: float
    fraction_bits: int | None = None

    @property
    def size(self) -> int:
        """Values in the array."""
        return math.prod(self.shape)

    @property
    def largest_word(self) -> int:
        """The largest absolute value as an integer of the ring."""
        return math.floor(math.ldexp(self.limit, self.fraction_bits or 0))


class Ring(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Integers modulo 2^bits, signed as two's complement. `bits` is 32 or 64."""

    bits: int

    @property
    def dtype(self) -> np.dtype[np.uint32] | np.dtype[np.uint64]:
        """The words' numpy dtype."""
        return np.dtype(np.uint32) if self.bits == 32 else np.dtype(np.uint64)

    @property
    def signed(self) -> np.dtype[np.int32] | np.dtype[np.int64]:
        """The dtype that reads a word as a signed number."""
        return np.dtype(np.int32) if self.bits == 32 else np.dtype(np.int64)


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How arrays lie in the vector, and that the sum over `parties` nodes cannot wrap around.

    Raises GEM324 when it could, or for limits that are none.
    """

    entries: tuple[Entry, ...]
    ring: Ring
    parties: int

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.entries]
        if self.ring.bits not in (32, 64) or not names or len(set(names)) != len(names) or self.parties < 1:
            raise GemelError(
                "GEM324", "A layout needs a ring of 32 or 64 bits, arrays of different names, parties."
            )
        for entry in self.entries:
            bits = entry.fraction_bits
            sound = math.isfinite(entry.limit) and entry.limit > 0 and (bits is None or 0 <= bits <= 62)
            if not sound or any(side < 1 for side in entry.shape):
                raise GemelError("GEM324", f"{entry.name}: limit, fraction bits or shape are impossible.")
            if self.parties * entry.largest_word >= 1 << (self.ring.bits - 1):
                raise GemelError(
                    "GEM324",
                    f"{entry.name}: {self.parties} times its range wraps around {self.ring.bits} bits.",
                )

    @property
    def length(self) -> int:
        """Words in the vector."""
        return sum(entry.size for entry in self.entries)

    @property
    def sha256(self) -> str:
        """The hash that the context binds."""
        return document_hash(msgspec.to_builtins(self))

    def encode(self, arrays: Arrays, *, factor: float = 1.0) -> Words:
        """Arrays of the layout's names and shapes as one vector of words; reals times `factor` first.

        Raises GEM324 for other arrays, a value that is not finite, or an integer beyond its limit. Reals beyond
        theirs are clipped: a function of what is released anyway, so it costs no privacy.
        """
        if set(arrays) != {entry.name for entry in self.entries}:
            raise GemelError("GEM324", f"Expected {[e.name for e in self.entries]}, got {sorted(arrays)}.")
        result = np.empty(self.length, dtype=self.ring.signed)
        start = 0
        for entry in self.entries:
            array = arrays[entry.name]
            if array.shape != entry.shape:
                raise GemelError("GEM324", f"{entry.name} has shape {array.shape}, expected {entry.shape}.")
            part = result[start : start + entry.size]
            if entry.fraction_bits is None:
                _write_integers(entry, array, part)
            else:
                _write_reals(entry, array, part, scale=math.ldexp(factor, entry.fraction_bits))
            start += entry.size
        words: Words = result.view(self.ring.dtype)
        return words

    def decode(self, total: Words) -> dict[str, NDArray[np.int64] | NDArray[np.float64]]:
        """The arrays of a sum: int64 where integers went in; where reals did, the nearest float64 (exact below 2^53)."""
        if total.shape != (self.length,) or total.dtype != self.ring.dtype:
            raise GemelError("GEM324", f"Expected {self.length} words, got {total.dtype} {total.shape}.")
        signed, start = total.view(self.ring.signed), 0
        arrays: dict[str, NDArray[np.int64] | NDArray[np.float64]] = {}
        for entry in self.entries:
            part = signed[start : start + entry.size].reshape(entry.shape).astype(np.int64)
            exact = entry.fraction_bits is None
            arrays[entry.name] = (
                part if exact else np.ldexp(part.astype(np.float64), -(entry.fraction_bits or 0))
            )
            start += entry.size
        return arrays


def _write_integers(entry: Entry, array: NDArray[np.generic], target: NDArray[np.signedinteger[Any]]) -> None:
    most = entry.largest_word
    if array.dtype.kind not in "iu" or not -most <= int(array.min()) <= int(array.max()) <= most:
        raise GemelError("GEM324", f"{entry.name} holds no integers of at most {most}.")
    target[:] = array.ravel()


def _write_reals(
    entry: Entry, array: NDArray[np.generic], target: NDArray[np.signedinteger[Any]], *, scale: float
) -> None:
    if array.dtype.kind != "f":
        raise GemelError("GEM324", f"{entry.name} holds no reals.")
    values, most = array.ravel(), entry.largest_word
    scratch = np.empty(min(_CHUNK, values.size), dtype=np.float64)  # chunk by chunk: it stays in the cache
    for start in range(0, values.size, _CHUNK):
        part = scratch[: min(_CHUNK, values.size - start)]
        np.multiply(values[start : start + _CHUNK], scale, out=part, dtype=np.float64)
        if not math.isfinite(float(part.sum())) and not np.isfinite(part).all():
            raise GemelError("GEM324", f"{entry.name} holds a value that is not finite.")
        np.clip(part, -most, most, out=part)
        target[start : start + _CHUNK] = np.rint(part, out=part)


def reals(shapes: Mapping[str, tuple[int, ...]], *, limit: float, fraction_bits: int) -> tuple[Entry, ...]:
    """Entries for arrays of reals of one range and resolution, in the order of their names."""
    return tuple(
        Entry(name=name, shape=tuple(shapes[name]), limit=limit, fraction_bits=fraction_bits)
        for name in sorted(shapes)
    )


def integers(shapes: Mapping[str, tuple[int, ...]], *, limit: int) -> tuple[Entry, ...]:
    """Entries for tables of integers of one range, in the order of their names."""
    return tuple(Entry(name=name, shape=tuple(shapes[name]), limit=limit) for name in sorted(shapes))


def weight_entry(*, fraction_bits: int) -> Entry:
    """The entry that carries each node's weight as a part of the largest allowed one."""
    return Entry(name=WEIGHT, shape=(1,), limit=1.0, fraction_bits=fraction_bits)


def weighted(layout: Layout, arrays: Arrays, *, weight: float, most: float) -> Words:
    """What a node adds for a weighted mean: w·x and w, with w = weight / most; the layout has a `weight_entry`.

    Raises GEM324 unless the weight is positive and at most `most`.
    """
    if not 0 < weight <= most:
        raise GemelError("GEM324", f"A weight must be positive and at most {most}, got {weight}.")
    return layout.encode({**arrays, WEIGHT: np.ones(1)}, factor=weight / most)


def weighted_mean(total: Arrays) -> dict[str, NDArray[np.float32]]:
    """The mean from the decoded sums of w·x and w. Raises GEM324 when all weights rounded to nothing."""
    weight = float(total[WEIGHT][0])
    if weight <= 0:
        raise GemelError("GEM324", "The weights add up to nothing.")
    return {
        name: (array.astype(np.float64) / weight).astype(np.float32)
        for name, array in total.items()
        if name != WEIGHT
    }
