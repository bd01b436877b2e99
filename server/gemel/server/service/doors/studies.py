"""Studies: drafted, signed on the scientist's machine, submitted, watched, stopped, resumed; what they brought."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Annotated, Any

import msgspec
from fastapi import Path, Query, Response
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.signing import SignedDocument, read_signed, signed_by
from gemel.core.synthesis_plan import ROUNDS
from gemel.server import studies
from gemel.server.home import RunFolder
from gemel.server.service import users
from gemel.server.service.access import Caller, CallerIn, Doors, ServiceIn, study_for
from gemel.server.service.forms import (
    DraftIn,
    EventsOut,
    FileOut,
    SignedIn,
    SiteOut,
    StepOut,
    StopIn,
    StudyDetail,
    StudyOut,
    SubmitIn,
)
from gemel.server.service.parts import Service
from gemel.server.service.roles import Permission
from gemel.server.studies import ACTIVE, PRIVATE, StudyRecord, StudyState
from gemel.synthetic.releases import check_strategy
from gemel.twins.installed import find

DOORS = Doors()
StudyId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
FileName = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
_DAY_S = 86_400.0
_LONGEST_WAIT_S, _LOOK_S = 25.0, 0.25
_MOST_EVENTS = 500
READ, WRITE, STEER = Permission.STUDIES_READ, Permission.STUDIES_WRITE, Permission.STUDIES_STEER
_S = "/api/v1/studies"


@DOORS.door("POST", _S, WRITE, tags=["studies"], status_code=201)
def draft(form: DraftIn, caller: CallerIn, service: ServiceIn) -> StudyOut:
    """Put a draft on record; only its owner sees it."""
    with service.log.act(caller.actor, "study.draft") as act:
        record = studies.draft(act.connection, owner=caller.user.id, payload=form.study)
        act.target = record.id
    return out(record)


@DOORS.door("GET", _S, READ, tags=["studies"])
def list_studies(caller: CallerIn, service: ServiceIn) -> list[StudyOut]:
    """The studies that hospitals were asked about, and one's own drafts; the newest first."""
    with service.engine.connect() as connection:
        every = studies.every(connection)
    return [out(r) for r in every if r.state not in PRIVATE or r.owner == caller.user.id]


@DOORS.door("GET", _S + "/{study}", READ, tags=["studies"])
def show(study: StudyId, caller: CallerIn, service: ServiceIn) -> StudyDetail:
    """A study, what each hospital said, and every move with its actor and time."""
    with service.engine.connect() as connection:
        record = study_for(connection, caller, study, READ)
        said = studies.sites(connection, study)
        past = studies.history(connection, study)
    return StudyDetail(
        study=out(record),
        document=json.loads(record.document) if record.document else {"payload": record.payload},
        sites=[SiteOut(**site.__dict__) for site in said],
        history=[StepOut(**step.__dict__) for step in past],
    )


@DOORS.door("PUT", _S + "/{study}/draft", WRITE, tags=["studies"])
def redraft(study: StudyId, form: DraftIn, caller: CallerIn, service: ServiceIn) -> StudyOut:
    """Replace a draft."""
    with service.log.act(caller.actor, "study.redraft", target=study) as act:
        study_for(act.connection, caller, study, WRITE)
        return out(studies.redraft(act.connection, study, form.study))


@DOORS.door("POST", _S + "/{study}/signed", WRITE, tags=["studies"])
def sign(study: StudyId, form: SignedIn, caller: CallerIn, service: ServiceIn) -> StudyOut:
    """The study as its owner signed it, with a key that is on record for the owner."""
    with service.log.act(caller.actor, "study.sign", target=study) as act:
        study_for(act.connection, caller, study, WRITE)
        document = read_signed(json.dumps(form.document).encode(), kind="study")
        _require_signature_of(act.connection, caller.user.id, document)
        act.detail["study_sha256"] = document.payload_sha256
        return out(studies.sign(act.connection, study, document, actor=caller.user.id))


@DOORS.door("POST", _S + "/{study}/submit", WRITE, tags=["studies"])
def submit(study: StudyId, form: SubmitIn, caller: CallerIn, service: ServiceIn) -> StudyOut:
    """Send a signed study to its hospitals: each must be a member, with that very key, now."""
    with service.log.act(caller.actor, "study.submit", target=study) as act:
        record = study_for(act.connection, caller, study, WRITE)
        if record.state is not StudyState.SIGNED:
            raise GemelError("GEM910", f"A study that is {record.state} cannot be submitted.")
        proposed = _propose(service, act.connection, caller, record, days=form.approval_days)
    return out(proposed)


@DOORS.door("POST", _S + "/{study}/stop", STEER, tags=["studies"])
def stop(study: StudyId, form: StopIn, caller: CallerIn, service: ServiceIn) -> StudyOut:
    """End a study's run: it ends itself, with a certificate of what was done until then."""
    with service.log.act(caller.actor, "study.stop", target=study, reason=form.reason) as act:
        study_for(act.connection, caller, study, STEER)
        return out(studies.ask_to_stop(act.connection, study, actor=caller.user.id, reason=form.reason))


@DOORS.door("POST", _S + "/{study}/resume", STEER, tags=["studies"])
def resume(study: StudyId, form: SubmitIn, caller: CallerIn, service: ServiceIn) -> StudyOut:
    """Go on with a stopped or failed study from its last completed task; nothing is charged twice."""
    with service.log.act(caller.actor, "study.resume", target=study) as act:
        record = study_for(act.connection, caller, study, STEER)
        if record.state not in (StudyState.STOPPED, StudyState.FAILED):
            raise GemelError("GEM910", f"A study that is {record.state} cannot be resumed.")
        return out(_propose(service, act.connection, caller, record, days=form.approval_days))


@DOORS.door("GET", _S + "/{study}/events", READ, tags=["studies"])
async def events(
    study: StudyId,
    caller: CallerIn,
    service: ServiceIn,
    after: Annotated[int, Query(ge=0, le=2**53)] = 0,
    wait: Annotated[float, Query(ge=0, le=_LONGEST_WAIT_S)] = 0.0,
) -> EventsOut:
    """The run's events from an offset on; with `wait`, when there are none yet, until there are or the time is up."""
    deadline = time.monotonic() + wait
    while True:
        found = await run_in_threadpool(_events, service, caller, study, after)
        if found.events or found.state not in ACTIVE or time.monotonic() >= deadline:
            return found
        await asyncio.sleep(_LOOK_S)


@DOORS.door("GET", _S + "/{study}/certificate", READ, tags=["studies"])
def certificate(study: StudyId, caller: CallerIn, service: ServiceIn) -> dict[str, Any]:
    """The run's certificate, once the run has ended."""
    run = _ended(service, caller, study, READ)
    document = run.certificate
    if document is None:
        raise GemelError("GEM906", "The run has left no certificate.")
    plain: dict[str, Any] = msgspec.to_builtins(document)
    return plain


@DOORS.door("GET", _S + "/{study}/files", Permission.MODELS_READ, tags=["studies"])
def list_files(study: StudyId, caller: CallerIn, service: ServiceIn) -> list[FileOut]:
    """The global twins, what virtual cohorts are drawn from, and statistics where they were asked; each by its hash."""
    run = _ended(service, caller, study, Permission.MODELS_READ)
    return [
        FileOut(name=name, bytes=len(content), sha256=sha256_hex(content)) for name, content in _files(run)
    ]


@DOORS.door("GET", _S + "/{study}/files/{sha256}", Permission.MODELS_READ, tags=["studies"])
def read_file(study: StudyId, sha256: FileName, caller: CallerIn, service: ServiceIn) -> Response:
    """One of these files. It is asked for by its hash, so that no name is ever a path."""
    run = _ended(service, caller, study, Permission.MODELS_READ)
    for _, content in _files(run):
        if sha256_hex(content) == sha256:
            return Response(content, media_type="application/octet-stream")
    raise GemelError("GEM906", "The run has no such file.")


def out(record: StudyRecord) -> StudyOut:
    """A record as the interface shows it."""
    study = record.study
    return StudyOut(
        id=record.id,
        owner=record.owner,
        state=record.state,
        study_id=study.study_id,
        title=study.title,
        programme=f"{study.programme}@{study.programme_version}",
        study_sha256=record.study_sha256,
        created_at=record.created_at,
        changed_at=record.changed_at,
        code=record.code,
        certificate_sha256=record.certificate_sha256,
        stop_asked=bool(record.stop_by) and record.state in ACTIVE,
        tasks_done=record.tasks_done,
        tasks=len(study.tasks),
        restarts=record.restarts,
    )


def _require_signature_of(connection: Connection, owner: str, document: SignedDocument) -> None:
    """Every signature is believed already; one at least must be by a key that its owner has on record now."""
    if not any(signed_by(document, key) for key in users.keys_of(connection, owner)):
        raise GemelError("GEM911", "No key that signed the study is on record for its owner.")


def _propose(
    service: Service, connection: Connection, caller: Caller, record: StudyRecord, *, days: float
) -> StudyRecord:
    study = record.study
    _require_signature_of(connection, record.owner, record.signed)
    check_strategy(find(study.programme, study.programme_version), study.strategy)
    for site, public_key in study.sites.items():
        if code := service.members.refusal(public_key):
            raise GemelError("GEM921", f"{site} may not take part with that key: {code}.")
        member = service.members.of(public_key)
        if member is None or member.site != site:
            raise GemelError("GEM921", f"The key that the study names {site} is another hospital's.")
    run = service.home.run(str(record.study_sha256))
    return studies.propose(
        connection,
        record.id,
        actor=caller.user.id,
        approval_timeout_s=days * _DAY_S,
        events_offset=max((end for end, _ in run.events()), default=0),
    )


def _events(service: Service, caller: Caller, study: str, after: int) -> EventsOut:
    with service.engine.connect() as connection:
        record = study_for(connection, caller, study, READ)
    found: list[dict[str, Any]] = []
    at = after
    if record.study_sha256 is not None and record.state not in PRIVATE:
        for end, event in service.home.run(record.study_sha256).events(start=after):
            found.append(event)
            at = end
            if len(found) == _MOST_EVENTS:
                break
    return EventsOut(events=found, next=at, state=record.state)


def _ended(service: Service, caller: Caller, study: str, permission: Permission) -> RunFolder:
    with service.engine.connect() as connection:
        record = study_for(connection, caller, study, permission)
    if record.state not in (StudyState.FINISHED, StudyState.STOPPED, StudyState.FAILED):
        raise GemelError("GEM910", f"A study that is {record.state} has not ended.")
    return service.home.run(str(record.study_sha256))


def _files(run: RunFolder) -> list[tuple[str, bytes]]:
    """The run's twins, the outcome of synthesis and statistics: regular files of these names in the folder itself."""
    synthesis = run.synthesis_path(ROUNDS[-1])
    names = [*sorted(run.folder.glob("model-*.safetensors")), synthesis, run.folder / "statistics.json"]
    return [(path.name, path.read_bytes()) for path in names if path.is_file() and not path.is_symlink()]
