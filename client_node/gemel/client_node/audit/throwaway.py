"""A node that nobody needs: its own home in a temporary folder, its own keys, made-up patients, a coordinator beside it.

It runs the very code of a hospital's node. No hospital's patients are read and no hospital's budget is touched.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from gemel.client_node import approvals, patients
from gemel.client_node.approvals import Decision
from gemel.client_node.audit.people import write_export
from gemel.client_node.home import SCHEMA, NodeConfig, NodeHome
from gemel.client_node.node import answer
from gemel.core.arrays import pack_arrays
from gemel.core.canonical import sha256_hex
from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.messages import HELLO, Envelope, Reply, Request, Status, read_reply, sign_request
from gemel.core.programme import Programme
from gemel.core.signing import SignedDocument, SigningKey, sign_document
from gemel.core.study import AggregationPlan, Study, parse_study
from gemel.core.synthesis_plan import ROUNDS
from gemel.core.trajectory_plan import is_visits
from gemel.synthetic.releases import declared_inputs
from gemel.synthetic.trajectory.study_rounds import arrays_of, start_network
from gemel.twins.installed import make_twin

SITE, STEWARD = "audit", "audit steward"
PATIENTS, FLOOR = 60, 20
# A study is of several hospitals; these two never answer.
_OTHERS = {"nobody-1": "00" * 32, "nobody-2": "01" * 32}


@dataclass
class Throwaway:
    """A node's home with both ends of the conversation, for one programme."""

    home: NodeHome
    programme: Programme
    coordinator: SigningKey = field(repr=False)
    steward: SigningKey = field(repr=False)

    def study(self, template: Study, **changes: Any) -> Study:
        """The template as a study of this node alone; `changes` replace its fields."""
        own = {
            "programme": self.programme.name,
            "programme_version": self.programme.version,
            "sites": {SITE: self.home.key.public_hex, **_OTHERS},
            "quorum": 1,
            "minimum_patients": 1,
            # Masks take several hospitals.
            "aggregation": AggregationPlan(),
        }
        return msgspec.structs.replace(template, **{**own, **changes})

    def dataset(self) -> Dataset:
        """The node's patients, as it reads them itself."""
        return patients.load(self.home, self.programme)

    def inputs(self, task: str, study: Study | None = None) -> bytes:
        """What a coordinator sends with a task: a model at its public start, what to count, or nothing."""
        if not declared_inputs(task, self.programme, study=study):
            return b""
        if study is not None and is_visits(task):
            return pack_arrays(arrays_of(start_network(study, self.programme)))
        if task in ROUNDS:
            return pack_arrays(a_choice(self.programme, task))
        return pack_arrays(make_twin(self.programme).to_arrays())

    def envelope(self, study: SignedDocument, task: str, inputs: bytes = b"", **forged: Any) -> Envelope:
        """A request as the coordinator signs it; `forged` replaces its fields, or `key` the signer."""
        key = forged.pop("key", self.coordinator)
        request = Request(study_sha256=study.payload_sha256, task=task, inputs_sha256=sha256_hex(inputs))
        document = sign_request(msgspec.structs.replace(request, **forged), key)
        return Envelope(document=document.to_bytes(), study=study.to_bytes(), payload=inputs)

    def send(self, envelope: Envelope) -> tuple[Reply, Envelope]:
        """What the node says to an envelope."""
        got = answer(self.home, envelope)
        return read_reply(got.document)[0], got

    def ask(self, study: SignedDocument, task: str) -> tuple[Reply, Envelope]:
        """Ask for a task with what belongs to it."""
        return self.send(self.envelope(study, task, self.inputs(task, parse_study(study.payload))))

    def approve(self, study: SignedDocument, decision: Decision = Decision.APPROVED) -> None:
        """Propose a study and let the steward decide on it. Raises what the node says when it is refused."""
        reply, _ = self.ask(study, HELLO)
        if reply.status is Status.REFUSED:
            raise GemelError(reply.code, "The throwaway node refused the study.")
        approvals.decide(
            self.home,
            approvals.proposal_of(self.home, study.payload_sha256),
            decision,
            steward=STEWARD,
            key=self.steward,
            reason="made for an audit",
        )

    def with_config(self, **changes: Any) -> Throwaway:
        """The same home under another configuration of the hospital."""
        home = NodeHome(self.home.folder, msgspec.structs.replace(self.home.config, **changes))
        return Throwaway(home, self.programme, self.coordinator, self.steward)


def signed(study: Study) -> SignedDocument:
    """A study as somebody proposes it."""
    return sign_document("study", study.to_payload(), SigningKey.generate(), role="proposer")


@contextmanager
def throwaway_node(
    programme: Programme,
    *,
    epsilon_cap: float = 1e6,
    delta: float = 1e-3,
    people: int = PATIENTS,
    seed: int = 0,
    like: Throwaway | None = None,
    keep: float = 1.0,
) -> Iterator[Throwaway]:
    """A fresh node in a temporary folder that is gone afterwards.

    `like` lends its patients, of whom the first part `keep` stays; the cap is so high that only who asks for it meets it.
    """
    with TemporaryDirectory(prefix="gemel-audit-") as name:
        folder = Path(name)
        export = folder / "export"
        if like is None:
            write_export(export, programme, patients=people, seed=seed)
        else:
            shutil.copytree(like.home.export, export)
            if keep < 1:
                lines = (export / "Patient.ndjson").read_bytes().splitlines(keepends=True)
                (export / "Patient.ndjson").write_bytes(b"".join(lines[: int(keep * len(lines))]))
        coordinator, steward = SigningKey.generate(), SigningKey.generate()
        config = NodeConfig(
            schema=SCHEMA,
            site=SITE,
            export=str(export),
            coordinator_public_key=coordinator.public_hex,
            stewards={STEWARD: steward.public_hex},
            programmes=(f"{programme.name}@{programme.version}",),
            epsilon_cap=epsilon_cap,
            delta=delta,
            minimum_patients=FLOOR,
        )
        lent = like.home if like is not None else None
        key = lent.pseudonym_key if lent is not None else None
        home = NodeHome.create(folder / "home", config, pseudonym_key=key)
        if lent is not None and keep == 1:
            # The same export under the same key: what was built from it need not be built again.
            shutil.copytree(lent.folder / "data", home.folder / "data", dirs_exist_ok=True)
        yield Throwaway(home, programme, coordinator, steward)


def a_choice(programme: Programme, task: str) -> dict[str, NDArray[np.int64]]:
    """What a coordinator may send with a round of synthesis: all levels alike, and no pair beside the anchors'."""
    value = {"levels": 100, "parents": -1, "multiplier": 1000}
    return {name: np.full(spec.shape, value[name]) for name, spec in declared_inputs(task, programme).items()}
