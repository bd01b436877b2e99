"""Studies wait here until a named steward of the hospital approves or refuses them."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum

import msgspec

from gemel.client_node.home import NodeHome
from gemel.core.canonical import canonical_bytes
from gemel.core.errors import GemelError
from gemel.core.files import write_durably
from gemel.core.signing import SignedDocument, SigningKey, read_signed, sign_document, signed_by


class Decision(StrEnum):
    """What a steward says."""

    APPROVED = "approved"
    REFUSED = "refused"


class Approval(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A steward's decision on one study and one snapshot of the hospital's data."""

    site: str
    study_sha256: str
    snapshot: str
    decision: Decision
    steward: str
    reason: str
    decided_at: str


class Proposal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A study that arrived, with what it would touch here (for the steward's eyes; it never leaves)."""

    study: SignedDocument
    snapshot: str
    patients: int


def propose(home: NodeHome, study: SignedDocument, *, snapshot: str, patients: int) -> None:
    """Put a study before the stewards; the newest snapshot replaces an older one."""
    proposal = Proposal(study=study, snapshot=snapshot, patients=patients)
    path = home.folder / "studies" / f"{study.payload_sha256}.proposal.json"
    content = canonical_bytes(msgspec.to_builtins(proposal))
    if not path.exists() or path.read_bytes() != content:
        write_durably(path, content)


def proposals(home: NodeHome) -> list[Proposal]:
    """Every study that arrived here."""
    paths = sorted((home.folder / "studies").glob("*.proposal.json"))
    return [msgspec.json.decode(path.read_bytes(), type=Proposal) for path in paths]


def proposal_of(home: NodeHome, study_sha256: str) -> Proposal:
    """What the steward reads before deciding. Raises GEM401 when the study was never proposed here."""
    for proposal in proposals(home):
        if proposal.study.payload_sha256 == study_sha256:
            return proposal
    raise GemelError("GEM401", f"No study {study_sha256} was proposed to {home.config.site}.")


def decide(
    home: NodeHome,
    proposal: Proposal,
    decision: Decision,
    *,
    steward: str,
    key: SigningKey,
    reason: str,
) -> Approval:
    """Record a steward's signed decision on what was shown: this study, on this snapshot of the data.

    Should the data change between reading and deciding, the approval is of the data that were read, and the gate
    refuses the others (GEM405). Raises GEM401 for somebody who is no steward here.
    """
    if home.config.stewards.get(steward) != key.public_hex:
        raise GemelError("GEM401", f"{steward} is not a steward of {home.config.site}.")
    study_sha256 = proposal.study.payload_sha256
    approval = Approval(
        site=home.config.site,
        study_sha256=study_sha256,
        snapshot=proposal.snapshot,
        decision=decision,
        steward=steward,
        reason=reason,
        decided_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    )
    document = sign_document("approval", msgspec.to_builtins(approval), key, role="steward")
    write_durably(home.folder / "studies" / f"{study_sha256}.approval.json", document.to_bytes())
    return approval


def find(home: NodeHome, study_sha256: str) -> Approval | None:
    """The decision on a study, or None while it waits. Raises GEM102 when it was not signed by its steward."""
    path = home.folder / "studies" / f"{study_sha256}.approval.json"
    if not path.exists():
        return None
    document = read_signed(path.read_bytes(), kind="approval")
    approval = msgspec.convert(document.payload, Approval)
    steward_key = home.config.stewards.get(approval.steward, "")
    about = (approval.site, approval.study_sha256)
    if not signed_by(document, steward_key) or about != (home.config.site, study_sha256):
        raise GemelError("GEM102", f"The approval of {study_sha256} is not by a steward on record.")
    return approval
