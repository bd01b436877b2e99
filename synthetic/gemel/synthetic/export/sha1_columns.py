"""SHA-1 (FIPS 180-4) of many messages at once, a vector of words at a time. It names things here and protects nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]

_START = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0)
_ROUNDS = (0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xCA62C1D6)


def padded(message: bytes) -> bytes:
    """A message as whole blocks of 64 bytes."""
    zeros = -(len(message) + 9) % 64
    return message + b"\x80" + bytes(zeros) + (8 * len(message)).to_bytes(8, "big")


def sha1_of_blocks(blocks: Words) -> Words:
    """The digests, uint32 (5, n), of padded messages, uint32 (blocks, 16, n), which are written over."""
    state = np.repeat(np.array(_START, np.uint32)[:, None], blocks.shape[2], axis=1)
    for words in blocks:
        state += _compressed(state, words)
    return state


def _compressed(state: Words, words: Words) -> Words:
    a, b, c, d, e = (part.copy() for part in state)
    mixed, spare = np.empty_like(a), np.empty_like(a)
    for number in range(80):
        word = words[number % 16]
        if number >= 16:
            for back in (3, 8, 14):
                np.bitwise_xor(word, words[(number - back) % 16], out=word)
            _rotate(word, 1, word, spare)
        _mix(number // 20, b, c, d, mixed, spare)
        for term in (mixed, word, np.uint32(_ROUNDS[number // 20])):
            np.add(e, term, out=e)
        _rotate(a, 5, mixed, spare)
        np.add(e, mixed, out=e)
        _rotate(b, 30, b, spare)
        a, b, c, d, e = e, a, b, c, d
    return np.stack([a, b, c, d, e])


def _mix(stage: int, b: Words, c: Words, d: Words, out: Words, spare: Words) -> None:
    """The function of a stage: choose, parity, majority, parity."""
    if stage == 0:
        np.bitwise_xor(c, d, out=out)
        np.bitwise_and(out, b, out=out)
        np.bitwise_xor(out, d, out=out)
    elif stage == 2:
        np.bitwise_or(b, c, out=out)
        np.bitwise_and(out, d, out=out)
        np.bitwise_and(b, c, out=spare)
        np.bitwise_or(out, spare, out=out)
    else:
        np.bitwise_xor(b, c, out=out)
        np.bitwise_xor(out, d, out=out)


def _rotate(word: Words, by: int, out: Words, spare: Words) -> None:
    np.right_shift(word, np.uint32(32 - by), out=spare)
    np.left_shift(word, np.uint32(by), out=out)
    np.bitwise_or(out, spare, out=out)
