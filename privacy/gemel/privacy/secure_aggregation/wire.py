"""The documents of an aggregation: signed by the node that speaks, bounded in size, checked to the last field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from gemel.core.canonical import canonical_bytes, document_hash
from gemel.core.errors import GemelError
from gemel.core.signing import SigningKey, read_signed, sign_document
from gemel.privacy.secure_aggregation.context import Context

# For each site that a document may speak of; the largest, a list of signed documents, needs about 900.
BYTES_A_SITE, BYTES_BESIDE = 2048, 4096


class _Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    context_sha256: str
    site: str


class Advertisement(_Said, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Step 0: a node's fresh X25519 public keys, hex: to seal shares for it, and to agree on masks with it."""

    seal_public: str
    mask_public: str


class Shares(_Said, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Step 1: a share of both secrets for each peer, sealed (hex), and a commitment to the seed."""

    roster_sha256: str
    seed_commitment: str
    sealed: dict[str, str]


class Masked(_Said, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Step 2: beside the masked vector, its hash, among whom it is masked, and what it was computed from."""

    roster_sha256: str
    shared: tuple[str, ...]
    vector_sha256: str
    inputs_sha256: str


class Confirmation(_Said, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Step 3: what this node was told of participants and survivors, as a hash (`view_sha256`)."""

    view_sha256: str


class Unmasking(_Said, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Step 4: shares (hex) of survivors' seeds and of dropped peers' mask keys."""

    view_sha256: str
    seeds: dict[str, str]
    mask_keys: dict[str, str]


class Delivery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """To a node before step 2: who shared, and what each sealed for this node."""

    shared: tuple[str, ...]
    sealed: dict[str, str]


class UnmaskRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """To a node before step 4: the survivors, and the confirmations of step 3."""

    survivors: tuple[str, ...]
    confirmations: tuple[dict[str, Any], ...]


Said = TypeVar("Said", bound=_Said)
Asked = TypeVar("Asked")


def say(said: _Said, key: SigningKey) -> bytes:
    """A step as the node's signed document; its kind is the step's, so no step passes for another."""
    return sign_document(_kind(type(said)), msgspec.to_builtins(said), key, role="node").to_bytes()


def hear(content: bytes, kind: type[Said], context: Context, *, site: str | None = None) -> Said:
    """Read one node's step. Raises GEM320 unless it is that step of this context, signed by the site it names.

    Args:
        content: The signed document.
        kind: Which step.
        context: This aggregation; it says which key each site has.
        site: Whose step it must be, or None for whichever it names.
    """
    _check_size(content, context)
    try:
        document = read_signed(content, kind=_kind(kind))
        said = msgspec.convert(document.payload, kind)
    except (GemelError, msgspec.ValidationError) as error:
        raise GemelError("GEM320", f"Not a signed {_kind(kind)}.") from error
    signers = [(signature.role, signature.public_key) for signature in document.signatures]
    if signers != [("node", context.sites.get(said.site, ""))] or said.site != (site or said.site):
        raise GemelError("GEM320", f"The {_kind(kind)} is not by whom it should be.")
    if said.context_sha256 != context.sha256:
        raise GemelError("GEM320", f"The {_kind(kind)} of {said.site} is of another aggregation.")
    return said


def pack_documents(documents: Sequence[bytes]) -> bytes:
    """Signed documents as one JSON list."""
    return canonical_bytes([msgspec.json.decode(document) for document in documents])


def unpack_documents(content: bytes, context: Context) -> list[bytes]:
    """The documents of such a list, not verified yet. Raises GEM320 on another form or too many."""
    entries = ask(content, tuple[dict[str, Any], ...], context)
    if len(entries) > len(context.sites):
        raise GemelError("GEM320", f"{len(entries)} documents of {len(context.sites)} sites.")
    return [canonical_bytes(entry) for entry in entries]


def ask(content: bytes, kind: type[Asked], context: Context) -> Asked:
    """Read what the coordinator asks. Raises GEM320 when it is malformed or too large."""
    _check_size(content, context)
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise GemelError("GEM320", f"The coordinator's message is malformed: {error}.") from error


def pack(message: msgspec.Struct) -> bytes:
    """A coordinator's message in its one form."""
    return canonical_bytes(msgspec.to_builtins(message))


def view_hash(
    context_sha256: str,
    roster_sha256: str,
    shared: Sequence[str],
    survivors: Sequence[str],
    *,
    inputs_sha256: str,
) -> str:
    """The one hash of all that a node was told: aggregation, keys, who shared, who survived, the task's inputs."""
    return document_hash([context_sha256, roster_sha256, list(shared), list(survivors), inputs_sha256])


def pack_parts(first: bytes, second: bytes) -> bytes:
    """Two byte strings as one: the length of the first in four bytes, then both."""
    return len(first).to_bytes(4, "big") + first + second


def unpack_parts(content: bytes) -> tuple[bytes, bytes]:
    """Both parts again. Raises GEM320 when the content is shorter than it says."""
    length = int.from_bytes(content[:4], "big")
    if len(content) < 4 + length:
        raise GemelError("GEM320", "The content is cut off.")
    return content[4 : 4 + length], content[4 + length :]


def _kind(step: type[_Said]) -> str:
    return f"secure-aggregation/{step.__name__.lower()}"


def _check_size(content: bytes, context: Context) -> None:
    if len(content) > BYTES_BESIDE + BYTES_A_SITE * len(context.sites):
        raise GemelError("GEM320", f"A step of {len(content)} bytes is too large.")
