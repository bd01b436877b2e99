"""A coordinator and its nodes in one process, for tests: the real parts, only the network is left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gemel.cli.demo.federation import Federation
from gemel.client_node.node import answer
from gemel.core.messages import HELLO, Envelope, Status, read_reply, read_request
from gemel.core.signing import SignedDocument, SigningKey, sign_document
from gemel.core.study import Study
from gemel.server.coordinator import Coordinator
from gemel.server.directory import FixedDirectory
from gemel.server.home import RunFolder
from gemel.server.transport import Answer, Transport

Spoil = Callable[[str, str, Envelope], Envelope | None]


class Nodes(Transport):
    """The nodes in this process; `spoil(site, task, reply)` may change or lose what they say."""

    def __init__(self, federation: Federation, spoil: Spoil) -> None:
        self.federation, self.spoil = federation, spoil
        self.sites = list(federation.nodes)
        self.answers: list[Answer] = []
        self.asked: list[tuple[str, str]] = []
        self.sent: dict[str, bytes] = {}

    def nodes(self) -> frozenset[int]:
        return frozenset(range(len(self.sites)))

    def send(self, envelopes: Mapping[int, Envelope]) -> None:
        for node, envelope in envelopes.items():
            site, (request, _) = self.sites[node], read_request(envelope.document)
            self.asked.append((site, request.task))
            self.sent[request.task] = envelope.payload
            got = answer(self.federation.nodes[site], envelope)
            if request.task == HELLO and read_reply(got.document)[0].status is Status.PENDING:
                self.federation.approve(site, request.study_sha256)
            self.answers.append(Answer(node, self.spoil(site, request.task, got)))

    def receive(self) -> Sequence[Answer]:
        answers, self.answers = self.answers, []
        return answers


class Clock:
    """Time that passes only while somebody sleeps."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def faithful(_site: str, _task: str, envelope: Envelope) -> Envelope:
    return envelope


def start(
    federation: Federation, study: Study, spoil: Spoil = faithful
) -> tuple[Coordinator, RunFolder, Nodes]:
    run = federation.coordinator.admit(signed(study))
    nodes, clock = Nodes(federation, spoil), Clock()
    coordinator = Coordinator(
        federation.coordinator,
        study.sha256,
        nodes,
        directory=listed(federation),
        approval_timeout_s=60,
        clock=clock,
        sleep=clock.sleep,
    )
    return coordinator, run, nodes


def listed(federation: Federation) -> FixedDirectory:
    """The nodes by their keys, numbered as `Nodes` numbers them."""
    return FixedDirectory({key: number for number, key in enumerate(federation.site_keys.values())})


def missing(task: dict[str, Any]) -> dict[str, str]:
    """Who is missing from a task of a certificate, and why."""
    return {line["site"]: line["code"] for line in task["missing"]}


def signed(study: Study) -> SignedDocument:
    return sign_document("study", study.to_payload(), SigningKey.generate(), role="proposer")


def certificate(run: RunFolder) -> dict[str, Any]:
    document = run.certificate
    assert document is not None
    return document.payload
