"""A federation on this machine: a coordinator and its hospitals as separate processes over a real Flower deployment."""

from __future__ import annotations

import datetime as dt
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gemel.client_node import approvals
from gemel.client_node.approvals import Decision
from gemel.client_node.home import SCHEMA as NODE_SCHEMA
from gemel.client_node.home import NodeConfig, NodeHome
from gemel.core.canonical import document_hash
from gemel.core.errors import GemelError
from gemel.core.programme import Programme
from gemel.core.signing import SignedDocument, SigningKey
from gemel.core.supervision import Process, free_port, wait_for_port
from gemel.server.flower.superlink import SuperLink
from gemel.server.home import CoordinatorHome, RunFolder
from gemel.server.members import Members

HOST = "127.0.0.1"
STEWARD = "demo steward"
POLL_S = 0.2
MAX_RESUMES = 2

Watch = Callable[[dict[str, Any]], None]


@dataclass
class Federation:
    """The parts of a local federation; `processes` holds what runs."""

    folder: Path
    coordinator: CoordinatorHome
    superlink: SuperLink
    nodes: dict[str, NodeHome]
    stewards: dict[str, SigningKey]
    processes: dict[str, Process] = field(default_factory=dict)

    @property
    def site_keys(self) -> dict[str, str]:
        """Site -> the node's public key, as a study names its hospitals."""
        return {site: home.key.public_hex for site, home in self.nodes.items()}

    def approve(self, site: str, study_sha256: str) -> None:
        """Approve a proposed study in the name of the site's steward."""
        home = self.nodes[site]
        approvals.decide(
            home,
            approvals.proposal_of(home, study_sha256),
            Decision.APPROVED,
            steward=STEWARD,
            key=self.stewards[site],
            reason="approved by the demo on the steward's behalf",
        )


def create(
    folder: Path,
    exports: Mapping[str, Path],
    programme: Programme,
    *,
    epsilon_cap: float,
    delta: float,
    minimum_patients: int,
    seed: int | None = None,
) -> Federation:
    """Make the homes of a coordinator and one node for each export, with fresh keys.

    `seed` fixes the pseudonyms, and so who is held out; only for open data.
    """
    coordinator = CoordinatorHome.create(folder / "coordinator")
    superlink = SuperLink(coordinator, HOST, free_port())
    superlink.prepare()
    stewards = {site: SigningKey.generate() for site in exports}
    nodes = {
        site: NodeHome.create(
            folder / "nodes" / site,
            NodeConfig(
                schema=NODE_SCHEMA,
                site=site,
                export=str(export.resolve()),
                coordinator_public_key=coordinator.key.public_hex,
                stewards={STEWARD: stewards[site].public_hex},
                programmes=(f"{programme.name}@{programme.version}",),
                epsilon_cap=epsilon_cap,
                delta=delta,
                minimum_patients=minimum_patients,
            ),
            pseudonym_key=None if seed is None else bytes.fromhex(document_hash([seed, site])),
        )
        for site, export in exports.items()
    }
    (folder / "logs").mkdir()
    return Federation(folder, coordinator, superlink, nodes, stewards)


@contextmanager
def running(federation: Federation) -> Iterator[Federation]:
    """Start every process, admit the nodes, and end everything on leaving."""
    logs = federation.folder / "logs"
    link = federation.superlink
    try:
        for command in link.commands():
            process = Process(
                command.name,
                command.arguments,
                log=logs / f"{command.name}.log",
                environment=command.environment,
                restart=True,
            )
            federation.processes[command.name] = process
            process.start()
            if command.name == "superlink":
                wait_for_port(link.host, link.port, process)
        for site in federation.nodes:
            _put_on_record(federation, site)
            process = Process(site, node_command(federation, site), log=logs / f"{site}.log", restart=True)
            federation.processes[site] = process
            process.start()
        yield federation
    finally:
        for process in reversed(federation.processes.values()):
            process.stop()


def _put_on_record(federation: Federation, site: str) -> None:
    """Admit a node for a year: to the SuperLink by its transport key, to studies by its signing key."""
    home, coordinator = federation.nodes[site], federation.coordinator
    transport_key = (home.folder / "keys" / "transport.pub").read_bytes()
    flower_node = federation.superlink.admit_node(transport_key)
    expires = dt.datetime.now(dt.UTC) + dt.timedelta(days=365)
    Members(coordinator.open_store()).admit(
        site=site,
        public_key=home.key.public_hex,
        transport_key=transport_key.decode(),
        flower_node=flower_node,
        expires_at=expires.isoformat(timespec="seconds"),
    )


def node_command(federation: Federation, site: str) -> list[str]:
    """The command that runs one hospital's node."""
    home, link = federation.nodes[site], federation.superlink
    module = "gemel.client_node.flower.supernode"
    arguments = [str(home.folder), link.address, str(link.ca_certificate), str(free_port())]
    return [sys.executable, "-m", module, *arguments]


def run_study(
    federation: Federation,
    study: SignedDocument,
    *,
    watch: Watch,
    timeout_s: float,
    approve: bool = True,
) -> RunFolder:
    """Run a signed study to its certificate, approving it at each node that shows it as pending.

    A run that Flower ends without a certificate is resumed, at most twice. Raises GEM504 after that, or when
    the time is up; GEM501 when the run stopped below its quorum.
    """
    run = federation.coordinator.admit(study)
    deadline = time.monotonic() + timeout_s
    offset = max((end for end, _ in run.events()), default=0)  # an earlier run's end is not this one's
    for _ in range(1 + MAX_RESUMES):
        run_id = federation.superlink.start_run(study.payload_sha256, approval_timeout_s=timeout_s)
        status = ""
        next_status = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            for end, event in run.events(start=offset):
                offset = end
                watch(event)
                if approve and event["event"] == "site" and event["status"] == "pending":
                    federation.approve(event["site"], study.payload_sha256)
                    watch({"event": "approved", "site": event["site"]})
                if event["event"] == "finished":
                    if event["code"]:
                        raise GemelError(event["code"], "The run stopped; its certificate says why.")
                    return run
            if status == "finished":
                break
            if time.monotonic() > next_status:
                status, _ = federation.superlink.run_status(run_id)
                next_status = time.monotonic() + 5.0
            time.sleep(POLL_S)
        watch({"event": "interrupted", "run": run_id})
    raise GemelError("GEM504", f"The run of {study.payload_sha256} has no certificate.")
