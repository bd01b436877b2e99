"""A ledger outside its hospital: a signed document without a person in it, and how anybody checks it offline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.signing import SignedDocument, read_signed, signed_by
from gemel.privacy.accounting import (
    EPSILON_STEP,
    NEIGHBOURING_RELATION,
    VALUE_DISCRETIZATION_INTERVAL,
    price,
)
from gemel.privacy.ledger.book import Book, book_of
from gemel.privacy.ledger.entries import (
    SCHEMA,
    EntryKind,
    LedgerEntry,
    entry_body,
    key_after,
    require_head,
    verify_link,
    verify_signature,
)


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


def ledger_payload(entries: Sequence[LedgerEntry], *, epsilon_cap: float, delta: float) -> dict[str, Any]:
    """The payload of an exported ledger, with all that is needed to recompute `epsilon_spent`."""
    opened = entries[0]
    payload: dict[str, Any] = msgspec.to_builtins(
        _Payload(
            schema=SCHEMA,
            site=opened.site,
            public_key=key_after(entries[-1]),
            epsilon_cap=epsilon_cap,
            delta=delta,
            epsilon_spent=entries[-1].epsilon_after,
            unit="patient",
            neighbouring_relation=NEIGHBOURING_RELATION,
            value_discretization_interval=VALUE_DISCRETIZATION_INTERVAL,
            head=entries[-1].sha256,
            entries=tuple(entries),
        )
    )
    return payload


def verify_ledger_document(document: SignedDocument) -> tuple[LedgerEntry, ...]:
    """Verify an exported ledger with nothing but itself, and return its entries.

    Checks the document's signature by the key that it names, which is the newest entry's, every entry's by its own, that
    each key named the next one (GEM102, GEM105), the chain (GEM105), its
    clock (GEM310), that what began was reserved, what left began and what was given back did not, and ε by
    recomputation (GEM302). Whether the key is the hospital's, whether the end of the chain is the newest, and whether
    each patient is under the cap, it cannot know: compare `public_key` with the study's and `head` with a run
    certificate's; the last only the hospital's own file can show.
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
    if (payload.site, payload.public_key) != (opened.site, key_after(entries[-1])):
        raise GemelError("GEM302", "The exported ledger is of another site or key than its entries.")
    if not signed_by(document, payload.public_key):
        raise GemelError("GEM102", "The exported ledger is not signed by the key of its entries.")
    stated = (payload.unit, payload.neighbouring_relation, payload.value_discretization_interval)
    if stated != ("patient", NEIGHBOURING_RELATION, VALUE_DISCRETIZATION_INTERVAL):
        raise GemelError("GEM302", f"The exported ledger was accounted in another way: {stated}.")
    if (payload.delta, payload.epsilon_spent) != (entries[-1].delta, entries[-1].epsilon_after):
        recomputed = price(book_of(entries).all_standing(), delta=payload.delta)
        if not abs(recomputed - payload.epsilon_spent) <= _TOLERANCE:
            raise GemelError("GEM302", f"The ledger states {payload.epsilon_spent}; it costs {recomputed}.")
    verify_epsilon(entries)
    return entries


def verify_chain(entries: Sequence[LedgerEntry]) -> Book:
    """Check hashes, links, signatures and meaning of a whole chain: GEM105, GEM102, GEM310, GEM302."""
    before: LedgerEntry | None = None
    for entry in entries:
        if sha256_hex(entry_body(entry)) != entry.sha256:
            raise GemelError(
                "GEM105", f"The content of the ledger's entry {entry.seq} differs from its hash."
            )
        verify_link(entry, before)
        verify_signature(entry)
        before = entry
    return book_of(entries)


# One rounding step: another machine's FFT may land on the other side of it.
_TOLERANCE = 1.5 * EPSILON_STEP


def verify_epsilon(entries: Sequence[LedgerEntry]) -> None:
    """Check what the newest plan or expiry says that all standing plans cost, and that nothing else changed it: GEM302."""
    stated = 0.0
    changing: LedgerEntry | None = None
    for entry in entries:
        if entry.kind in (EntryKind.RESERVED, EntryKind.EXPIRED):
            changing, stated = entry, entry.epsilon_after
        elif entry.epsilon_after != stated:
            raise GemelError("GEM302", f"Entry {entry.seq} changes what is spent, and charges nothing.")
    if changing is None:
        return
    recomputed = price(book_of(entries[: changing.seq]).all_standing(), delta=changing.delta)
    if not abs(recomputed - changing.epsilon_after) <= _TOLERANCE:
        raise GemelError(
            "GEM302", f"Entry {changing.seq} states {changing.epsilon_after}; it costs {recomputed}."
        )


def require_anchored(entries: Sequence[LedgerEntry], certificate: SignedDocument) -> int:
    """Check that a chain holds the head that a run certificate saw of this ledger, and return that head's number.

    Raises GEM309 when it does not: it was rolled back, or is another chain under the same key; GEM106 when the
    certificate says nothing of this ledger.
    """
    sites = certificate.payload.get("sites") if certificate.kind == "certificate" else None
    keys = {entry.public_key for entry in entries}  # a certificate may be older than the newest key
    for told in sites.values() if isinstance(sites, dict) else ():
        if isinstance(told, dict) and told.get("public_key") in keys and "ledger_seq" in told:
            seq, sha256 = told["ledger_seq"], told["ledger_head"]
            require_head(entries, seq=seq, sha256=sha256)
            return int(seq)
    raise GemelError("GEM106", f"The {certificate.kind} names no head of the ledger of {entries[0].site}.")
