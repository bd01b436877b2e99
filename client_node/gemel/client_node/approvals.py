"""Studies wait here until a named steward of the hospital approves or refuses them."""

from __future__ import annotations

import contextlib
import datetime as dt
from enum import StrEnum
from pathlib import Path

import msgspec

from gemel.client_node import audit_log
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
    """A steward's decision on one study and one snapshot of the hospital's data.

    Attributes:
        until: An approval ends then (ISO 8601 with a time zone); "" for no end.
        runs: An approval is for so many runs (`gemel.client_node.standing`); 0 for any number.
    """

    site: str
    study_sha256: str
    snapshot: str
    decision: Decision
    steward: str
    reason: str
    decided_at: str
    until: str = ""
    runs: int = 0


class Proposal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A study that arrived, with what it would touch here (for the steward's eyes; it never leaves)."""

    study: SignedDocument
    snapshot: str
    patients: int
    arrived_at: str = ""


def is_proposed(home: NodeHome, study_sha256: str) -> bool:
    """Whether the study arrived here before."""
    return _proposal(home, study_sha256).exists()


def propose(home: NodeHome, study: SignedDocument, *, snapshot: str, patients: int) -> None:
    """Put a study before the stewards; the newest snapshot replaces an older one."""
    path = _proposal(home, study.payload_sha256)
    before = msgspec.json.decode(path.read_bytes(), type=Proposal) if path.exists() else None
    arrived_at = _now() if before is None else before.arrived_at
    proposal = Proposal(study=study, snapshot=snapshot, patients=patients, arrived_at=arrived_at)
    if proposal != before:
        write_durably(path, canonical_bytes(msgspec.to_builtins(proposal)))


def proposals(home: NodeHome) -> list[Proposal]:
    """Every study that arrived here, oldest first."""
    paths = sorted((home.folder / "studies").glob("*.proposal.json"))
    found = [msgspec.json.decode(path.read_bytes(), type=Proposal) for path in paths]
    return sorted(found, key=lambda proposal: (proposal.arrived_at, proposal.study.payload_sha256))


def proposal_of(home: NodeHome, study_sha256: str) -> Proposal:
    """What the steward reads before deciding. Raises GEM401 when the study was never proposed here."""
    for proposal in proposals(home):
        if proposal.study.payload_sha256 == study_sha256:
            return proposal
    raise GemelError("GEM401", f"No study {study_sha256} was proposed to {home.config.site}.")


def proposal_like(home: NodeHome, beginning: str) -> Proposal:
    """The one proposal whose hash begins so. Raises GEM419 for none, or several."""
    found = [p for p in proposals(home) if beginning and p.study.payload_sha256.startswith(beginning.lower())]
    if len(found) != 1:
        raise GemelError("GEM419", f"{len(found)} studies at {home.config.site} begin with {beginning!r}.")
    return found[0]


def decide(
    home: NodeHome,
    proposal: Proposal,
    decision: Decision,
    *,
    steward: str,
    key: SigningKey,
    reason: str,
    until: str = "",
    runs: int = 0,
) -> Approval:
    """Record a steward's signed decision on what was shown: this study, on this snapshot of the data.

    Should the data change between reading and deciding, the approval is of the data that were read, and the gate
    refuses the others (GEM405). The newest decision holds, so that a refusal cannot be undone by an older approval: it is
    dated after the last one, even by a clock that was set back. Raises GEM401 for somebody who is no steward here,
    GEM412 for a time that is past.
    """
    if home.config.stewards.get(steward) != key.public_hex:
        raise GemelError("GEM401", f"{steward} is not a steward of {home.config.site}.")
    study_sha256 = proposal.study.payload_sha256
    now = _now()
    if until and not now < in_utc(until):
        raise GemelError("GEM412", f"{until} is past: it is {now}.")
    if runs < 0:
        raise GemelError("GEM412", f"{runs} runs are none.")
    # A clock that ran ahead when somebody approved must not keep others from refusing now.
    decided_at = max(now, _just_after(_newest_time(home, study_sha256)))
    approval = Approval(
        site=home.config.site,
        study_sha256=study_sha256,
        snapshot=proposal.snapshot,
        decision=decision,
        steward=steward,
        reason=reason,
        decided_at=decided_at,
        until=in_utc(until) if until else "",
        runs=runs,
    )
    document = sign_document("approval", msgspec.to_builtins(approval), key, role="steward")
    audit_log.record(
        home,
        audit_log.EventKind.DECIDED,
        study=study_sha256,
        decision=decision.value,
        steward=steward,
        document=document.payload_sha256,
    )
    kept = _decisions(home, study_sha256)
    kept.mkdir(exist_ok=True)
    write_durably(kept / f"{document.payload_sha256}.json", document.to_bytes())
    write_durably(_newest(home, study_sha256), document.to_bytes())
    return approval


def find(home: NodeHome, study_sha256: str) -> Approval | None:
    """The newest decision on a study, or None while it waits. Raises what `decisions` raises."""
    found = decisions(home, study_sha256)
    return found[-1] if found else None


def decisions(home: NodeHome, study_sha256: str) -> tuple[Approval, ...]:
    """Every decision on a study, oldest first; of those kept beside, only what stewards on record signed.

    Raises GEM102 when the one in `STUDY.approval.json` was not signed by its steward.
    """
    found: set[Approval] = set()
    for path in _decisions(home, study_sha256).glob("*.json"):
        with contextlib.suppress(GemelError):  # of a steward who is none any more
            found.add(_read(home, study_sha256, path.read_bytes()))
    path = _newest(home, study_sha256)
    if path.exists():
        found.add(_read(home, study_sha256, path.read_bytes()))
    return tuple(sorted(found, key=lambda approval: approval.decided_at))


def in_utc(when: str) -> str:
    """A date (its end, in UTC) or a time, as ISO 8601 in UTC; GEM412 for what is neither.

    >>> in_utc("2026-11-30"), in_utc("2026-11-30T12:00:00+01:00")
    ('2026-12-01T00:00:00.000+00:00', '2026-11-30T11:00:00.000+00:00')
    """
    try:
        if len(when) == 10:
            parsed = dt.datetime.combine(dt.date.fromisoformat(when), dt.time(), dt.UTC) + dt.timedelta(
                days=1
            )
        else:
            parsed = dt.datetime.fromisoformat(when)
    except (ValueError, OverflowError) as error:
        raise GemelError("GEM412", f"{when!r} is no date, and no time.") from error
    if parsed.tzinfo is None:
        raise GemelError("GEM412", f"{when!r} has no time zone.")
    return parsed.astimezone(dt.UTC).isoformat(timespec="milliseconds")


def _read(home: NodeHome, study_sha256: str, content: bytes) -> Approval:
    document = read_signed(content, kind="approval")
    approval = msgspec.convert(document.payload, Approval)
    steward_key = home.config.stewards.get(approval.steward, "")
    about = (approval.site, approval.study_sha256)
    if not signed_by(document, steward_key) or about != (home.config.site, study_sha256):
        raise GemelError("GEM102", f"The approval of {study_sha256} is not by a steward on record.")
    return approval


def _proposal(home: NodeHome, study_sha256: str) -> Path:
    return home.folder / "studies" / f"{study_sha256}.proposal.json"


def _newest_time(home: NodeHome, study_sha256: str) -> str:
    """When the newest decision was made, whoever made it; "" without one."""
    paths = [*_decisions(home, study_sha256).glob("*.json"), _newest(home, study_sha256)]
    newest = ""
    for path in paths:
        with contextlib.suppress(GemelError, FileNotFoundError):
            document = read_signed(path.read_bytes(), kind="approval")
            newest = max(newest, str(document.payload.get("decided_at", "")))
    return newest


def _just_after(when: str) -> str:
    try:
        later = dt.datetime.fromisoformat(when) + dt.timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        return ""
    return later.astimezone(dt.UTC).isoformat(timespec="milliseconds")


def _newest(home: NodeHome, study_sha256: str) -> Path:
    return home.folder / "studies" / f"{study_sha256}.approval.json"


def _decisions(home: NodeHome, study_sha256: str) -> Path:
    return home.folder / "studies" / f"{study_sha256}.decisions"


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
