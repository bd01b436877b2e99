"""A coordinator's half of the talk with one node of a federation in this process, and what its home says afterwards."""

from __future__ import annotations

from gemel.cli.demo.federation import STEWARD, Federation
from gemel.client_node import approvals, audit_log
from gemel.client_node.approvals import Approval, Decision
from gemel.client_node.audit_log import AuditEntry
from gemel.client_node.home import NodeHome
from gemel.client_node.node import answer
from gemel.core.canonical import sha256_hex
from gemel.core.messages import HELLO, Envelope, Reply, Request, read_reply, sign_request
from gemel.core.signing import SigningKey, sign_document
from gemel.core.study import Study

SITE = "beta"


class Talk:
    """What is said to the node at `SITE` about one study."""

    def __init__(self, federation: Federation, study: Study, *, proposer: SigningKey | None = None) -> None:
        self.federation = federation
        self.home = federation.nodes[SITE]
        key = proposer or SigningKey.generate()
        self.study = sign_document("study", study.to_payload(), key, role="proposer")

    def ask(self, task: str, payload: bytes = b"", *, run: str = "") -> Reply:
        return read_reply(self.send(self.envelope(task, payload, run=run)).document)[0]

    def envelope(self, task: str, payload: bytes = b"", *, run: str = "") -> Envelope:
        request = Request(
            study_sha256=self.study.payload_sha256, task=task, inputs_sha256=sha256_hex(payload), run=run
        )
        document = sign_request(request, self.federation.coordinator.key)
        return Envelope(document=document.to_bytes(), study=self.study.to_bytes(), payload=payload)

    def send(self, envelope: Envelope) -> Envelope:
        return answer(self.home, envelope)

    def reopen(self) -> None:
        """Read the home's configuration again, as a new process would."""
        self.home = NodeHome.open(self.home.folder)

    def decide(
        self,
        decision: Decision = Decision.APPROVED,
        *,
        steward: str = STEWARD,
        key: SigningKey | None = None,
        until: str = "",
        runs: int = 0,
    ) -> Approval:
        return approvals.decide(
            self.home,
            approvals.proposal_of(self.home, self.study.payload_sha256),
            decision,
            steward=steward,
            key=key or self.federation.stewards[SITE],
            reason="said",
            until=until,
            runs=runs,
        )

    def propose(self) -> None:
        self.ask(HELLO)

    def log(self) -> tuple[AuditEntry, ...]:
        return audit_log.entries(self.home)
