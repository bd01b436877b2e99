"""A consortium as it is deployed, for fault tests: a coordinator behind nginx and its hospitals, each on a host of its own.

What runs is what `docs/consortium.md` runs: `gemel federation start`, nginx with the generated configuration, and
`gemel node start`, each started again when it dies, as systemd would. Homes are made by the functions behind `gemel
federation init|invite|admit` and `gemel node init|steward|allow`; studies enter the store as the service enters them,
and the service runs them.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from hosts import Host, HostProcess, hosts
from sqlalchemy import Engine

from gemel.client_node import approvals, permissions
from gemel.client_node.approvals import Decision
from gemel.client_node.home import NodeHome
from gemel.client_node.joining import JOIN_NAME, Limits, make_node
from gemel.core.errors import GemelError
from gemel.core.signing import SigningKey, fingerprint, sign_document
from gemel.core.study import SCHEMA, PrivacyPlan, Study, TrainingPlan
from gemel.privacy.accounting import price
from gemel.server import administration, federation_config, federation_setup, studies
from gemel.server.federation_config import FederationConfig
from gemel.server.home import CoordinatorHome, RunFolder
from gemel.server.members import Members
from gemel.server.store import FILE, open_store
from gemel.server.supervisor import superlink_of
from gemel.synthetic.domain import domain_of
from gemel.synthetic.protocol import synthesis_plan
from gemel.twins.metrics import metric_tables
from gemel.twins.programmes.fatty_liver import PROGRAMME

COORDINATOR = "coordinator"
SITES = ("alpha", "beta", "gamma", "delta")
PATIENTS = {"alpha": 160, "beta": 130, "gamma": 110, "delta": 100}
DELTA = 1e-5
STEWARD = "Ann"
PROPOSER = SigningKey.generate()
GEMEL = str(Path(sys.executable).with_name("gemel"))
FEDERATION, PROXY = "federation", "proxy"
_CLONE_NEWNET = 0x40000000

Watch = Callable[[dict[str, Any]], None]
Result = TypeVar("Result")


@dataclass
class Consortium:
    """Homes, hosts and what runs on them.

    Attributes:
        folder: All homes, exports and logs are in it.
        home: The coordinator's.
        nodes: The hospitals', as seen by the test.
        stewards: The hospitals' stewards' keys.
        services: The supervised processes by name: FEDERATION, PROXY, and each site.
    """

    folder: Path
    network: dict[str, Host]
    home: CoordinatorHome
    nodes: dict[str, NodeHome] = field(default_factory=dict)
    stewards: dict[str, SigningKey] = field(default_factory=dict)
    services: dict[str, HostProcess] = field(default_factory=dict)

    @property
    def coordinator(self) -> Host:
        return self.network[COORDINATOR]

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self.nodes)

    def store(self) -> Engine:
        """The coordinator's store, also where its home is on a disk of the host's own."""
        return open_store(f"sqlite:///{self.home.folder / FILE}")

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def _start(
        self, host: Host, name: str, command: Sequence[str | Path], environment: Mapping[str, str] | None
    ) -> HostProcess:
        self.services[name] = host.start(
            name, command, log=self.log(name), environment=environment, restart=True
        )
        return self.services[name]

    def start_coordinator(self, *, environment: Mapping[str, str] | None = None) -> None:
        """Start the coordinator's supervisor and nginx."""
        inside = self.folder / "coordinator"  # as the host sees it, also on a disk of its own
        self._start(self.coordinator, FEDERATION, [GEMEL, "federation", "start", inside], environment)
        nginx = ["nginx", "-c", inside / "nginx" / "nginx.conf", "-g", "daemon off;"]
        self._start(self.coordinator, PROXY, nginx, environment)

    def start_node(
        self,
        site: str,
        *,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str | Path] | None = None,
    ) -> HostProcess:
        """Start one hospital's node, or another program in its place."""
        home = self.folder / "nodes" / site
        return self._start(self.network[site], site, command or [GEMEL, "node", "start", home], environment)

    def make_node(self, site: str, export: Path) -> None:
        """Invite a hospital, make its node, put a steward on record and allow the programme."""
        config, kit = federation_config.load(self.home.folder), self.folder / f"{site}.kit.json"
        engine = self.store()
        ca = (self.home.folder / "tls" / "ca.crt").read_text()
        document = administration.invite(Members(engine), config, self.home.key, site=site, ca_certificate=ca)
        engine.dispose()
        kit.write_bytes(document.to_bytes())
        limits = Limits(export=export, minimum_patients=50, epsilon_cap=1000.0, delta=DELTA)
        folder = self.folder / "nodes" / site
        home, _ = make_node(folder, kit.read_bytes(), limits)
        permissions.add_steward(home, STEWARD, self.folder / f"{site}.steward.key")
        permissions.allow(NodeHome.open(folder), f"{PROGRAMME.name}@{PROGRAMME.version}")
        self.stewards[site] = SigningKey.load(self.folder / f"{site}.steward.key")
        self.nodes[site] = NodeHome.open(folder)

    def admit(self, site: str, *, patience_s: float = 120.0) -> None:
        """Admit a hospital's keys, as after the phone call."""
        content = (self.folder / "nodes" / site / JOIN_NAME).read_bytes()
        config = federation_config.load(self.home.folder)

        def admit() -> None:
            engine = self.store()
            try:
                administration.admit(
                    Members(engine),
                    superlink_of(self.home.folder, config),
                    content,
                    coordinator=self.home.key.public_hex,
                    fingerprint=fingerprint(self.nodes[site].key.public_hex),
                )
            finally:
                engine.dispose()

        self.control(admit, patience_s=patience_s)

    def control(self, call: Callable[[], Result], *, patience_s: float = 60.0) -> Result:
        """Call something from the coordinator's host, again while the SuperLink is not there."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return in_network(self.coordinator, call)
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def online(self) -> set[str]:
        """The sites that the SuperLink takes for connected now."""
        link = superlink_of(self.home.folder, federation_config.load(self.home.folder))
        keys = {node.transport_key for node in self.control(link.nodes) if node.status == "online"}
        of = {site: (home.folder / "keys" / "transport.pub").read_text() for site, home in self.nodes.items()}
        return {site for site, key in of.items() if key in keys}

    def wait_until_online(self, *, timeout_s: float = 120.0) -> None:
        """Wait for every hospital to be connected. Raises AssertionError with who is not."""
        deadline = time.monotonic() + timeout_s
        while (away := set(self.sites) - self.online()) and time.monotonic() < deadline:
            time.sleep(0.5)
        assert not away, f"not connected: {away}"

    def approve(self, site: str, study_sha256: str) -> None:
        """Approve a proposed study as the site's steward; once is enough."""
        home = self.nodes[site]
        approvals.decide(
            home,
            approvals.proposal_of(home, study_sha256),
            Decision.APPROVED,
            steward=STEWARD,
            key=self.stewards[site],
            reason="to test",
        )

    # --- studies -------------------------------------------------------------------------------------------

    def submit(self, study: Study, *, patience_s: float = 600.0) -> RunFolder:
        """Draft, sign and propose a study, as the service does for a scientist; the service runs it."""
        document = sign_document("study", study.to_payload(), PROPOSER, role="proposer")
        engine = self.store()
        with engine.begin() as connection:
            record = studies.draft(connection, owner="0" * 32, payload=document.payload)
            studies.sign(connection, record.id, document, actor="a test")
            studies.propose(
                connection, record.id, actor="a test", approval_timeout_s=patience_s, events_offset=0
            )
        engine.dispose()
        return self.home.run(study.sha256)

    def resume(self, study: Study, *, patience_s: float = 600.0) -> None:
        """Propose a stopped or failed study again, as an operator does."""
        run = self.home.run(study.sha256)
        engine = self.store()
        with engine.begin() as connection:
            record = next(r for r in studies.every(connection) if r.study_sha256 == study.sha256)
            offset = max((end for end, _ in run.events()), default=0)
            studies.propose(
                connection, record.id, actor="a test", approval_timeout_s=patience_s, events_offset=offset
            )
        engine.dispose()

    def run(
        self,
        study: Study,
        *,
        watch: Watch | None = None,
        tick: Callable[[], object] | None = None,
        timeout_s: float,
    ) -> RunFolder:
        """Submit a study and follow it to the state that it ends in; see `follow`."""
        return self.follow(study, self.submit(study), watch=watch, tick=tick, timeout_s=timeout_s)

    def follow(
        self,
        study: Study,
        run: RunFolder,
        *,
        watch: Watch | None = None,
        tick: Callable[[], object] | None = None,
        timeout_s: float,
    ) -> RunFolder:
        """Watch a study's events, approving where it waits for a steward, until the store says that it has ended.

        `watch` is told of each event, `tick` is called all the time. Raises GEM504 when time is up.
        """
        deadline, offset, approved = time.monotonic() + timeout_s, 0, set[str]()
        while time.monotonic() < deadline:
            for end, event in run.events(start=offset):
                offset = end
                if watch is not None:
                    watch(event)
                if event["event"] == "site" and event["status"] == "pending":
                    if event["site"] not in approved:
                        self.approve(event["site"], study.sha256)
                    approved.add(event["site"])
            if tick is not None:
                tick()
            if self.state(study) not in studies.ACTIVE:
                return run
            time.sleep(0.1)
        raise GemelError("GEM504", f"{study.study_id}: no certificate in time.")

    def state(self, study: Study) -> studies.StudyState:
        """Where a study stands in the coordinator's store."""
        engine = self.store()
        try:
            with engine.connect() as connection:
                return next(r.state for r in studies.every(connection) if r.study_sha256 == study.sha256)
        finally:
            engine.dispose()

    def study(self, name: str, *, rounds: int = 3, **changes: object) -> Study:
        """A small study of these hospitals that states its true price; keyword arguments replace its fields."""
        training = TrainingPlan(
            rounds=rounds,
            local_steps=2,
            learning_rate=0.1,
            momentum=0.0,
            max_grad_norm=1.0,
            sample_rate=1.0,
            noise_multiplier=50.0,
        )
        privacy = PrivacyPlan(
            epsilon=1000.0,
            delta=DELTA,
            count_noise_multiplier=10.0,
            metrics_noise_multiplier=15.0,
            synthesis_noise_multiplier=4.0,
        )
        study = Study(
            schema=SCHEMA,
            study_id=name,
            title="A test",
            purpose="to test",
            programme=PROGRAMME.name,
            programme_version=PROGRAMME.version,
            training=training,
            privacy=privacy,
            metrics_tables=len(metric_tables(PROGRAMME)),
            synthesis=synthesis_plan(domain_of(PROGRAMME)),
            minimum_patients=20,
            quorum=2,
            round_timeout_s=60.0,
            sites={site: home.key.public_hex for site, home in self.nodes.items()},
        )
        study = msgspec.structs.replace(study, **changes)
        stated = round(price(study.charges(), delta=DELTA) + 0.01, 2)
        return msgspec.structs.replace(study, privacy=msgspec.structs.replace(study.privacy, epsilon=stated))


def in_network(host: Host, call: Callable[[], Result]) -> Result:
    """Call something in this process with the sockets of another host."""
    outcome: list[Any] = []

    def work() -> None:
        descriptor = os.open(f"/proc/{host.pid}/ns/net", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            outcome.extend((True, call()))
        except Exception as error:
            outcome.extend((False, error))
        finally:
            os.close(descriptor)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    good, value = outcome
    if not good:
        raise value
    result: Result = value
    return result


@contextmanager
def consortium(
    folder: Path, write_export: Callable[..., Path], *, sites: tuple[str, ...] = SITES
) -> Iterator[Consortium]:
    """A coordinator's host and one for each hospital, with fresh homes; nothing of ours runs yet."""
    if shutil.which("nginx") is None:
        pytest.skip("a deployed coordinator needs nginx (Debian: nginx-light)")
    with hosts(COORDINATOR, *sites) as network:
        (folder / "logs").mkdir(parents=True)
        config = FederationConfig(
            schema=federation_config.SCHEMA,
            name="test",
            host=COORDINATOR,
            port=8443,
            people_port=8444,
            superlink_port=9400,
            service_port=9401,
            listen="0.0.0.0",
        )
        made = Consortium(folder, network, federation_setup.create(folder / "coordinator", config))
        for number, site in enumerate(sites):
            export = write_export(folder / "exports" / site, patients=PATIENTS[site], seed=number)
            made.make_node(site, export)
        yield made


@contextmanager
def running(
    folder: Path, write_export: Callable[..., Path], *, sites: tuple[str, ...] = SITES
) -> Iterator[Consortium]:
    """A consortium with everything started and every hospital admitted."""
    with consortium(folder, write_export, sites=sites) as made:
        made.start_coordinator()
        for site in sites:
            made.admit(site)
            made.start_node(site)
        yield made
