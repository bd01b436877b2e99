"""The audit log's chain: each entry holds the hash of the one before. Pure: `gemel verify` checks an export with it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from gemel.core.canonical import document_hash
from gemel.core.errors import GemelError
from gemel.core.signing import SignedDocument

KIND = "audit"
SCHEMA = "gemel/audit/1"
BEFORE_THE_FIRST = "0" * 64
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)


class AuditEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing that somebody did, or tried.

    Attributes:
        seq: 1, 2, 3 …
        at: ISO 8601, UTC.
        actor, actor_name: Opaque id and name of the user; `service` for the service itself, `nobody` for whoever was not
            signed in.
        action: A verb with its noun, as `study.submit`.
        target: What it was done to: an opaque id or a hash.
        outcome: `ok` or `refused`; then `code` says why.
        detail: Small facts; never a password, token, or what a study's patients are like.
        previous, sha256: The chain: the latter is the hash of all other fields.
    """

    seq: int
    at: str
    actor: str
    actor_name: str
    action: str
    target: str
    outcome: str
    code: str
    detail: dict[str, str]
    previous: str
    sha256: str = ""

    def sealed(self) -> AuditEntry:
        """The entry with its hash."""
        return msgspec.structs.replace(self, sha256=self.computed_sha256)

    @property
    def computed_sha256(self) -> str:
        """The hash of all fields but `sha256`."""
        fields = msgspec.to_builtins(self)
        del fields["sha256"]
        return document_hash(fields)


def verify_chain(entries: Sequence[AuditEntry], *, before: str = BEFORE_THE_FIRST) -> str:
    """Check that each entry follows the one before; returns the last one's hash. Raises GEM912."""
    previous = before
    for at, entry in enumerate(entries):
        if at and entry.seq != entries[at - 1].seq + 1:
            raise GemelError("GEM912", f"Entry {entry.seq} follows {entries[at - 1].seq}.")
        if entry.previous != previous:
            raise GemelError("GEM912", f"Entry {entry.seq} does not follow the one before it.")
        if entry.sha256 != entry.computed_sha256:
            raise GemelError("GEM912", f"Entry {entry.seq} was changed.")
        previous = entry.sha256
    return previous


def verify_audit_document(document: SignedDocument) -> tuple[AuditEntry, ...]:
    """The entries of an exported log, its chain checked from the first entry to the head that it states.

    Raises GEM912 when it does not hold together, or is no export of a log.
    """
    payload = document.payload
    try:
        entries = msgspec.convert(payload.get("entries"), tuple[AuditEntry, ...])
    except msgspec.ValidationError as error:
        raise GemelError("GEM912", f"The export's entries are malformed: {error}.") from error
    before, head = payload.get("before"), payload.get("head")
    if payload.get("schema") != SCHEMA or not (isinstance(before, str) and _HASH.fullmatch(before)):
        raise GemelError("GEM912", f"The export is not of schema {SCHEMA}.")
    if entries and entries[0].seq == 1 and before != BEFORE_THE_FIRST:
        raise GemelError("GEM912", "Something stands before the first entry.")
    if verify_chain(entries, before=before) != head:
        raise GemelError("GEM912", "The export's head is not its last entry: entries were cut off.")
    return entries
