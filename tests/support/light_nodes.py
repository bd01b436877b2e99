"""Nodes that keep a node's promises to the coordinator without patients, so that thousands of runs can be tried.

They sign, answer the same request with the same bytes, refuse another for the same task (GEM304), and count their ledger.
What they release is computed from the inputs and their name. The network between is as good or bad as its schedule says.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from in_process import Clock, signed
from small_study import small_study

from gemel.core.arrays import Arrays, pack_arrays, unpack_arrays
from gemel.core.canonical import sha256_hex
from gemel.core.messages import HELLO, PROTOCOL, Envelope, Reply, Request, Status, read_request, sign_reply
from gemel.core.signing import SigningKey
from gemel.core.software import software_versions
from gemel.core.strategy_plan import Pace
from gemel.core.study import Study
from gemel.server.coordinator import Coordinator
from gemel.server.directory import FixedDirectory
from gemel.server.home import CoordinatorHome, RunFolder
from gemel.server.transport import Answer, Transport
from gemel.synthetic.releases import declared_inputs, declared_release
from gemel.twins.programmes.fatty_liver import PROGRAMME


@dataclass
class LightNode:
    """One hospital's node. `released` and `outbox` are what a real one keeps on disk."""

    site: str
    key: SigningKey
    study: Study
    released: dict[str, str] = field(default_factory=dict)
    outbox: dict[str, Envelope] = field(default_factory=dict)

    def answer(self, envelope: Envelope) -> Envelope:
        """What a real node would say, as far as the coordinator can see."""
        request, document = read_request(envelope.document)
        if request.task == HELLO:
            return self._reply(request, document.payload_sha256, Status.APPROVED)
        if (kept := self.outbox.get(document.payload_sha256)) is not None:
            return kept
        if request.task in self.released:
            return self._reply(request, document.payload_sha256, Status.REFUSED, code="GEM304")
        self.released[request.task] = document.payload_sha256
        payload = pack_arrays(self.arrays(request.task, envelope.payload))
        reply = self._reply(request, document.payload_sha256, Status.RELEASED, payload=payload)
        self.outbox[document.payload_sha256] = reply
        return reply

    def arrays(self, task: str, inputs: bytes) -> Arrays:
        """The release of a task: of training, the inputs moved by this site's own step."""
        declared = declared_release(task, PROGRAMME, study=self.study)
        seed = int(sha256_hex(f"{self.site} {task}".encode())[:8], 16)
        rng = np.random.default_rng(seed)
        if not task.startswith("train/"):
            return {
                name: rng.integers(50, 200, spec.shape).astype(spec.dtype) for name, spec in declared.items()
            }
        given = unpack_arrays(inputs, declared_inputs(task, PROGRAMME, study=self.study))
        return {
            name: (given[name] + rng.normal(size=spec.shape)).astype(spec.dtype)
            for name, spec in declared.items()
        }

    def _reply(
        self, request: Request, request_sha256: str, status: Status, *, code: str = "", payload: bytes = b""
    ) -> Envelope:
        seq = 1 + len(self.released)
        reply = Reply(
            site=self.site,
            study_sha256=request.study_sha256,
            task=request.task,
            request_sha256=request_sha256,
            status=status,
            code=code,
            payload_sha256=sha256_hex(payload) if payload else "",
            epsilon_spent=0.1 * len(self.released),
            ledger_seq=seq,
            ledger_head=sha256_hex(f"{self.site} {seq}".encode()),
        )
        if request.task == HELLO:
            reply = msgspec.structs.replace(reply, protocol=PROTOCOL, software=software_versions())
        return Envelope(document=sign_reply(reply, self.key).to_bytes(), payload=payload)


# What comes of one request: (seconds until it is there, what it is), any number of times; None: the message failed.
Delivery = tuple[float, Envelope | None]
Schedule = Callable[[str, Request, Envelope], Sequence[Delivery]]


def at_once(_site: str, _request: Request, reply: Envelope) -> Sequence[Delivery]:
    return [(0.01, reply)]


class LightNetwork(Transport):
    """Delivers answers as its schedule says; `connected` and `schedule` may be changed while a run goes on."""

    def __init__(self, nodes: Mapping[str, LightNode], clock: Clock, schedule: Schedule = at_once) -> None:
        self.sites, self.of, self.clock, self.schedule = list(nodes), nodes, clock, schedule
        self.connected = set(range(len(self.sites)))
        self.asked: list[tuple[str, str]] = []
        self._count, self._queue = itertools.count(), list[tuple[float, int, Answer]]()

    def nodes(self) -> frozenset[int]:
        return frozenset(self.connected)

    def send(self, envelopes: Mapping[int, Envelope]) -> None:
        for node, envelope in envelopes.items():
            site, (request, _) = self.sites[node], read_request(envelope.document)
            self.asked.append((site, request.task))
            for seconds, reply in self.schedule(site, request, self.of[site].answer(envelope)):
                due = self.clock() + seconds
                heapq.heappush(self._queue, (due, next(self._count), Answer(node, reply)))

    def receive(self) -> Sequence[Answer]:
        due = []
        while self._queue and self._queue[0][0] <= self.clock():
            due.append(heapq.heappop(self._queue)[2])
        return due


@dataclass
class LightFederation:
    """A coordinator's home and its light nodes."""

    home: CoordinatorHome
    study: Study
    nodes: dict[str, LightNode]
    clock: Clock = field(default_factory=Clock)

    def start(self, schedule: Schedule = at_once) -> tuple[Coordinator, RunFolder, LightNetwork]:
        """A coordinator of the study, on record; started again it is what a restarted process would be."""
        run = self.home.run(self.study.sha256)
        if not run.folder.exists():
            run = self.home.admit(signed(self.study))
        network = LightNetwork(self.nodes, self.clock, schedule)
        coordinator = Coordinator(
            self.home,
            self.study.sha256,
            network,
            directory=self.directory(),
            approval_timeout_s=60,
            clock=self.clock,
            sleep=self.clock.sleep,
        )
        return coordinator, run, network

    def directory(self) -> FixedDirectory:
        return FixedDirectory(
            {node.key.public_hex: number for number, node in enumerate(self.nodes.values())}
        )


def light_federation(
    folder: Path,
    *,
    sites: int = 3,
    rounds: int = 3,
    quorum: int = 2,
    pace: Pace | None = None,
    **changes: object,
) -> LightFederation:
    """A coordinator and light nodes with fresh keys, and a study for them."""
    keys = {f"site{number}": SigningKey.generate() for number in range(sites)}
    small = small_study({site: key.public_hex for site, key in keys.items()}, study_id="light", quorum=quorum)
    training = msgspec.structs.replace(small.training, rounds=rounds, local_steps=1, noise_multiplier=100.0)
    study = msgspec.structs.replace(
        small, **{"training": training, "pace": Pace() if pace is None else pace, **changes}
    )
    home = CoordinatorHome.create(folder / "coordinator")
    return LightFederation(home, study, {s: LightNode(s, key, study) for s, key in keys.items()})


def again(federation: LightFederation, folder: Path) -> LightFederation:
    """The same study and keys before anything happened, with another coordinator."""
    home = CoordinatorHome.create(folder / "coordinator")
    nodes = {s: LightNode(s, node.key, federation.study) for s, node in federation.nodes.items()}
    return LightFederation(home, federation.study, nodes)
