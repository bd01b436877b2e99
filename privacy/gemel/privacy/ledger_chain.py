"""The ledger's entries: what one says, its hash and signature, and how a chain of them is verified offline."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import msgspec

from gemel.core.canonical import canonical_bytes, sha256_hex
from gemel.core.errors import GemelError
from gemel.core.mechanism import Mechanism
from gemel.core.signing import SignedDocument, SigningKey, read_signed, signed_by, verify_bytes
from gemel.privacy.accounting import (
    EPSILON_STEP,
    NEIGHBOURING_RELATION,
    VALUE_DISCRETIZATION_INTERVAL,
    epsilon,
)

SCHEMA = "gemel/ledger/1"
NOTHING_BEFORE = "0" * 64


class EntryKind(StrEnum):
    """What an entry records."""

    OPENED = "opened"
    RESERVED = "reserved"
    SPENT = "spent"


class LedgerEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One entry; the canonical JSON of all fields but the last two is what is hashed, and the hash signed.

    Attributes:
        seq: Position, from 1; `previous` is the hash of the entry before it.
        written_at: UTC, ISO 8601, to the second.
        epsilon_cap, delta: The hospital's limit when the entry was written.
        epsilon_after: ε of all reservations up to and including this one, at `delta`.
        patients: How many people the task reads, if the node wants it on record (it is in every export).
        reservation: For a spent entry, the hash of its reservation; `release_sha256`, what left the node.
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
    task: str = ""
    request_sha256: str = ""
    snapshot: str = ""
    patients: int | None = None
    mechanisms: tuple[Mechanism, ...] = ()
    reservation: str = ""
    release_sha256: str = ""
    sha256: str = ""
    signature: str = ""


def seal(entry: LedgerEntry, key: SigningKey) -> LedgerEntry:
    """The entry with its hash and signature."""
    digest = _digest(entry)
    return msgspec.structs.replace(entry, sha256=digest, signature=key.sign(_signed_bytes(digest)))


def _digest(entry: LedgerEntry) -> str:
    content = msgspec.to_builtins(entry)
    return sha256_hex(canonical_bytes({k: v for k, v in content.items() if k not in ("sha256", "signature")}))


def _signed_bytes(digest: str) -> bytes:
    # Named, so that a signature on an entry can pass for nothing else that this key signs.
    return f"{SCHEMA} entry {digest}".encode()


def verify_link(entry: LedgerEntry, before: LedgerEntry | None) -> None:
    """Check that an entry follows another (or opens a ledger): GEM105 chain, GEM102 signature."""
    where = f"ledger's entry {entry.seq}"
    if _digest(entry) != entry.sha256:
        raise GemelError("GEM105", f"The content of the {where} differs from its hash.")
    opening = before is None
    expected = (1, NOTHING_BEFORE) if before is None else (before.seq + 1, before.sha256)
    if (entry.seq, entry.previous) != expected or (entry.kind == EntryKind.OPENED) != opening:
        raise GemelError("GEM105", f"The {where} does not follow the one before it.")
    if before is not None and (entry.site, entry.public_key) != (before.site, before.public_key):
        raise GemelError("GEM105", f"The {where} is of another site or key.")
    # Hexadecimal can be written in more than one way, and the hash does not cover the signature.
    one_way = set(entry.signature) <= set("0123456789abcdef")
    if not (one_way and verify_bytes(entry.public_key, entry.signature, _signed_bytes(entry.sha256))):
        raise GemelError("GEM102", f"The signature on the {where} is wrong.")


def verify_chain(entries: Sequence[LedgerEntry]) -> None:
    """Check every link and that reservations and releases fit together: GEM105, GEM102, GEM302."""
    before: LedgerEntry | None = None
    reserved: dict[str, tuple[str, str]] = {}
    spent: set[str] = set()
    for entry in entries:
        verify_link(entry, before)
        before = entry
        if entry.kind == EntryKind.RESERVED:
            task = (entry.study_sha256, entry.task)
            if task in reserved.values() or not entry.mechanisms:
                raise GemelError("GEM302", f"Entry {entry.seq} charges a task twice, or nothing for it.")
            reserved[entry.sha256] = task
        elif entry.kind == EntryKind.SPENT:
            task = (entry.study_sha256, entry.task)
            if reserved.get(entry.reservation) != task or entry.reservation in spent:
                raise GemelError("GEM302", f"Entry {entry.seq} releases what was not reserved, or twice.")
            spent.add(entry.reservation)


def charged_mechanisms(entries: Sequence[LedgerEntry]) -> tuple[Mechanism, ...]:
    """Every mechanism that was reserved, released or not: what all patients are taken to have been part of."""
    return tuple(m for e in entries if e.kind == EntryKind.RESERVED for m in e.mechanisms)


def ledger_payload(entries: Sequence[LedgerEntry], *, epsilon_cap: float, delta: float) -> dict[str, Any]:
    """The payload of an exported ledger, with all that is needed to recompute `epsilon_spent`."""
    opened = entries[0]
    return {
        "schema": SCHEMA,
        "site": opened.site,
        "public_key": opened.public_key,
        "epsilon_cap": epsilon_cap,
        "delta": delta,
        "epsilon_spent": epsilon(charged_mechanisms(entries), delta=delta),
        "unit": "patient",
        "neighbouring_relation": NEIGHBOURING_RELATION,
        "value_discretization_interval": VALUE_DISCRETIZATION_INTERVAL,
        "head": entries[-1].sha256,
        "entries": msgspec.to_builtins(list(entries)),
    }


class _Payload(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    schema: str
    site: str
    public_key: str
    epsilon_cap: float
    delta: float
    epsilon_spent: float
    unit: str
    neighbouring_relation: str
    value_discretization_interval: float
    head: str
    entries: tuple[LedgerEntry, ...]


def verify_ledger_document(document: SignedDocument) -> tuple[LedgerEntry, ...]:
    """Verify an exported ledger with nothing but itself, and return its entries.

    Checks the document's and every entry's signature by the one key that it names (GEM102), the chain (GEM105),
    that releases follow reservations, that no reservation passed the cap of its day, and ε by recomputation
    (GEM302). Whether the key is the hospital's, and whether the end of the chain is the newest, it cannot know:
    compare `public_key` with the study's and `head` with an earlier export.
    """
    document = read_signed(document.to_bytes(), kind="ledger")
    try:
        payload = msgspec.convert(document.payload, _Payload)
    except msgspec.ValidationError as error:
        raise GemelError("GEM302", f"Not an exported ledger: {error}.") from error
    entries = payload.entries
    if not entries or payload.head != entries[-1].sha256 or payload.schema != SCHEMA:
        raise GemelError("GEM105", "The exported ledger does not end in the entry that it names as its head.")
    verify_chain(entries)
    opened = entries[0]
    if (payload.site, payload.public_key) != (opened.site, opened.public_key):
        raise GemelError("GEM302", "The exported ledger is of another site or key than its entries.")
    if not signed_by(document, payload.public_key):
        raise GemelError("GEM102", "The exported ledger is not signed by the key of its entries.")
    stated = (payload.unit, payload.neighbouring_relation, payload.value_discretization_interval)
    if stated != ("patient", NEIGHBOURING_RELATION, VALUE_DISCRETIZATION_INTERVAL):
        raise GemelError("GEM302", f"The exported ledger was accounted in another way: {stated}.")
    _verify_epsilon(payload)
    return entries


def _verify_epsilon(payload: _Payload) -> None:
    reservations = [item for item in payload.entries if item.kind == EntryKind.RESERVED]
    for item in reservations:
        if not item.epsilon_after <= item.epsilon_cap:
            raise GemelError("GEM302", f"Entry {item.seq} was over the cap when it was written.")
    # One rounding step of tolerance: another machine's FFT may land on the other side of it.
    tolerance = 1.5 * EPSILON_STEP
    charged = charged_mechanisms(payload.entries)
    recomputed = epsilon(charged, delta=payload.delta)
    if not abs(recomputed - payload.epsilon_spent) <= tolerance:
        raise GemelError("GEM302", f"The ledger states {payload.epsilon_spent}; it costs {recomputed}.")
    if reservations:
        last = reservations[-1]
        if not abs(epsilon(charged, delta=last.delta) - last.epsilon_after) <= tolerance:
            raise GemelError("GEM302", f"Entry {last.seq} states an epsilon that its chain does not cost.")
