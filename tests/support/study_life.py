"""Runs for tests of who follows them: told step by step, or done by the real coordinator with real nodes in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from in_process import Nodes, faithful, listed
from running_service import Running

from gemel.cli.demo.federation import STEWARD, Federation
from gemel.client_node import approvals
from gemel.client_node.approvals import Decision
from gemel.client_node.node import answer
from gemel.core.errors import GemelError
from gemel.core.messages import HELLO, Envelope, Status, read_reply, read_request
from gemel.core.study import Study, parse_study
from gemel.server.certificate import certify
from gemel.server.coordinator import Coordinator
from gemel.server.home import CoordinatorHome
from gemel.server.run_state import RunState as StateOfRun
from gemel.server.service.runs import Runs, RunState
from gemel.server.transport import Answer


class Told:
    """One run of a study on record, as its coordinator would tell it."""

    def __init__(self, home: CoordinatorHome, study_sha256: str) -> None:
        self.home, self.run = home, home.run(study_sha256)
        self.study: Study = parse_study(self.run.study.payload)
        self.state = StateOfRun(self.study)
        self.process = ExitStack()
        self.process.enter_context(self.run.running())
        self.run.event("started", study=study_sha256, tasks=len(self.study.tasks))

    def says(self, status: str, *sites: str, code: str = "") -> Told:
        """Hospitals say that a study is pending, approved or refused."""
        for site in sites:
            self.state.site(site).update(status=status, code=code)
            self.run.event("site", site=site, status=status, code=code)
        return self

    def begins(self, task: str) -> Told:
        self.run.event("task", task=task)
        return self

    def dies(self) -> None:
        """Its process is killed."""
        self.process.close()

    def ends(self, code: str) -> Told:
        """The run stops with a code, and with a true certificate of that."""
        document = certify(self.study, self.run.study, self.state, self.home.key, code=code)
        self.run.save_certificate(document)
        self.run.event("finished", code=code, certificate=document.payload_sha256)
        self.process.close()
        return self


Decide = Callable[[str], Decision | None]


class DecidingNodes(Nodes):
    """Nodes whose stewards approve, refuse or wait, as `decide(site)` says."""

    def __init__(self, federation: Federation, decide: Decide) -> None:
        super().__init__(federation, faithful)
        self.decide = decide

    def send(self, envelopes: Mapping[int, Envelope]) -> None:
        for node, envelope in envelopes.items():
            site, (request, _) = self.sites[node], read_request(envelope.document)
            got = answer(self.federation.nodes[site], envelope)
            if request.task == HELLO and read_reply(got.document)[0].status is Status.PENDING:
                self._decide(site, request.study_sha256)
            self.answers.append(Answer(node, got))

    def _decide(self, site: str, study_sha256: str) -> None:
        decision = self.decide(site)
        if decision is not None:
            home = self.federation.nodes[site]
            approvals.decide(
                home,
                approvals.proposal_of(home, study_sha256),
                decision,
                steward=STEWARD,
                key=self.federation.stewards[site],
                reason="as the test says",
            )

    def receive(self) -> Sequence[Answer]:
        answers, self.answers = self.answers, []
        return answers


@dataclass
class CoordinatorRuns(Runs):
    """The real coordinator for each run, in a thread, with the real nodes of a federation in this process."""

    federation: Federation
    decide: Decide = lambda _site: Decision.APPROVED
    started: list[str] = field(default_factory=list)
    threads: dict[str, threading.Thread] = field(default_factory=dict)

    def start(self, study_sha256: str, *, approval_timeout_s: float) -> str:
        coordinator = Coordinator(
            self.federation.coordinator,
            study_sha256,
            DecidingNodes(self.federation, self.decide),
            directory=listed(self.federation),
            approval_timeout_s=approval_timeout_s,
        )
        run = str(len(self.started) + 1)
        self.started.append(study_sha256)
        self.threads[run] = threading.Thread(target=_quietly, args=(coordinator.run,), daemon=True)
        self.threads[run].start()
        return run

    def state(self, run: str) -> RunState:
        thread = self.threads.get(run)
        return RunState.GOING if thread is not None and thread.is_alive() else RunState.ENDED


def _quietly(run: Callable[[], None]) -> None:
    try:
        run()
    except GemelError:
        return  # its certificate says so


def until(holds: Callable[[], Any], *, seconds: float = 60.0) -> Any:
    """Wait until something holds, and return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not come to that")


def admit_members(service: Running, site_keys: Mapping[str, str]) -> None:
    """Put hospitals on record with their keys."""
    for number, (site, key) in enumerate(site_keys.items()):
        service.service.members.admit(
            site=site,
            public_key=key,
            transport_key="",
            flower_node=number,
            expires_at="2999-01-01T00:00:00+00:00",
        )
