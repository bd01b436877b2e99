"""What was released to whom, in words, for a data-protection officer; everything from the ledger and the documents.

No person and no exact count is in it: how many people a study touched is said to the order of magnitude.
"""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

from gemel.client_node import approvals
from gemel.client_node.approvals import Approval, Decision, Proposal
from gemel.client_node.home import NodeHome
from gemel.client_node.task_words import words_of
from gemel.core.errors import GemelError
from gemel.core.mechanism import Charge, mechanisms_by_patient
from gemel.core.signing import SignedDocument, fingerprint, sign_document
from gemel.core.study import Masking, Study, parse_study
from gemel.privacy.accounting import epsilon, price
from gemel.privacy.ledger import Book, Ledger, LedgerEntry, book_of

SCHEMA = "gemel/evidence/1"
KIND = "evidence"


def evidence(home: NodeHome, ledger: Ledger) -> SignedDocument:
    """The evidence pack of a hospital, signed by its node.

    Raises what `Ledger.verify` raises for a ledger that does not hold: then there is no evidence.
    """
    ledger.verify()
    entries = ledger.entries()
    book = book_of(entries)
    proposed = {p.study.payload_sha256: p for p in approvals.proposals(home)}
    payload = {
        "schema": SCHEMA,
        "site": home.config.site,
        "node": fingerprint(home.key.public_hex),
        "made_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "cap": _promise(ledger.epsilon_cap, ledger.delta),
        "reserved": _promise(ledger.epsilon_spent(), ledger.delta),
        "remains": max(0.0, round(ledger.epsilon_cap - ledger.epsilon_spent(), 6)),
        "released_to": fingerprint(home.config.coordinator_public_key),
        "ledger": {
            "entries": len(entries),
            "head": entries[-1].sha256,
            "since": entries[0].written_at,
            "verified": "every hash, link, signature and time of the chain; that what left began, and what began was "
            "reserved; the commitments to whom each study touched; and what all of it costs",
        },
        "studies": [
            _study(home, ledger, book, entry, proposed.get(entry.study_sha256))
            for entry in book.reservations.values()
        ],
        "refused": _others(home, book, proposed, refused=True),
        "waiting": _others(home, book, proposed, refused=False),
    }
    return sign_document(KIND, payload, home.key, role="node")


def _promise(epsilon_: float, delta: float) -> dict[str, Any]:
    """(ε, δ) and what it means: differential privacy bounds how far anybody's odds on one person can move."""
    factor = f"{math.exp(epsilon_):,.3g}" if epsilon_ < 30 else "more than a million million"
    return {
        "epsilon": epsilon_,
        "delta": delta,
        "words": f"whoever sees everything that was released, whatever else they know, can change their odds on "
        f"whether one patient took part, or what was recorded about them, by a factor of at most {factor}, but for a chance of one in {round(1 / delta):,}",
    }


def _study(
    home: NodeHome, ledger: Ledger, book: Book, entry: LedgerEntry, proposal: Proposal | None
) -> dict[str, Any]:
    study = parse_study(proposal.study.payload) if proposal is not None else None
    people = ledger.people_of(entry.study_sha256)
    by_patient = mechanisms_by_patient(book.standing(entry.study_sha256))
    return {
        "study_sha256": entry.study_sha256,
        "programme": entry.programme,
        "reserved_at": entry.written_at,
        "document": _document(proposal, study),
        "approved": _approval(home, entry.study_sha256),
        "people": {share.value: _magnitude(number) for share, number in people.items()},
        "costs": {share.value: epsilon(paid, delta=ledger.delta) for share, paid in by_patient.items()},
        "cost": _promise(price(book.standing(entry.study_sha256), delta=ledger.delta), ledger.delta),
        "masked": study is not None and study.aggregation.masking is Masking.SECURE,
        "tasks": [_task(book, entry, charge) for charge in entry.charges],
    }


def _document(proposal: Proposal | None, study: Study | None) -> dict[str, Any] | None:
    """What the study says of itself; None when the node no longer keeps its document."""
    if proposal is None or study is None:
        return None
    return {
        "title": study.title,
        "purpose": study.purpose,
        "study_id": study.study_id,
        "sites": sorted(study.sites),
        "signed_by": [{"role": s.role, "key": fingerprint(s.public_key)} for s in proposal.study.signatures],
    }


def _approval(home: NodeHome, study_sha256: str) -> dict[str, Any] | None:
    try:
        found = approvals.find(home, study_sha256)
    except GemelError as error:
        return {"steward": f"not valid: {error.code}", "decision": "", "at": "", "reason": ""}
    return None if found is None else _said(found)


def _said(approval: Approval) -> dict[str, Any]:
    return {
        "steward": approval.steward,
        "decision": approval.decision.value,
        "at": approval.decided_at,
        "reason": approval.reason,
    }


def _task(book: Book, reserved: LedgerEntry, charge: Charge) -> dict[str, Any]:
    task = (reserved.study_sha256, charge.task)
    begun, released, expired = book.begun.get(task), book.released.get(task), book.expired.get(task)
    told: dict[str, Any] = {
        "task": charge.task,
        **words_of(charge),
        "state": "not begun: nothing was computed",
        "at": "",
        "release_sha256": "",
        "decision": None,
    }
    if released is not None:
        told |= {"state": "released", "at": released.written_at, "release_sha256": released.release_sha256}
    elif begun is not None:
        told |= {"state": "begun, and no release is on record: it counts as spent", "at": begun.written_at}
    elif expired is not None and expired.decision is not None:
        said = expired.decision.payload
        told |= {
            "state": "given back: it never began, so no patient was touched",
            "at": expired.written_at,
            "decision": {"steward": said["steward"], "reason": said["reason"], "at": said["decided_at"]},
        }
    return told


def _magnitude(people: int) -> str:
    """How many people, to the order of magnitude.

    >>> _magnitude(7), _magnitude(345)
    ('fewer than 10', 'between 100 and 1,000')
    """
    if people < 10:
        return "fewer than 10"
    low = 10 ** (len(str(people)) - 1)
    return f"between {low:,} and {10 * low:,}"


def _others(
    home: NodeHome, book: Book, proposed: dict[str, Proposal], *, refused: bool
) -> list[dict[str, Any]]:
    """Studies that were proposed here and never ran: those that a steward refused, or the others."""
    found = []
    for sha256, proposal in proposed.items():
        approval = _approval(home, sha256)
        said = approval is not None and approval["decision"] == Decision.REFUSED
        if sha256 not in book.reservations and said == refused:
            study = parse_study(proposal.study.payload)
            found.append({"study_sha256": sha256, "document": _document(proposal, study), "said": approval})
    return found
