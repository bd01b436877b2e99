"""Keys agreed between two nodes, the streams that they grow into, and sealed shares."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from gemel.core.canonical import canonical_bytes
from gemel.core.errors import GemelError

Words = NDArray[np.uint32] | NDArray[np.uint64]
# Of this size vector, key stream and zeros stay in a core's second-level cache.
CHUNK_BYTES = 1 << 18
KEY_BYTES, NONCE_BYTES, TAG_BYTES = 32, 12, 16
_ZEROS = memoryview(bytes(CHUNK_BYTES))


@dataclass(frozen=True)
class Stream:
    """A mask: the ChaCha20 key stream of `key`, added to a vector or subtracted from it."""

    key: bytes
    subtract: bool

    def __repr__(self) -> str:
        return f"Stream(subtract={self.subtract})"

    @property
    def inverse(self) -> Stream:
        """The stream that takes this one off."""
        return Stream(self.key, not self.subtract)


def public_half(private: bytes) -> str:
    """The X25519 public key (hex) of 32 private bytes."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw().hex()


def agreed(private: bytes, peer_public: str, *, purpose: str, about: object) -> bytes:
    """The 32 bytes that two nodes share: X25519, then HKDF-SHA256 with purpose and context as its information.

    Raises GEM320 when the peer's key is malformed or of small order.
    """
    try:
        peer = X25519PublicKey.from_public_bytes(bytes.fromhex(peer_public))
        secret = X25519PrivateKey.from_private_bytes(private).exchange(peer)
    except ValueError as error:
        raise GemelError("GEM320", "A public masking key is malformed.") from error
    return derived(secret, purpose=purpose, about=about)


def derived(secret: bytes, *, purpose: str, about: object) -> bytes:
    """32 bytes for one purpose in one context, by HKDF-SHA256."""
    information = canonical_bytes({"purpose": purpose, "about": about})
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=information).derive(secret)


def pair_stream(private: bytes, own: str, peer: str, *, peer_public: str, about: object) -> Stream:
    """The mask between two sites: the one whose name comes first adds what the other subtracts."""
    key = agreed(private, peer_public, purpose="pair mask", about=[about, *sorted((own, peer))])
    return Stream(key, subtract=own > peer)


def self_stream(seed: bytes, *, about: object) -> Stream:
    """A node's own mask, which stays on when its input comes too late to be counted."""
    return Stream(derived(seed, purpose="self mask", about=about), subtract=False)


def commitment(seed: bytes, *, about: object) -> str:
    """What a node says of its seed in advance, so that a wrong share of it is noticed."""
    return hashlib.sha256(derived(seed, purpose="commitment", about=about)).hexdigest()


def apply_streams(vector: Words, streams: Iterable[Stream]) -> None:
    """Add or subtract every stream to a vector of words, in place, modulo the word size.

    Each key grows one stream only, so its nonce may be zero. Chunk by chunk: the memory used does not grow with
    vector or peers. Shapes: (values,), contiguous, uint32 or uint64, little-endian in the stream.
    """
    dtype = vector.dtype.newbyteorder("<")
    step = CHUNK_BYTES // dtype.itemsize
    room = bytearray(CHUNK_BYTES)
    scratch = np.frombuffer(room, dtype=dtype)
    target = memoryview(room)
    ciphers = [
        (Cipher(algorithms.ChaCha20(stream.key, bytes(16)), None).encryptor(), stream.subtract)
        for stream in streams
    ]
    for start in range(0, vector.size, step):
        part = vector[start : start + step]
        size = part.size * dtype.itemsize
        for cipher, subtract in ciphers:
            cipher.update_into(_ZEROS[:size], target[:size])
            if subtract:
                np.subtract(part, scratch[: part.size], out=part)
            else:
                np.add(part, scratch[: part.size], out=part)


def seal(key: bytes, content: bytes, *, about: object) -> bytes:
    """Encrypt for one peer: nonce, then ChaCha20-Poly1305 with the context as associated data."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, content, canonical_bytes(about))


def unseal(key: bytes, sealed: bytes, *, about: object) -> bytes:
    """Open what a peer sealed for us in this context. Raises GEM320 for anything else."""
    try:
        return ChaCha20Poly1305(key).decrypt(
            sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], canonical_bytes(about)
        )
    except (InvalidTag, ValueError) as error:
        raise GemelError(
            "GEM320", "A sealed share does not open: it is forged or of another context."
        ) from error
