"""The ids of virtual patients and of their resources: UUIDv5 by names, so that equal cohorts have equal ids.

A patient's name is the cohort's and the row; a resource's namespace is its patient, its name what it says.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gemel.synthetic.export.sha1_columns import padded, sha1_of_blocks

Bytes = NDArray[np.uint8]

ID_LENGTH = 36
# Ids at once that stay in the processor's caches.
_AT_ONCE = 8_192
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:gemel:virtual-cohort")
_HEX = np.array([f"{byte:02x}" for byte in range(256)], "S2").view(np.uint16)
# Where the bytes of a UUID stand in its text.
_PLACES = ((0, 8, 0), (8, 12, 9), (12, 16, 14), (16, 20, 19), (20, 32, 24))


def identify(release: str, row: int | None, name: str = "") -> str:
    """The id of a cohort's row, or of what is told of it under a name; without a row, of what is told of the cohort."""
    if row is None:
        return str(uuid.uuid5(_NAMESPACE, f"{release}/{name}"))
    patient = uuid.uuid5(_NAMESPACE, f"{release}/{row}")
    return str(uuid.uuid5(patient, name) if name else patient)


def patient_numbers(release: str, rows: range) -> Bytes:
    """The ids of many rows as numbers, uint8 (n, 16)."""
    start = _NAMESPACE.bytes + f"{release}/".encode()
    # UUIDv5 is defined by SHA-1; nothing here rests on its strength.
    digests = [hashlib.sha1(b"%b%d" % (start, row), usedforsecurity=False).digest() for row in rows]
    return _numbers(np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 20))


def numbers_within(patients: Bytes, names: Sequence[str], counts: Sequence[int]) -> Bytes:
    """The ids of what is told of patients under names, as numbers, uint8 (m, 16).

    Args:
        patients: uint8 (m, 16), the patients' own.
        names: What is told of them.
        counts: The first name is of so many of the patients, the second of as many after them, and so on.
    """
    messages = [padded(bytes(16) + name.encode()) for name in names]
    lengths = np.array([len(message) for message in messages])
    which, own = np.repeat(np.arange(len(names)), counts), _words(patients.tobytes()).reshape(-1, 4)
    found = np.empty((len(patients), 20), np.uint8)
    for length in np.unique(lengths).tolist():
        alike = np.flatnonzero(lengths == length)
        blocks = _words(b"".join(messages[at] for at in alike)).reshape(len(alike), -1)
        mine = np.flatnonzero(lengths[which] == length)
        for start in range(0, len(mine), _AT_ONCE):
            some = mine[start : start + _AT_ONCE]
            words = blocks[np.searchsorted(alike, which[some])].T.reshape(-1, 16, len(some)).copy()
            words[0, :4] = own[some].T
            found[some] = sha1_of_blocks(words).T.astype(">u4", order="C").view(np.uint8)
    return _numbers(found)


def spelt(numbers: Bytes) -> Bytes:
    """Ids (n, 16) as text, uint8 (n, 36)."""
    digits = np.take(_HEX, numbers).view(np.uint8)
    text = np.full((len(digits), ID_LENGTH), ord("-"), np.uint8)
    for first, last, place in _PLACES:
        text[:, place : place + last - first] = digits[:, first:last]
    return text


def patient_ids(release: str, patients: int) -> list[str]:
    """The id of every virtual patient, in order."""
    text = spelt(patient_numbers(release, range(patients))).tobytes().decode()
    return [text[at : at + ID_LENGTH] for at in range(0, len(text), ID_LENGTH)]


def _words(content: bytes) -> NDArray[np.uint32]:
    return np.frombuffer(content, ">u4").astype(np.uint32)


def _numbers(digests: Bytes) -> Bytes:
    """UUIDs (n, 16) of SHA-1 digests (n, 20): version 5 and the variant of RFC 9562."""
    numbers = digests[:, :16].copy()
    numbers[:, 6] = numbers[:, 6] & 0x0F | 0x50
    numbers[:, 8] = numbers[:, 8] & 0x3F | 0x80
    return numbers
