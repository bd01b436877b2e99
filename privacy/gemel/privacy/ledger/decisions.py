"""A steward's decision to give back tasks of a plan that never began."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

import msgspec

from gemel.core.errors import GemelError
from gemel.core.signing import SignedDocument, SigningKey, read_signed, sign_document, signed_by

KIND = "ledger-decision"


class LedgerDecision(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which tasks of which reservation (its entry's hash) are given back, and why. The reason is in every export."""

    site: str
    reservation: str
    tasks: tuple[str, ...]
    reason: str
    steward: str
    decided_at: str


def decide_expiry(
    *, site: str, reservation: str, tasks: Sequence[str], reason: str, steward: str, key: SigningKey
) -> SignedDocument:
    """Sign a decision as a steward, for `Ledger.expire`."""
    decision = LedgerDecision(
        site=site,
        reservation=reservation,
        tasks=tuple(tasks),
        reason=reason,
        steward=steward,
        decided_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    )
    return sign_document(KIND, msgspec.to_builtins(decision), key, role="steward")


def read_decision(document: SignedDocument) -> LedgerDecision:
    """What a signed decision says. Raises GEM308 when it is not one, or its signature is wrong."""
    try:
        checked = read_signed(document.to_bytes(), kind=KIND)
        decision = msgspec.convert(checked.payload, LedgerDecision)
    except (GemelError, msgspec.ValidationError) as error:
        raise GemelError("GEM308", f"Not a steward's decision: {error}.") from error
    if not decision.tasks or len(set(decision.tasks)) != len(decision.tasks) or not decision.reason.strip():
        raise GemelError("GEM308", "A decision names each task once, and its reason.")
    return decision


def check_steward(document: SignedDocument, decision: LedgerDecision, stewards: Mapping[str, str]) -> None:
    """Refuse (GEM308) a decision that is not signed by the steward it names, as on record: name to key."""
    key = stewards.get(decision.steward)
    if key is None or not signed_by(document, key):
        raise GemelError("GEM308", f"{decision.steward!r} is no steward on record, or did not sign.")
