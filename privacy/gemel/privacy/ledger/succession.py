"""A new key for a node: the old one and the new one say so together, and the ledger goes on under the new one."""

from __future__ import annotations

import datetime as dt

import msgspec

from gemel.core.errors import GemelError
from gemel.core.signing import SignedDocument, SigningKey, read_signed, sign_document
from gemel.privacy.ledger.entries import LedgerEntry

KIND = "key-succession"


class Succession(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which key (hex Ed25519) of a site is followed by which, in the chain whose newest link was `follows`."""

    site: str
    predecessor: str
    successor: str
    follows: str
    made_at: str


def sign_succession(*, site: str, old: SigningKey, new: SigningKey, follows: str) -> SignedDocument:
    """The statement of both keys: neither can take the other's ledger alone."""
    succession = Succession(
        site=site,
        predecessor=old.public_hex,
        successor=new.public_hex,
        follows=follows,
        made_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    )
    payload = msgspec.to_builtins(succession)
    document = sign_document(KIND, payload, old, role="predecessor")
    other = sign_document(KIND, payload, new, role="successor")
    return msgspec.structs.replace(document, signatures=(*document.signatures, *other.signatures))


def read_succession(document: SignedDocument) -> Succession:
    """What a statement says. Raises GEM417 when it is not one, or not by exactly its two keys."""
    try:
        checked = read_signed(document.to_bytes(), kind=KIND)
        succession = msgspec.convert(checked.payload, Succession)
    except (GemelError, msgspec.ValidationError) as error:
        raise GemelError("GEM417", f"Not a statement of two keys: {error}.") from error
    signers = [signature.public_key for signature in checked.signatures]
    if signers != [succession.predecessor, succession.successor] or len(set(signers)) != 2:
        raise GemelError("GEM417", "The statement of two keys is not signed by both.")
    return succession


def check_succession(entry: LedgerEntry) -> None:
    """Refuse (GEM302) an entry that names a key without the statement of both, or about another site or key."""
    if entry.decision is None:
        raise GemelError("GEM302", f"Entry {entry.seq} names a new key without a statement.")
    try:
        succession = read_succession(entry.decision)
    except GemelError as error:
        raise GemelError("GEM302", f"Entry {entry.seq}: {error.message}") from error
    told = (succession.site, succession.predecessor, succession.follows)
    if told != (entry.site, entry.public_key, entry.previous):
        raise GemelError("GEM302", f"Entry {entry.seq} names a new key for another chain, site or key.")
