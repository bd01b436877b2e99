"""Ed25519 identities and signed documents: whoever holds a document can check it offline."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gemel.core.canonical import canonical_bytes, document_hash, sha256_hex
from gemel.core.errors import GemelError

SCHEMA = "gemel/signed/1"
MAX_BYTES = 1 << 26


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One signature over the canonical bytes of a payload. `public_key` and `value` are hex."""

    role: str
    public_key: str
    value: str


class SignedDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A JSON payload of a named kind, its hash, and who signed it.

    What is signed is `kind` + payload, so that no document can pass for one of another kind.
    """

    schema: str
    kind: str
    payload: dict[str, Any]
    payload_sha256: str
    signatures: tuple[Signature, ...]

    def to_bytes(self) -> bytes:
        """Canonical bytes, for files and messages."""
        return canonical_bytes(msgspec.to_builtins(self))


class SigningKey:
    """An Ed25519 private key; its repr shows only the public half."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> SigningKey:
        """A fresh key from the operating system's generator."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Read a PEM file written by `save`. Raises GEM407 when it is absent or not such a key."""
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError) as error:
            raise GemelError("GEM407", f"The key {path} cannot be read.") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise GemelError("GEM407", f"The key {path} is not an Ed25519 private key.")
        return cls(key)

    def save(self, path: Path) -> None:
        """Write PEM, readable by its owner only; never over an existing file."""
        pem = self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)

    @property
    def public_hex(self) -> str:
        """The public key, 64 hex digits: the identity of its holder."""
        return self._key.public_key().public_bytes_raw().hex()

    def sign(self, content: bytes) -> str:
        """Hex signature of some bytes."""
        return self._key.sign(content).hex()

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public_hex[:16]}…)"


def verify_bytes(public_hex: str, signature_hex: str, content: bytes) -> bool:
    """True when the signature is that key's over that content; malformed hex is False."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_hex))
        key.verify(bytes.fromhex(signature_hex), content)
    except (InvalidSignature, ValueError):
        return False
    return True


def fingerprint(public_hex: str) -> str:
    """A short form of a public key for people to compare, in groups of four.

    >>> fingerprint("00" * 32)
    '6668-7aad-f862-bd77'
    """
    digest = sha256_hex(bytes.fromhex(public_hex))[:16]
    return "-".join(digest[i : i + 4] for i in range(0, 16, 4))


def _signed_bytes(kind: str, payload: dict[str, Any]) -> bytes:
    return canonical_bytes({"kind": kind, "payload": payload})


def sign_document(kind: str, payload: dict[str, Any], key: SigningKey, *, role: str) -> SignedDocument:
    """Sign a JSON payload as a document of one kind.

    Args:
        kind: What the document is, as "study", "approval", "release", "certificate".
        payload: Any JSON object.
        key: The signer's key.
        role: In what capacity it signs: "proposer", "steward", "node", "coordinator".
    """
    signature = Signature(role, key.public_hex, key.sign(_signed_bytes(kind, payload)))
    return SignedDocument(SCHEMA, kind, payload, document_hash(payload), (signature,))


def read_signed(content: bytes, *, kind: str | None = None) -> SignedDocument:
    """Parse and verify a signed document: schema, kind, hash and every signature.

    Raises:
        GemelError: GEM101 not a signed document (of this kind), GEM103 hash, GEM102 signature.
    """
    try:
        if len(content) > MAX_BYTES:
            raise ValueError(f"{len(content)} bytes")
        document = msgspec.json.decode(content, type=SignedDocument)
        digest = document_hash(document.payload)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        # What nests too deep, or holds a number too long to write, must not end whoever reads it.
        raise GemelError("GEM101", f"Not a signed document: {error}.") from error
    if document.schema != SCHEMA or (kind is not None and document.kind != kind):
        raise GemelError(
            "GEM101",
            f"Expected {SCHEMA} of kind {kind or 'any'}, got {document.schema} {document.kind}.",
        )
    if digest != document.payload_sha256:
        raise GemelError("GEM103", f"The {document.kind}'s payload differs from its hash.")
    if not document.signatures:
        raise GemelError("GEM102", f"The {document.kind} carries no signature.")
    content_signed = _signed_bytes(document.kind, document.payload)
    for signature in document.signatures:
        if not verify_bytes(signature.public_key, signature.value, content_signed):
            raise GemelError("GEM102", f"The {signature.role}'s signature on the {document.kind} is wrong.")
    return document


def signed_by(document: SignedDocument, public_hex: str) -> bool:
    """True when that key is among the (already verified) signers."""
    return any(signature.public_key == public_hex for signature in document.signatures)
