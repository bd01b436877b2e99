"""The life of studies in the store: draft → signed → proposed → approved → running → finished | stopped | failed."""

from __future__ import annotations

import datetime as dt
import json
import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    Integer,
    String,
    Table,
    Text,
    insert,
    select,
    update,
)

from gemel.core.canonical import canonical_bytes
from gemel.core.errors import GemelError
from gemel.core.signing import SignedDocument, read_signed
from gemel.core.study import Study, parse_study
from gemel.server.store import metadata


class StudyState(StrEnum):
    """Where a study stands."""

    DRAFT = "draft"
    SIGNED = "signed"
    PROPOSED = "proposed"  # at the hospitals, waiting for stewards
    APPROVED = "approved"  # by as many as its quorum
    RUNNING = "running"
    FINISHED = "finished"  # with a certificate that was verified
    STOPPED = "stopped"  # by a person
    FAILED = "failed"


S = StudyState
ARROWS: dict[StudyState, frozenset[StudyState]] = {
    S.DRAFT: frozenset({S.SIGNED}),
    S.SIGNED: frozenset({S.PROPOSED}),
    S.PROPOSED: frozenset({S.APPROVED, S.STOPPED, S.FAILED}),
    S.APPROVED: frozenset({S.RUNNING, S.STOPPED, S.FAILED}),
    S.RUNNING: frozenset({S.FINISHED, S.STOPPED, S.FAILED}),
    S.FINISHED: frozenset(),
    S.STOPPED: frozenset({S.PROPOSED}),  # resumed: it goes on from the last completed task
    S.FAILED: frozenset({S.PROPOSED}),
}
ACTIVE = frozenset({S.PROPOSED, S.APPROVED, S.RUNNING})
PRIVATE = frozenset({S.DRAFT, S.SIGNED})  # its owner's alone
_MOST_BYTES = 1 << 20

_studies = Table(
    "studies",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("owner", String(32), nullable=False, index=True),
    Column("state", String(16), nullable=False, index=True),
    Column("study_sha256", String(64), nullable=True, unique=True),  # from its signature on
    Column("payload", Text, nullable=False),
    Column("document", Text, nullable=False, default=""),
    Column("created_at", String(40), nullable=False),
    Column("changed_at", String(40), nullable=False),
    Column("approval_timeout_s", Float, nullable=False, default=0.0),
    Column("code", String(8), nullable=False, default=""),  # why it stopped or failed
    Column("certificate_sha256", String(64), nullable=False, default=""),
    Column("stop_by", String(64), nullable=False, default=""),
    # What the watcher keeps.
    Column("run_id", String(24), nullable=False, default=""),
    Column("events_offset", BigInteger, nullable=False, default=0),
    Column("tasks_done", Integer, nullable=False, default=0),
    Column("restarts", Integer, nullable=False, default=0),
    Column("start_after", Float, nullable=False, default=0.0),
)
_history = Table(
    "study_history",
    metadata,
    Column("study", String(32), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("state", String(16), nullable=False),
    Column("actor", String(64), nullable=False),
    Column("at", String(40), nullable=False),
    Column("code", String(8), nullable=False),
    Column("reason", String(500), nullable=False),
)
_sites = Table(
    "study_sites",
    metadata,
    Column("study", String(32), primary_key=True),
    Column("site", String(64), primary_key=True),
    Column("status", String(16), nullable=False),
    Column("code", String(8), nullable=False),
    Column("at", String(40), nullable=False),
)


@dataclass(frozen=True)
class StudyRecord:
    """A study as the store has it; the signed document is empty before it is signed."""

    id: str
    owner: str
    state: StudyState
    study_sha256: str | None
    payload: dict[str, Any]
    document: str
    created_at: str
    changed_at: str
    approval_timeout_s: float
    code: str
    certificate_sha256: str
    stop_by: str
    run_id: str
    events_offset: int
    tasks_done: int
    restarts: int
    start_after: float

    @property
    def study(self) -> Study:
        """The study itself, checked."""
        return parse_study(self.payload)

    @property
    def signed(self) -> SignedDocument:
        """The signed document, verified. Raises GEM101 before it is signed."""
        return read_signed(self.document.encode(), kind="study")


@dataclass(frozen=True)
class Step:
    """One move of a study: into which state, by whom, when, and why."""

    state: StudyState
    actor: str
    at: str
    code: str
    reason: str


@dataclass(frozen=True)
class SiteStatus:
    """What a hospital said of a study, in its node's words: pending, approved or refused, with a code."""

    site: str
    status: str
    code: str
    at: str


def draft(connection: Connection, *, owner: str, payload: object) -> StudyRecord:
    """Put a draft on record. Raises GEM101 when it is no study."""
    study_id, at = secrets.token_hex(16), _now()
    row = {"id": study_id, "owner": owner, "state": str(S.DRAFT), "payload": _checked(payload)}
    connection.execute(insert(_studies).values(**row, created_at=at, changed_at=at))
    _write_step(connection, study_id, S.DRAFT, actor=owner)
    return get(connection, study_id)


def redraft(connection: Connection, study_id: str, payload: object) -> StudyRecord:
    """Replace a draft. Raises GEM910 once it is signed."""
    _change(connection, study_id, (S.DRAFT,), payload=_checked(payload), changed_at=_now())
    return get(connection, study_id)


def sign(connection: Connection, study_id: str, document: SignedDocument, *, actor: str) -> StudyRecord:
    """The draft becomes what was signed. Whose signature it is, the caller has checked.

    Raises GEM101 when it is no study, GEM909 when that study is on record, GEM910 when this one is signed already.
    """
    parse_study(document.payload)
    taken = connection.execute(
        select(_studies.c.id).where(_studies.c.study_sha256 == document.payload_sha256)
    ).scalar()
    if taken is not None and taken != study_id:
        raise GemelError("GEM909", "That very study is on record; give a new one another study_id.")
    _move(
        connection,
        study_id,
        S.SIGNED,
        actor=actor,
        study_sha256=document.payload_sha256,
        payload=canonical_bytes(document.payload).decode(),
        document=document.to_bytes().decode(),
    )
    return get(connection, study_id)


def propose(
    connection: Connection, study_id: str, *, actor: str, approval_timeout_s: float, events_offset: int
) -> StudyRecord:
    """Send a signed study to its hospitals, or a stopped or failed one again.

    `events_offset`: where the run's log ends now; what stands before it is an earlier run's.
    """
    _move(
        connection,
        study_id,
        S.PROPOSED,
        actor=actor,
        approval_timeout_s=approval_timeout_s,
        events_offset=events_offset,
        stop_by="",
        run_id="",
        restarts=0,
        start_after=0.0,
    )
    return get(connection, study_id)


def move(
    connection: Connection,
    study_id: str,
    to: StudyState,
    *,
    actor: str,
    code: str = "",
    certificate_sha256: str = "",
) -> StudyRecord:
    """Go along an arrow. Raises GEM910 when there is none from where the study stands."""
    changes = {"certificate_sha256": certificate_sha256} if certificate_sha256 else {}
    _move(connection, study_id, to, actor=actor, code=code, **changes)
    return get(connection, study_id)


def ask_to_stop(connection: Connection, study_id: str, *, actor: str, reason: str) -> StudyRecord:
    """Say that an active study is to end; the run ends itself, with a certificate. Raises GEM910 when it is not active."""
    _change(connection, study_id, tuple(ACTIVE), stop_by=actor, start_after=0.0, changed_at=_now())
    record = get(connection, study_id)
    _write_step(connection, study_id, record.state, actor=actor, reason=reason)
    return record


def keep(connection: Connection, study_id: str, **values: object) -> None:
    """What the watcher remembers: run_id, events_offset, tasks_done, restarts, start_after."""
    allowed = {"run_id", "events_offset", "tasks_done", "restarts", "start_after"}
    if not set(values) <= allowed:
        raise ValueError(f"not the watcher's: {set(values) - allowed}")
    connection.execute(update(_studies).where(_studies.c.id == study_id).values(**values))


def note_site(connection: Connection, study_id: str, *, site: str, status: str, code: str) -> None:
    """Keep what a hospital said last."""
    of = (_sites.c.study == study_id) & (_sites.c.site == site)
    values = {"status": status[:16], "code": code[:8], "at": _now()}
    if connection.execute(update(_sites).where(of).values(**values)).rowcount == 0:
        connection.execute(insert(_sites).values(study=study_id, site=site[:64], **values))


def sites(connection: Connection, study_id: str) -> list[SiteStatus]:
    """What the hospitals said, by name; who said nothing yet is not in it."""
    query = select(_sites).where(_sites.c.study == study_id).order_by(_sites.c.site)
    rows = connection.execute(query).mappings()
    return [SiteStatus(**{name: row[name] for name in ("site", "status", "code", "at")}) for row in rows]


def history(connection: Connection, study_id: str) -> list[Step]:
    """Every move, the oldest first."""
    query = select(_history).where(_history.c.study == study_id).order_by(_history.c.seq)
    return [
        Step(StudyState(row["state"]), row["actor"], row["at"], row["code"], row["reason"])
        for row in connection.execute(query).mappings()
    ]


def get(connection: Connection, study_id: str) -> StudyRecord:
    """One study. Raises GEM906."""
    row = connection.execute(select(_studies).where(_studies.c.id == study_id)).mappings().first()
    if row is None:
        raise GemelError("GEM906", "There is no such study.")
    return _record(row)


def every(connection: Connection, *, states: frozenset[StudyState] | None = None) -> list[StudyRecord]:
    """Studies in some states, or all; the newest first."""
    query = select(_studies).order_by(_studies.c.created_at.desc(), _studies.c.id)
    if states is not None:
        query = query.where(_studies.c.state.in_([str(state) for state in states]))
    return [_record(row) for row in connection.execute(query).mappings()]


def _move(connection: Connection, study_id: str, to: StudyState, *, actor: str, **values: object) -> None:
    code = str(values.get("code", ""))
    sources = tuple(state for state, targets in ARROWS.items() if to in targets)
    values = {**values, "code": code, "state": str(to), "changed_at": _now()}
    _change(connection, study_id, sources, **values)
    _write_step(connection, study_id, to, actor=actor, code=code)


def _change(connection: Connection, study_id: str, sources: tuple[StudyState, ...], **values: object) -> None:
    """Change a study that stands in one of these states; one statement, so that nothing comes between."""
    where = (_studies.c.id == study_id) & _studies.c.state.in_([str(state) for state in sources])
    if connection.execute(update(_studies).where(where).values(**values)).rowcount != 1:
        state = get(connection, study_id).state
        wanted = values.get("state", "changed")
        raise GemelError("GEM910", f"A study that is {state} cannot become {wanted}.")


def _write_step(
    connection: Connection,
    study_id: str,
    state: StudyState,
    *,
    actor: str,
    code: str = "",
    reason: str = "",
) -> None:
    seq = len(history(connection, study_id)) + 1
    values = {"study": study_id, "seq": seq, "state": str(state), "actor": actor, "at": _now()}
    connection.execute(insert(_history).values(**values, code=code, reason=reason[:500]))


def _checked(payload: object) -> str:
    try:
        text = canonical_bytes(parse_study(payload).to_payload()).decode()
    except (ValueError, RecursionError) as error:  # half a character, or what nests too deep
        raise GemelError("GEM101", f"The study cannot be written as JSON: {type(error).__name__}.") from error
    if len(text) > _MOST_BYTES:
        raise GemelError("GEM101", "The study document is larger than a mebibyte.")
    return text


def _record(row: Any) -> StudyRecord:
    payload = json.loads(row["payload"])
    return StudyRecord(**{**row, "state": StudyState(row["state"]), "payload": payload})


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
