"""One run of one study: wait for approval, do each task with a quorum, keep all, certify."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping

from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.messages import Envelope, LedgerHead, Reply, Status, signature_in
from gemel.core.study import Study, parse_study
from gemel.core.trajectory_plan import chosen_by
from gemel.server.anchors import Anchors
from gemel.server.approval import Hello
from gemel.server.asynchronous import OwnPace
from gemel.server.certificate import certify
from gemel.server.collecting import Collected, Collector
from gemel.server.directory import Directory, MemberDirectory
from gemel.server.global_twin import GlobalTwin
from gemel.server.home import CoordinatorHome, RunFolder
from gemel.server.members import Members
from gemel.server.outcomes import Outcomes
from gemel.server.run_state import RunState
from gemel.server.transport import Transport
from gemel.server.wire import Wire
from gemel.synthetic.releases import declared_inputs
from gemel.twins.installed import find


class Coordinator:
    """Runs a study to its certificate; started again after a crash it goes on from the last completed task.

    Args:
        home: Where key and runs live.
        study_sha256: A study that `home.admit` put on record.
        transport: The way to the nodes.
        directory: Which node has which key; the members in the home's store when it is not given.
        approval_timeout_s: How long to wait for stewards.
    """

    def __init__(
        self,
        home: CoordinatorHome,
        study_sha256: str,
        transport: Transport,
        *,
        directory: Directory | None = None,
        approval_timeout_s: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._key = home.key
        self._run: RunFolder = home.run(study_sha256)
        store = home.open_store()
        self._anchors = Anchors(store)
        self._directory = MemberDirectory(Members(store)) if directory is None else directory
        self._approval_timeout_s = approval_timeout_s
        self._clock, self._sleep = clock, sleep
        document = self._run.study
        self._study: Study = parse_study(document.payload)
        self._programme = find(self._study.programme, self._study.programme_version)
        self._token = ""
        # The task that nodes were asked last: what they report from then on is spending after it.
        self._at = ""
        self._state = RunState(self._study)
        self._heads: dict[str, LedgerHead] = {}  # of ledgers, as far as this run heard
        self._wire = Wire(
            self._study,
            document,
            key=self._key,
            transport=transport,
            directory=self._directory,
            note=self._note,
            late=self._late,
            event=self._run.event,
            clock=clock,
        )

    def run(self) -> None:
        """Do every task that is not done yet, then certify.

        Raises GEM501 below quorum, GEM510 when somebody asked it to stop, and others, after certifying that; GEM504 when
        the study was started anew meanwhile.
        """
        with self._run.running():
            self._go()

    def _go(self) -> None:
        self._token = self._run.take_over()
        self._state.data.update(self._run.load_state())
        if not self._begin():
            return
        tasks = self._state.tasks
        self._at = tasks[-1]["task"] if tasks else ""
        self._run.event("started", study=self._study.sha256, tasks=len(self._study.tasks))
        hello = Hello(
            self._study,
            self._wire,
            self._state,
            self._directory,
            self._anchors,
            event=self._run.event,
            check=self._check,
            clock=self._clock,
            sleep=self._sleep,
        )
        code = ""
        try:
            self._do_all(hello)
        except GemelError as error:
            code = error.code
            if code != "GEM504":
                self._finish(hello, code=code)
            raise
        self._finish(hello, code=code)

    def _begin(self) -> bool:
        """Name this start of the study: the same when it goes on after a crash, another after a certificate.

        False when all is done and certified already.
        """
        ended = self._run.certificate
        if ended is not None and ended.payload.get("status") == "complete":
            self._run.event("finished", code="", certificate=ended.payload_sha256)
            return False
        self._state.data.pop("stopped_in", None)
        if ended is not None or "run" not in self._state.data:
            self._state.data["run"] = secrets.token_hex(8)
            self._save()
        if ended is not None:
            self._run.set_certificate_aside()
        return True

    def _do_all(self, hello: Hello) -> None:
        self._check()
        if not self._state.remaining():
            return  # only the certificate is missing
        resumed = bool(self._state.tasks)
        patience_s = self._study.round_timeout_s if resumed else self._approval_timeout_s
        hello.wait_for_approval(timeout_s=min(patience_s, self._approval_timeout_s), resumed=resumed)
        self._save()
        twin = GlobalTwin(self._study, self._programme, self._run, self._state)
        collector = Collector(
            self._study,
            self._programme,
            self._run,
            self._wire,
            self._state,
            self._directory,
            check=self._check,
            save=self._save,
            clock=self._clock,
            sleep=self._sleep,
        )
        outcomes = Outcomes(self._study, self._programme, self._run, self._state)
        while remaining := self._state.remaining():
            self._check()
            if self._study.pace.buffer and remaining[0].startswith("train/"):
                self._do_at_own_pace(outcomes, twin)
            else:
                self._do(remaining[0], collector, outcomes, twin)

    def _do(self, task: str, collector: Collector, outcomes: Outcomes, twin: GlobalTwin) -> None:
        self._at = task
        self._run.event("task", task=task)
        inputs = self._inputs(task, outcomes, twin)
        if inputs is None:
            entry = {**Collected(task).entry(), "skipped": "GEM515"}
        else:
            collected = collector.collect(task, inputs)
            self._still_ours()
            self._require_quorum(collected)
            entry = {**collected.entry(), **outcomes.of(collected, twin)}
        self._state.close(entry)
        outcomes.after(task)
        self._save()
        twin.forget(before=twin.version)
        self._run.event("task_done", **entry, epsilon=self._state.epsilons())

    def _do_at_own_pace(self, outcomes: Outcomes, twin: GlobalTwin) -> None:
        """All rounds of training, each hospital's by its own clock."""
        self._at = f"train/{self._study.training.rounds}"
        rounds = OwnPace(
            self._study,
            self._programme,
            self._run,
            self._wire,
            self._state,
            self._directory,
            outcomes,
            twin,
            check=self._check,
            save=self._save,
            clock=self._clock,
            sleep=self._sleep,
        )
        entries = rounds.run()
        for entry in entries:
            self._state.close(entry)
        self._save()
        for entry in entries:
            self._run.event("task_done", **entry, epsilon=self._state.epsilons())

    def _require_quorum(self, collected: Collected) -> None:
        here, needed = len(collected.replies), self._study.quorum
        if here >= needed:
            return
        self._state.data["stopped_in"] = collected.entry()
        elsewhere = [site for site, absence in collected.missing.items() if absence.code == "GEM304"]
        if here + len(elsewhere) >= needed:
            raise GemelError(
                "GEM514",
                f"{collected.task}: {len(elsewhere)} sites released it already, for other inputs than this run's.",
            )
        raise GemelError("GEM501", f"{collected.task}: {here} of {needed} sites needed.")

    def _inputs(self, task: str, outcomes: Outcomes, twin: GlobalTwin) -> Mapping[str, bytes] | None:
        """What each site is sent for a task; None when there is nothing to send."""
        if task.startswith("train/"):
            return {site: twin.packed_for(site) for site in self._study.sites}
        if (earlier := chosen_by(task)) is not None:
            return dict.fromkeys(self._study.sites, self._run.synthesis_path(earlier).read_bytes())
        if not declared_inputs(task, self._programme, study=self._study):
            return dict.fromkeys(self._study.sites, b"")
        if task.startswith("cross/"):
            owner = task.removeprefix("cross/")
            update = outcomes.last_update(owner)
            if update is None:
                return None
            return dict.fromkeys(self._study.sites, self._run.load_envelope(update, owner).payload)
        return dict.fromkeys(self._study.sites, twin.packed())

    # --- what the wire tells ---------------------------------------------------------------------

    def _note(self, reply: Reply, fresh: bool) -> None:
        self._state.note(reply, after=self._at if fresh else "")
        key = self._study.sites[reply.site]
        if key not in self._heads or reply.ledger_seq > self._heads[key].seq:
            self._heads[key] = LedgerHead(seq=reply.ledger_seq, sha256=reply.ledger_head)

    def _late(self, reply: Reply, got: Envelope) -> bool:
        """A release for a closed task is recorded, counted as spent, and never averaged; a duplicate is nothing new."""
        task = self._state.missed(reply.site, reply.request_sha256)
        if self._state.answered(reply.site, reply.request_sha256):
            return True
        if task is None or reply.status is not Status.RELEASED:
            return task is not None
        if sha256_hex(got.payload) != reply.payload_sha256:
            return False
        self._state.note_late(reply, signature_in(got.document), task=task)
        self._run.save_late(task, reply.site, got.document)
        self._save()
        self._run.event("late", task=task, site=reply.site, epsilon=reply.epsilon_spent)
        return True

    # --- whose run it is, and its end ------------------------------------------------------------

    def _check(self) -> None:
        """End the run when somebody asked for it (GEM510), or gave it to another (GEM504)."""
        self._still_ours()
        if self._run.stop_asked:
            raise GemelError("GEM510", "The run was asked to stop.")

    def _still_ours(self) -> None:
        """Refuse (GEM504) to write what another run of the same study writes too."""
        if not self._run.still_run_by(self._token):
            raise GemelError("GEM504", "The study was started anew; this run gives way.")

    def _save(self) -> None:
        self._still_ours()
        self._anchors.note(self._heads)
        self._run.save_state(self._state.data)

    def _finish(self, hello: Hello, *, code: str) -> None:
        hello.hear_last_word(after=self._at)
        self._save()
        document = certify(self._study, self._run.study, self._state, self._key, code=code)
        self._run.save_certificate(document)
        self._run.event("finished", code=code, certificate=document.payload_sha256)
