"""A coordinator as an operator runs it: `gemel federation start` and nginx, on loopback, in a home of its own."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gemel.core.pki import create_transport_key
from gemel.core.signing import SigningKey
from gemel.core.start_kit import JoinRequest, sign_join
from gemel.core.supervision import free_port
from gemel.server import administration, federation_setup, nginx
from gemel.server.federation_config import SCHEMA, FederationConfig
from gemel.server.members import Members
from gemel.server.store import open_store, store_url
from gemel.server.supervisor import superlink_of

GEMEL = [sys.executable, "-m", "gemel.cli.main"]
NGINX = "/usr/sbin/nginx"


@dataclass
class Coordinator:
    """Its home and settings; `processes` holds what runs."""

    folder: Path
    config: FederationConfig
    processes: list[subprocess.Popen] = field(default_factory=list)

    @property
    def ca(self) -> Path:
        return self.folder / "tls" / "ca.crt"

    @property
    def superlink(self):
        return superlink_of(self.folder, self.config)

    @contextmanager
    def members(self) -> Iterator[Members]:
        engine = open_store(store_url(self.folder))
        try:
            yield Members(engine)
        finally:
            engine.dispose()

    def gemel(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess:
        """Run one command; its exit code must be `code`."""
        done = subprocess.run([*GEMEL, *arguments], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def log(self, name: str) -> str:
        path = self.folder / "logs" / f"{name}.log"
        return path.read_text() if path.exists() else ""


@dataclass(frozen=True)
class Keys:
    """What a hospital makes: a folder with `transport.key`, its signing key, and the request to join."""

    folder: Path
    key: SigningKey
    request: JoinRequest
    join: bytes


def make_keys(folder: Path, site: str, coordinator: str, *, previous: SigningKey | None = None) -> Keys:
    """A hospital's keys and its request to join, as `gemel node init` and `rotate` make them."""
    folder.mkdir(parents=True)
    create_transport_key(folder)
    key = SigningKey.generate()
    request = JoinRequest(
        site=site,
        node_public_key=key.public_hex,
        transport_public_key=(folder / "transport.pub").read_text(),
        coordinator_public_key=coordinator,
        software={"gemel": "0"},
        made_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        succeeds=previous.public_hex if previous else "",
    )
    return Keys(folder, key, request, sign_join(request, key, previous=previous).to_bytes())


def make_coordinator(folder: Path, *, database: str = "") -> Coordinator:
    """A fresh home, every port a free one of loopback."""
    config = FederationConfig(
        schema=SCHEMA,
        name="test federation",
        host="127.0.0.1",
        aliases=("localhost",),
        port=free_port(),
        people_port=free_port(),
        superlink_port=free_port(),
        service_port=free_port(),
        listen="127.0.0.1",
    )
    federation_setup.create(folder, config, database=database)
    return Coordinator(folder, config)


@contextmanager
def running(coordinator: Coordinator) -> Iterator[Coordinator]:
    """`gemel federation start`, until the block ends."""
    log = coordinator.folder.parent / f"{coordinator.folder.name}.start.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*GEMEL, "federation", "start", str(coordinator.folder)], stdout=out, stderr=subprocess.STDOUT
        )
    coordinator.processes.append(process)
    try:
        wait_for(lambda: '"ready"' in log.read_text() or process.poll() is not None, what=log)
        assert process.poll() is None, log.read_text()
        yield coordinator
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def proxied(coordinator: Coordinator) -> Iterator[Coordinator]:
    """nginx before it, in the foreground, as this user."""
    path = nginx.configuration_file(coordinator.folder)
    process = subprocess.Popen([NGINX, "-c", str(path), "-g", "daemon off;"], stderr=subprocess.DEVNULL)
    coordinator.processes.append(process)
    try:
        wait_for(lambda: listens(coordinator.config.port) or process.poll() is not None, what=path)
        assert process.poll() is None, (path.parent / "error.log").read_text()
        yield coordinator
    finally:
        process.terminate()
        process.wait(10)


def admit(coordinator: Coordinator, site: str, folder: Path) -> Keys:
    """Invite a hospital, make its keys, and admit them at the running SuperLink."""
    with coordinator.members() as members:
        signing = federation_setup.CoordinatorHome(coordinator.folder).key
        administration.invite(
            members, coordinator.config, signing, site=site, ca_certificate=coordinator.ca.read_text()
        )
        keys = make_keys(folder, site, signing.public_hex)
        administration.admit(
            members,
            coordinator.superlink,
            keys.join,
            coordinator=signing.public_hex,
            fingerprint=keys.request.fingerprint,
        )
    return keys


def listens(port: int) -> bool:
    import socket

    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def wait_for(condition, *, what, timeout_s: float = 60.0) -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.1)
