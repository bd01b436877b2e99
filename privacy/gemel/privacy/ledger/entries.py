"""One entry of the ledger: what it says, its hash and signature, and how it follows the one before."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache

import msgspec

from gemel.core.canonical import canonical_bytes, sha256_hex
from gemel.core.errors import GemelError
from gemel.core.mechanism import Charge
from gemel.core.signing import SignedDocument, SigningKey, verify_bytes

SCHEMA = "gemel/ledger/2"
NOTHING_BEFORE = "0" * 64
# Clocks are set right by seconds; what jumps further back would let an old charge look like a new one.
CLOCK_TOLERANCE_S = 60
_HEXADECIMAL = frozenset("0123456789abcdef")


class EntryKind(StrEnum):
    """What an entry records."""

    OPENED = "opened"
    RESERVED = "reserved"  # the whole plan of a study, before anything of it runs
    BEGUN = "begun"  # one task, before it touches a patient
    RELEASED = "released"  # what left the node for it
    EXPIRED = "expired"  # tasks of a plan that never began, given back by a steward
    SUCCEEDED = "succeeded"  # the node's key names the one that signs from the next entry on


class LedgerEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One entry; the canonical JSON of all fields but the last two is what is hashed, and the hash signed.

    Attributes:
        seq: Position, from 1.
        previous: The hash of the entry before it with its signature, `link`.
        written_at: UTC, ISO 8601, to the second.
        epsilon_cap, delta: The hospital's limit when the entry was written.
        epsilon_after: ε, at `delta`, of a patient who were part of everything that stands reserved.
        charges: Reserved: what each task of the study costs, and whom.
        people: Reserved: commitments to whom each share means (`gemel.privacy.ledger.people`).
        task, request_sha256: Begun and released: which task, for which request. `tasks`: Expired: which.
        snapshot: Reserved and begun: the data set.
        follows: The hash of the reservation (begun, expired) or of the begun entry (released) that it belongs to.
        release_sha256: Released: what left the node.
        decision: Expired: the steward's signed decision. Succeeded: the statement of both keys
            (`gemel.privacy.ledger.succession`).
        sha256: The entry's hash; `signature` is the node's over it (hex). Empty until `seal`ed.
    """

    seq: int
    kind: EntryKind
    previous: str
    written_at: str
    site: str
    public_key: str
    epsilon_cap: float
    delta: float
    epsilon_after: float
    study_sha256: str = ""
    programme: str = ""
    charges: tuple[Charge, ...] = ()
    people: dict[str, str] = {}
    task: str = ""
    tasks: tuple[str, ...] = ()
    request_sha256: str = ""
    snapshot: str = ""
    follows: str = ""
    release_sha256: str = ""
    decision: SignedDocument | None = None
    sha256: str = ""
    signature: str = ""


def entry_body(entry: LedgerEntry) -> bytes:
    """What is hashed: the canonical JSON of all fields but hash and signature."""
    content = msgspec.to_builtins(entry)
    return canonical_bytes({k: v for k, v in content.items() if k not in ("sha256", "signature")})


def seal(entry: LedgerEntry, key: SigningKey) -> LedgerEntry:
    """The entry with its hash and signature."""
    digest = sha256_hex(entry_body(entry))
    return msgspec.structs.replace(entry, sha256=digest, signature=key.sign(_signed_bytes(digest)))


def link(entry: LedgerEntry) -> str:
    """What the next entry names as `previous`: it covers the signature too, so that a changed one is missed."""
    return sha256_hex(f"{entry.sha256}{entry.signature}".encode())


def _signed_bytes(digest: str) -> bytes:
    # Named, so that a signature on an entry can pass for nothing else that this key signs.
    return f"{SCHEMA} entry {digest}".encode()


def verify_signature(entry: LedgerEntry) -> None:
    """Check the node's signature over the entry's hash (GEM102)."""
    # Hexadecimal can be written in more than one way.
    one_way = set(entry.signature) <= _HEXADECIMAL
    if not (one_way and verify_bytes(entry.public_key, entry.signature, _signed_bytes(entry.sha256))):
        raise GemelError("GEM102", f"The signature on the ledger's entry {entry.seq} is wrong.")


def verify_link(entry: LedgerEntry, before: LedgerEntry | None) -> None:
    """Check that an entry, whose hash is right, follows another or opens a ledger: GEM105, GEM310 for its time."""
    where = f"ledger's entry {entry.seq}"
    opening = before is None
    expected = (1, NOTHING_BEFORE) if before is None else (before.seq + 1, link(before))
    if (entry.seq, entry.previous) != expected or (entry.kind == EntryKind.OPENED) != opening:
        raise GemelError("GEM105", f"The {where} does not follow the one before it.")
    written_at = written_time(entry)
    if before is None:
        return
    if (entry.site, entry.public_key) != (before.site, key_after(before)):
        raise GemelError("GEM105", f"The {where} is of another site or key.")
    if moved_back(written_at, written_time(before)):
        raise GemelError(
            "GEM310", f"The {where} is of {entry.written_at}, the one before of {before.written_at}."
        )


def key_after(entry: LedgerEntry) -> str:
    """The key that signs the next entry: the same, or the one that this entry names as its successor."""
    if entry.kind != EntryKind.SUCCEEDED or entry.decision is None:
        return entry.public_key
    return str(entry.decision.payload.get("successor", ""))


def moved_back(now: dt.datetime, before: dt.datetime) -> bool:
    """Whether a time lies before another by more than clocks are corrected."""
    return (before - now).total_seconds() > CLOCK_TOLERANCE_S


def written_time(entry: LedgerEntry) -> dt.datetime:
    """When the entry was written. Raises GEM105 when it does not say."""
    try:
        return _parsed(entry.written_at)
    except ValueError as error:
        raise GemelError("GEM105", f"The ledger's entry {entry.seq} has no time in a time zone.") from error


@lru_cache(maxsize=1024)
def _parsed(written_at: str) -> dt.datetime:
    parsed = dt.datetime.fromisoformat(written_at)
    if parsed.tzinfo is None:
        raise ValueError(written_at)
    return parsed


def require_head(entries: Sequence[LedgerEntry], *, seq: int, sha256: str) -> None:
    """Refuse (GEM309) a chain that lacks an entry which was its head once."""
    if not (1 <= seq <= len(entries) and entries[seq - 1].sha256 == sha256):
        raise GemelError(
            "GEM309", f"Entry {seq} with hash {sha256[:16]}… was there; the chain of {len(entries)} lacks it."
        )
