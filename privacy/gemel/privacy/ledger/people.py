"""Whom a study touches: a register of pseudonyms, sets of them as bits, and commitments to both.

The chain holds only commitments, SHA-256 over a secret salt and the stored bytes, so an export shows nobody. What they
stand for lies beside the chain and is compared with them whenever the ledger is opened.
"""

from __future__ import annotations

import hashlib
import secrets
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gemel.core.errors import GemelError
from gemel.core.mechanism import Share

Bits = NDArray[np.uint8]  # 8 persons a byte, the lowest bit first

ADDED = "added"
_SALT_BYTES = 32
_UNION, _BITS = b"\x00", b"\x01"
_PARTS = (Share.TRAINING, Share.HELD_OUT)


@dataclass(frozen=True)
class Sealed:
    """One thing that the chain commits to: its stored bytes and the salt of the commitment."""

    name: str
    salt: bytes
    content: bytes

    @classmethod
    def make(cls, name: str, content: bytes) -> Sealed:
        """With a fresh salt."""
        return cls(name, secrets.token_bytes(_SALT_BYTES), content)

    @property
    def commitment(self) -> str:
        """Hex; without the salt it says nothing, and nothing else opens it."""
        return hashlib.sha256(self.salt + self.name.encode() + b"\0" + self.content).hexdigest()


class Register:
    """Every person who was ever part of a reservation, in the order of arrival: pseudonym to number, from 0."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def numbers(self, pseudonyms: Iterable[str]) -> NDArray[np.int64]:
        """The numbers of some people, shape (people,); -1 for one who is not in the register."""
        get = self._numbers.get
        return np.fromiter((get(p, -1) for p in pseudonyms), dtype=np.int64)

    def extend(self, pseudonyms: Sequence[str]) -> None:
        """Give the next numbers. Raises GEM302 for somebody who has one."""
        before = len(self._numbers)
        self._numbers.update(zip(pseudonyms, range(before, before + len(pseudonyms)), strict=True))
        if len(self._numbers) != before + len(pseudonyms):
            raise GemelError("GEM302", "The ledger registers a person twice.")


@dataclass(frozen=True)
class Touched:
    """Whom a plan touches, against a register: those who are new to it, and each share as numbers.

    The new have the next numbers of the register, in the order of `added`.
    """

    added: tuple[str, ...]
    registered: int
    shares: Mapping[Share, NDArray[np.int64]]

    @property
    def persons(self) -> int:
        """How many the register will have."""
        return self.registered + len(self.added)

    @cached_property
    def sets(self) -> dict[Share, Bits]:
        """Each share as bits, shape (⌈persons / 8⌉,)."""
        return {share: self._bits(numbers) for share, numbers in self.shares.items()}

    def _bits(self, numbers: NDArray[np.int64]) -> Bits:
        flags = np.zeros(self.persons, dtype=np.uint8)
        flags[numbers] = 1
        return np.packbits(flags, bitorder="little")

    def sealed(self) -> tuple[Sealed, ...]:
        """What is stored, in the order of names. Which names there are depends on the plan, not on the people."""
        contents = {ADDED: zlib.compress("\n".join(self.added).encode())}
        for share, bits in self.sets.items():
            others = [self.sets[part] for part in _PARTS if part in self.sets]
            is_union = (
                share is Share.EVERYONE and len(others) == 2 and np.array_equal(bits, others[0] | others[1])
            )
            contents[share.value] = _UNION if is_union else _BITS + zlib.compress(bits.tobytes(), 1)
        return tuple(Sealed.make(name, contents[name]) for name in sorted(contents))


def touched(people: Mapping[Share, Sequence[str]], register: Register) -> Touched:
    """Look people up. Raises GEM313 for what cannot be a pseudonym."""
    numbers = {share: register.numbers(names) for share, names in people.items()}
    unknown = {name for share, names in people.items() for name in _new(names, numbers[share])}
    if not all(unknown) or any("\n" in name for name in unknown):
        raise GemelError("GEM313", "A pseudonym is empty or has a line break.")
    added = tuple(sorted(unknown))
    next_numbers = {name: len(register) + position for position, name in enumerate(added)}
    for share, names in people.items():
        positions = np.flatnonzero(numbers[share] < 0)
        numbers[share][positions] = [next_numbers[names[i]] for i in positions.tolist()]
    return Touched(added, len(register), numbers)


def _new(names: Sequence[str], numbers: NDArray[np.int64]) -> list[str]:
    return [names[i] for i in np.flatnonzero(numbers < 0).tolist()]


def open_sealed(
    sealed: Sequence[Sealed], commitments: Mapping[str, str], register: Register
) -> dict[Share, Bits]:
    """Compare what is stored with the commitments, add the new people to the register, and return the sets.

    Raises GEM302 when anything differs, is missing or too much.
    """
    found = {item.name: item.commitment for item in sealed}
    if found != dict(commitments) or ADDED not in found:
        raise GemelError("GEM302", "The people of a reservation are not those that its entry commits to.")
    contents = {item.name: item.content for item in sealed}
    try:
        added = zlib.decompress(contents.pop(ADDED)).decode()
        register.extend(added.split("\n") if added else [])
        sets = {
            Share(name): np.frombuffer(zlib.decompress(content[1:]), dtype=np.uint8)
            for name, content in contents.items()
            if content[:1] == _BITS
        }
        if len(sets) < len(contents):
            sets[Share.EVERYONE] = sets[Share.TRAINING] | sets[Share.HELD_OUT]
    except (zlib.error, UnicodeDecodeError, ValueError, KeyError) as error:
        raise GemelError("GEM302", f"The people of a reservation cannot be read: {error}.") from error
    size = -(-len(register) // 8)
    if set(sets) != {Share(name) for name in contents} or any(len(bits) != size for bits in sets.values()):
        raise GemelError("GEM302", "The people of a reservation are not in the form of this ledger.")
    return sets
