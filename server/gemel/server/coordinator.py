"""One run of one study: wait for approval, do each task with a quorum, keep all, certify."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from gemel.core.arrays import Arrays, pack_arrays, unpack_arrays
from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.messages import (
    HELLO,
    Envelope,
    LedgerHead,
    Reply,
    Request,
    Status,
    read_reply,
    read_request,
    sign_request,
)
from gemel.core.signing import signed_by
from gemel.core.study import AggregationRule, Study, parse_study
from gemel.privacy.secure_aggregation import plan
from gemel.privacy.statistics import estimates, sum_tables
from gemel.server.aggregate import weighted_mean
from gemel.server.anchors import Anchors
from gemel.server.certificate import certify
from gemel.server.home import CoordinatorHome, RunFolder
from gemel.server.masked import MaskedTask, Take, mean_of
from gemel.server.transport import Transport
from gemel.synthetic.releases import declared_inputs, declared_release
from gemel.twins.hazard import HazardTwin
from gemel.twins.installed import find

POLL_S = 0.1
RESEND_S = 2.0
APPROVAL_POLL_S = 1.0
LAST_WORD_S = 10.0


@dataclass
class Collected:
    """What one task brought: verified releases, and why the other sites are missing."""

    replies: dict[str, Reply] = field(default_factory=dict)
    arrays: dict[str, Arrays] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    bytes: int = 0
    seconds: float = 0.0
    total: Arrays | None = None  # of a masked task: all that is known of the releases
    attempt: int = 0


class Coordinator:
    """Runs a study to its certificate; started again after a crash it goes on from the last completed task.

    Args:
        home: Where key and runs live.
        study_sha256: A study that `home.admit` put on record.
        transport: The way to the nodes.
        approval_timeout_s: How long to wait for stewards.
    """

    def __init__(
        self,
        home: CoordinatorHome,
        study_sha256: str,
        transport: Transport,
        *,
        approval_timeout_s: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._key = home.key
        self._run: RunFolder = home.run(study_sha256)
        self._anchors = Anchors(home.folder / "anchors.json")
        self._transport = transport
        self._approval_timeout_s = approval_timeout_s
        self._clock, self._sleep = clock, sleep
        self._document = self._run.study
        self._study: Study = parse_study(self._document.payload)
        self._programme = find(self._study.programme, self._study.programme_version)
        self._node_of: dict[str, int] = {}
        self._state: dict[str, Any] = {"tasks": [], "sites": {}}
        self._token = ""
        # The task that nodes were asked last: what they report from then on is spending after it.
        self._at = ""

    def run(self) -> None:
        """Do every task that is not done yet, then certify.

        Raises GEM501 below quorum, after certifying that; GEM504 when the study was started anew meanwhile.
        """
        self._token = self._run.take_over()
        self._state = self._run.load_state() or self._state
        self._at = self._state["tasks"][-1]["task"] if self._state["tasks"] else ""
        self._run.event("started", study=self._study.sha256, tasks=len(self._study.tasks))
        try:
            self._wait_for_approval()
            for task in self._study.tasks[len(self._state["tasks"]) :]:
                self._do(task)
        except GemelError as error:
            if error.code != "GEM504":
                self._finish(code=error.code)
            raise
        self._finish(code="")

    def _do(self, task: str) -> None:
        inputs = self._inputs(task)
        self._at = task
        self._run.event("task", task=task)
        if plan.is_masked(self._study):
            collected = self._collect_masked(task, inputs)
        else:
            collected = self._collect(task, inputs)
        entry = _entry(task, collected)
        self._still_ours()
        if len(collected.replies) < self._study.quorum:
            self._state["stopped_in"] = entry
            raise GemelError(
                "GEM501", f"{task}: {len(collected.replies)} of {self._study.quorum} sites needed."
            )
        if collected.total is not None and not task.startswith("train/"):
            entry["sum_sha256"] = sha256_hex(self._run.save_sum(task, collected.total))
        if task == "describe":
            entry["statistics_sha256"] = sha256_hex(self._run.save_statistics(self._described(collected)))
        if task.startswith("train/"):
            model = self._model(collected)
            entry["model_sha256"] = sha256_hex(self._run.save_model(_model_name(task), model))
        self._state["tasks"].append(entry)
        for leftover in ("stopped_in", "masked"):
            self._state.pop(leftover, None)
        self._run.save_state(self._state)
        self._run.event("task_done", **entry, epsilon=self._epsilons())

    def _model(self, collected: Collected) -> dict[str, NDArray[np.float32]]:
        """One model of a round's releases, by the study's rule."""
        aggregation = self._study.aggregation
        if collected.total is not None:
            return mean_of(collected.total)
        if aggregation.rule is AggregationRule.MEAN:
            return weighted_mean(collected.arrays, self._weights())
        from gemel.server.flower.robust import robust_mean  # brings Flower, which a mean can do without

        return robust_mean(collected.arrays, aggregation.rule, malicious=aggregation.malicious)

    def _described(self, collected: Collected) -> list[dict[str, Any]]:
        """The study's statistics over all hospitals that answered, with error bars that hold their noise."""
        requests = self._study.statistics
        tables = list(collected.arrays.values()) if collected.total is None else [collected.total]
        results = estimates(requests, sum_tables(requests, tables), hospitals=len(collected.replies))
        told: list[dict[str, Any]] = msgspec.to_builtins(results)
        return told

    def _still_ours(self) -> None:
        """Refuse (GEM504) to write what another run of the same study writes too."""
        if not self._run.still_run_by(self._token):
            raise GemelError("GEM504", "The study was started anew; this run gives way.")

    def _inputs(self, task: str) -> dict[str, NDArray[np.generic]]:
        declared = declared_inputs(task, self._programme)
        if not declared:
            return {}
        trained = [t["task"] for t in self._state["tasks"] if t["task"].startswith("train/")]
        if not trained:
            return dict(HazardTwin(self._programme).to_arrays())
        return self._run.load_model(_model_name(trained[-1]), declared)

    def _weights(self) -> dict[str, float]:
        """Weights from the released noisy counts; a site that released none counts as the study's floor."""
        declared = declared_release("count", self._programme)
        counted = {c["site"] for c in self._state["tasks"][0]["contributions"]}
        floor = float(self._study.minimum_patients)
        return {
            site: max(floor, float(self._run.load_release("count", site, declared)["patients"][0]))
            if site in counted
            else floor
            for site in self._study.sites
        }

    # --- talking to nodes ------------------------------------------------------------------------

    def _envelope(self, task: str, payload: bytes, *, phase: str = "", attempt: int = 0) -> Envelope:
        request = Request(
            study_sha256=self._study.sha256,
            task=task,
            inputs_sha256=sha256_hex(payload),
            phase=phase,
            attempt=attempt,
            anchors=self._known_heads() if task == HELLO else {},
        )
        return Envelope(
            document=sign_request(request, self._key).to_bytes(),
            study=self._document.to_bytes(),
            payload=payload,
        )

    def _known_heads(self) -> dict[str, LedgerHead]:
        """What was last seen of the ledgers of this study's hospitals, in whatever study."""
        ours = set(self._study.sites.values())
        return {key: head for key, head in self._anchors.all().items() if key in ours}

    def _wait_for_approval(self) -> None:
        """Say hello until every site of the study is approved or refused, or time is up.

        A run that goes on after a crash has its stewards' answers: it waits for nodes, as long as a round does.
        """
        resumed = bool(self._state["tasks"])
        patience_s = self._study.round_timeout_s if resumed else self._approval_timeout_s
        deadline = self._clock() + min(patience_s, self._approval_timeout_s)
        decided: dict[str, tuple[Status, str]] = {}
        announced: dict[str, Status] = {}
        while self._clock() < deadline:
            self._hello(decided, announced, patience_s=self._study.round_timeout_s)
            if set(decided) == set(self._study.sites):
                break
            self._sleep(APPROVAL_POLL_S)
        for site in self._study.sites:
            status, code = decided.get(site, (Status.PENDING, "GEM502" if resumed else "GEM401"))
            self._state["sites"].setdefault(site, {})
            self._state["sites"][site].update(status=str(status), code=code)
        approved = [s for s, (status, _) in decided.items() if status is Status.APPROVED]
        if len(approved) < self._study.quorum:
            raise GemelError("GEM501", f"{len(approved)} sites approved, {self._study.quorum} needed.")

    def _hello(
        self, decided: dict[str, tuple[Status, str]], announced: dict[str, Status], *, patience_s: float
    ) -> None:
        """Ask every node that is not decided yet, and learn which node is which site by its signature."""
        known = {self._node_of[site] for site in decided}
        envelope = self._envelope(HELLO, b"")
        asked = self._transport.nodes() - known
        if not asked:
            return
        self._transport.send({node: envelope for node in asked})
        waiting, deadline = set(asked), self._clock() + patience_s
        while waiting and self._clock() < deadline:
            for answer in self._transport.receive():
                waiting.discard(answer.node_id)
                if answer.envelope is None:
                    continue
                try:
                    reply = self._check(answer.envelope, envelope)
                except GemelError as error:
                    self._run.event("ignored", code=error.code)
                    continue
                self._node_of[reply.site] = answer.node_id
                reply = _accused(reply, read_request(envelope.document)[0].anchors, self._study)
                self._note(reply)
                if announced.get(reply.site) is not reply.status:
                    announced[reply.site] = reply.status
                    self._run.event("site", site=reply.site, status=str(reply.status), code=reply.code)
                if reply.status is not Status.PENDING:
                    decided[reply.site] = (reply.status, reply.code)
            self._sleep(POLL_S)

    def _collect(self, task: str, inputs: Arrays) -> Collected:
        """Ask every approved site for its release."""
        started = self._clock()
        envelope = self._envelope(task, _packed(inputs))
        result = Collected(missing=self._not_approved())
        declared = declared_release(task, self._programme, statistics=self._study.statistics)

        def take(site: str, reply: Reply, got: Envelope) -> None:
            arrays = unpack_arrays(got.payload, declared)
            self._run.save_release(task, site, got)
            result.replies[site], result.arrays[site] = reply, arrays
            size = len(got.payload) + len(got.document)
            result.bytes += size
            self._run.event("release", task=task, site=site, bytes=size, epsilon=reply.epsilon_spent)

        asked = {site: envelope for site in self._study.sites if site not in result.missing}
        result.missing.update(self._exchange(task, asked, take))
        result.seconds = self._clock() - started
        return result

    def _collect_masked(self, task: str, inputs: Arrays) -> Collected:
        """Bring the approved sites' releases to a sum, of which alone the coordinator learns."""
        started, away = self._clock(), self._not_approved()
        masked = MaskedTask(
            self._run,
            self._study,
            task,
            declared_release(task, self._programme, statistics=self._study.statistics),
            inputs=_packed(inputs),
            state=self._state,
            save=self._save_progress,
        )
        try:
            total = masked.collect(
                [site for site in self._study.sites if site not in away],
                exchange=lambda asked, take, enough: self._exchange(task, asked, take, enough=enough),
                address=lambda step, attempt, payload: self._envelope(
                    task, payload, phase=step.name.lower(), attempt=attempt
                ),
            )
        except GemelError:
            self._state["stopped_in"] = _entry(task, Collected(missing={**away, **masked.missing}))
            raise
        return Collected(
            replies=total.replies,
            missing={**away, **total.missing},
            total=total.arrays,
            attempt=total.attempt,
            bytes=total.bytes,
            seconds=self._clock() - started,
        )

    def _save_progress(self) -> None:
        self._still_ours()
        self._run.save_state(self._state)

    def _exchange(
        self,
        task: str,
        asked: Mapping[str, Envelope],
        take: Take,
        *,
        enough: Callable[[], bool] = lambda: False,
    ) -> dict[str, str]:
        """Ask sites, again when one comes back, until all answered, it is enough, or time is up; who is missing, and why."""
        deadline = self._clock() + self._study.round_timeout_s
        missing: dict[str, str] = {}
        open_sites = {site: self._node_of.get(site) for site in asked}
        away: dict[str, float] = {site: 0.0 for site in open_sites}
        while open_sites and self._clock() < deadline and not enough():
            self._send_due(asked, open_sites, away)
            for answer in self._transport.receive():
                site = next((s for s, n in open_sites.items() if n == answer.node_id), None)
                if site is None:
                    continue
                if answer.envelope is None:
                    away[site] = self._clock() + RESEND_S
                    self._run.event("away", task=task, site=site)
                    continue
                try:
                    take(site, self._accept(task, site, answer.envelope, asked[site]), answer.envelope)
                except GemelError as error:
                    missing[site] = error.code
                del open_sites[site]
                away.pop(site, None)
            self._sleep(POLL_S)
        if not enough():
            missing.update(dict.fromkeys(open_sites, "GEM502"))
        for site, code in missing.items():
            self._run.event("missing", task=task, site=site, code=code)
        return missing

    def _not_approved(self) -> dict[str, str]:
        sites = self._state["sites"]
        return {
            site: sites.get(site, {}).get("code") or "GEM401"
            for site in self._study.sites
            if sites.get(site, {}).get("status") != Status.APPROVED
        }

    def _send_due(
        self, asked: Mapping[str, Envelope], open_sites: Mapping[str, int | None], away: dict[str, float]
    ) -> None:
        """Send to each site that has not been sent to, or that was away and is connected again."""
        due = [site for site, at in away.items() if at <= self._clock()]
        if not due:
            return
        connected = self._transport.nodes()
        ready = {}
        for site in due:
            node = open_sites[site]
            if node is not None and node in connected:
                ready[node] = asked[site]
                del away[site]
            else:
                away[site] = self._clock() + RESEND_S
        if ready:
            self._transport.send(ready)

    def _accept(self, task: str, site: str, got: Envelope, asked: Envelope) -> Reply:
        """Verify one reply; a bad one, or a refusal, raises with the code that says why its site is missing."""
        reply = self._check(got, asked)
        if reply.site != site:
            raise GemelError("GEM503", f"The reply of {site} is signed by {reply.site}.")
        self._note(reply)
        if reply.status is not Status.RELEASED:
            raise GemelError(reply.code or "GEM406", f"{site} did not release {task}.")
        if sha256_hex(got.payload) != reply.payload_sha256:
            raise GemelError("GEM503", f"The payload of {site} differs from its hash.")
        return reply

    def _check(self, got: Envelope, asked: Envelope) -> Reply:
        """Verify a reply's signature, its site's key, and that it answers what was asked (GEM503)."""
        reply, document = read_reply(got.document)
        if not signed_by(document, self._study.sites.get(reply.site, "")):
            raise GemelError("GEM503", f"The reply is not signed with the key of {reply.site}.")
        if reply.request_sha256 != sha256_of_request(asked):
            raise GemelError("GEM503", f"{reply.site} answers another request.")
        return reply

    def _note(self, reply: Reply) -> None:
        """Keep what a site says of its ledger. The chain only grows: a lower number is an older one, from an outbox."""
        site = self._state["sites"].setdefault(reply.site, {})
        if reply.ledger_seq >= site.get("ledger_seq", 0):
            site.update(
                epsilon_spent=reply.epsilon_spent, ledger_seq=reply.ledger_seq, ledger_head=reply.ledger_head
            )
            site["reported_after"] = self._at
        self._anchors.note(self._study.sites[reply.site], reply)

    def _epsilons(self) -> dict[str, float]:
        return {s: f["epsilon_spent"] for s, f in self._state["sites"].items() if "epsilon_spent" in f}

    def _hear_last_word(self) -> None:
        """Ask sites whose last answer was lost what they have spent: it counts all the same."""
        heard = {s: f for s, f in self._state["sites"].items() if f.get("reported_after") == self._at}
        if self._at and set(heard) != set(self._study.sites):
            known = {s: (Status.APPROVED, "") for s in heard if s in self._node_of}
            announced = {s: Status.APPROVED for s in self._study.sites}
            self._hello(known, announced, patience_s=LAST_WORD_S)

    def _finish(self, *, code: str) -> None:
        self._hear_last_word()
        self._still_ours()
        document = certify(self._study, self._state, self._key, code=code)
        self._run.save_certificate(document)
        self._run.event("finished", code=code, certificate=document.payload_sha256)


def _entry(task: str, collected: Collected) -> dict[str, Any]:
    """What state and certificate say of a task."""
    entry: dict[str, Any] = {
        "task": task,
        "contributions": [
            {
                "site": site,
                "request_sha256": collected.replies[site].request_sha256,
                "payload_sha256": collected.replies[site].payload_sha256,
            }
            for site in sorted(collected.replies)
        ],
        "missing": [{"site": s, "code": c} for s, c in sorted(collected.missing.items())],
        "seconds": round(collected.seconds, 3),
        "bytes": collected.bytes,
    }
    return entry if collected.total is None else {**entry, "masked_attempt": collected.attempt}


def _packed(arrays: Arrays) -> bytes:
    return pack_arrays(arrays) if arrays else b""


def sha256_of_request(envelope: Envelope) -> str:
    """The hash that names the request inside an envelope."""
    return read_request(envelope.document)[1].payload_sha256


def _accused(reply: Reply, known: Mapping[str, LedgerHead], study: Study) -> Reply:
    """A fresh reply, turned into a refusal (GEM309) when its ledger is shorter than the one seen before."""
    head = known.get(study.sites[reply.site])
    if head is None or reply.ledger_seq > head.seq:
        return reply
    if (reply.ledger_seq, reply.ledger_head) == (head.seq, head.sha256):
        return reply
    return msgspec.structs.replace(reply, status=Status.REFUSED, code="GEM309")


def _model_name(task: str) -> str:
    return f"model-{int(task.removeprefix('train/')):04d}"
