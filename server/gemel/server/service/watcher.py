"""Follows the runs: moves studies along, and starts a run again that ended without a certificate, until it has one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection

from gemel.core.certificate import check_certificate
from gemel.core.errors import GemelError
from gemel.core.messages import Status
from gemel.core.signing import SignedDocument, signed_by
from gemel.server import studies
from gemel.server.home import RunFolder
from gemel.server.service.audit import SERVICE
from gemel.server.service.parts import Service
from gemel.server.service.runs import Runs, RunState
from gemel.server.studies import ACTIVE, StudyRecord, StudyState

LOG = logging.getLogger("gemel.service.watcher")
LOOK_S = 0.5
ASK_ENGINE_S = 5.0
LONGEST_BACK_OFF_S = 300.0
TIDY_S = 3600.0
STOPPED_BY_REQUEST = "GEM510"


class Watcher:
    """One thread for all active studies. What it knows is in the store: after a restart it goes on from there.

    Args:
        service: Home and store.
        runs: The engine.
        clock: Seconds since 1970: what is due outlives the process.
    """

    def __init__(self, service: Service, runs: Runs, *, clock: Callable[[], float] = time.time) -> None:
        self._service, self._runs, self._clock = service, runs, clock
        self._asked: dict[str, float] = {}  # when the engine was asked for a study's run
        self._alive: dict[str, str] = {}  # the run of a study that was seen with a process
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow_all, name="study watcher", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """End; the runs go on."""
        self._stopping.set()
        self._thread.join(timeout=10)

    def _follow_all(self) -> None:
        tidied = 0.0
        while not self._stopping.wait(LOOK_S):
            self.look()
            if self._clock() - tidied >= TIDY_S:
                tidied = self._clock()
                self._tidy()

    def _tidy(self) -> None:
        try:
            self._service.attempts.forget_old()
        except Exception:
            LOG.exception("old counts of attempts stay")

    def look(self) -> None:
        """Look at every active study once; what goes wrong with one does not keep the others waiting."""
        try:
            with self._service.engine.connect() as connection:
                active = studies.every(connection, states=ACTIVE)
        except Exception:
            LOG.exception("the store does not answer")
            return
        for record in active:
            try:
                self._follow(record)
            except GemelError as error:
                LOG.warning("study %s: %s %s", record.id, error.code, error.message)
            except Exception:
                LOG.exception("study %s", record.id)

    def _follow(self, record: StudyRecord) -> None:
        run = self._service.home.run(str(record.study_sha256))
        if record.stop_by and not run.stop_asked:
            self._service.home.admit(record.signed)
            run.ask_to_stop()
        if record.run_id and self._read(record, run):
            return
        if not record.run_id:
            self._start(record, run)
        elif self._was_killed(record, run):
            self._ended_without_certificate(record, run)
        elif self._clock() - self._asked.get(record.id, 0.0) >= ASK_ENGINE_S:
            self._asked[record.id] = self._clock()
            if self._runs.state(record.run_id) is RunState.ENDED:
                self._ended_without_certificate(record, run)

    def _start(self, record: StudyRecord, run: RunFolder) -> None:
        if self._clock() < record.start_after:
            return
        self._service.home.admit(record.signed)
        if not record.stop_by:
            run.clear_stop()
        try:
            run_id = self._runs.start(str(record.study_sha256), approval_timeout_s=record.approval_timeout_s)
        except GemelError:
            self._back_off(record)
            raise
        with self._service.log.act(SERVICE, "run.start", target=record.id, run=run_id) as act:
            studies.keep(act.connection, record.id, run_id=run_id)
        self._asked[record.id] = self._clock()
        self._service.metrics.runs_started.labels("again" if record.restarts else "first").inc()

    def _was_killed(self, record: StudyRecord, run: RunFolder) -> bool:
        """True for a run that was seen with a process and has none any more; the engine would notice a minute later."""
        if run.is_running:
            self._alive[record.id] = record.run_id
            return False
        return self._alive.pop(record.id, "") == record.run_id

    def _ended_without_certificate(self, record: StudyRecord, run: RunFolder) -> None:
        if self._read(record, run):  # its last words came between
            return
        self._back_off(record)
        LOG.warning("study %s: its run ended without a certificate; it is started again", record.id)

    def _back_off(self, record: StudyRecord) -> None:
        """1 s, 2 s, 4 s … 5 minutes, for ever while the study is not stopped; a completed task begins anew."""
        wait = min(LONGEST_BACK_OFF_S, 2.0 ** min(record.restarts, 20))
        with self._service.engine.begin() as connection:
            studies.keep(
                connection,
                record.id,
                run_id="",
                restarts=record.restarts + 1,
                start_after=self._clock() + wait,
            )

    def _read(self, record: StudyRecord, run: RunFolder) -> bool:
        """Take in what the run wrote since; True when it has ended."""
        fresh = list(run.events(start=record.events_offset))
        if not fresh:
            return False
        events = [event for _, event in fresh]
        last = next((event for event in reversed(events) if event.get("event") == "finished"), None)
        with self._service.engine.begin() as connection:
            for event in events:
                _take(connection, record, event)
            # After its last word the offset stays until the study has moved: a crash between reads it again.
            offset = fresh[-1][0] if last is None else record.events_offset
            done = len(run.load_state().get("tasks", []))
            studies.keep(connection, record.id, events_offset=offset, tasks_done=done)
        self._move_on(record, events)
        if last is None:
            return False
        self._conclude(record, run, last, fresh[-1][0])
        return True

    def _move_on(self, record: StudyRecord, events: list[dict[str, Any]]) -> None:
        with self._service.engine.connect() as connection:
            state = studies.get(connection, record.id).state
            said = studies.sites(connection, record.id)
        began = any(event.get("event") in ("task", "task_done") for event in events)
        approved = sum(site.status == Status.APPROVED for site in said)
        if state is StudyState.PROPOSED and (began or approved >= record.study.quorum):
            state = self._move(record, StudyState.APPROVED)
        if state is StudyState.APPROVED and began:
            self._move(record, StudyState.RUNNING)

    def _conclude(self, record: StudyRecord, run: RunFolder, finished: dict[str, Any], offset: int) -> None:
        code, certificate = str(finished.get("code", "")), str(finished.get("certificate", ""))
        to = StudyState.FAILED
        try:
            document = verified_certificate(self._service, record, run, certificate)
            if not code and document.payload.get("status") == "complete":
                to = StudyState.FINISHED
            elif code == STOPPED_BY_REQUEST:
                to = StudyState.STOPPED
        except GemelError as error:
            LOG.error("study %s: %s %s", record.id, error.code, error.message)
            code, certificate = "GEM918", ""
        with self._service.log.act(SERVICE, f"study.{to}", target=record.id, code=code) as act:
            for state in _on_the_way(studies.get(act.connection, record.id).state, to):
                studies.move(act.connection, record.id, state, actor=SERVICE.id)
            studies.move(
                act.connection, record.id, to, actor=SERVICE.id, code=code, certificate_sha256=certificate
            )
            studies.keep(act.connection, record.id, events_offset=offset)

    def _move(self, record: StudyRecord, to: StudyState) -> StudyState:
        with self._service.log.act(SERVICE, f"study.{to}", target=record.id) as act:
            return studies.move(act.connection, record.id, to, actor=SERVICE.id).state


def verified_certificate(
    service: Service, record: StudyRecord, run: RunFolder, expected_sha256: str
) -> SignedDocument:
    """The run's certificate: every claim of it, signed by this coordinator, of this study. Raises GEM918, GEM512, GEM102, GEM103."""
    document = run.certificate
    if document is None or document.payload_sha256 != expected_sha256:
        raise GemelError("GEM918", "The run's certificate is not the one that it announced.")
    if not signed_by(document, service.home.key.public_hex):
        raise GemelError("GEM918", "The run's certificate is signed by another coordinator.")
    check_certificate(document)
    if document.payload.get("study_sha256") != record.study_sha256:
        raise GemelError("GEM918", "The run's certificate is of another study.")
    return document


def _take(connection: Connection, record: StudyRecord, event: dict[str, Any]) -> None:
    kind = event.get("event")
    if kind == "site" and event.get("site") in record.study.sites:
        status, code = str(event.get("status", "")), str(event.get("code", ""))
        studies.note_site(connection, record.id, site=event["site"], status=status, code=code)
    elif kind == "task_done":
        studies.keep(connection, record.id, restarts=0)


def _on_the_way(now: StudyState, to: StudyState) -> tuple[StudyState, ...]:
    """The states between: a run of which all was read at once has been approved and was running too."""
    if to is not StudyState.FINISHED:
        return ()
    return {
        StudyState.PROPOSED: (StudyState.APPROVED, StudyState.RUNNING),
        StudyState.APPROVED: (StudyState.RUNNING,),
    }.get(now, ())
