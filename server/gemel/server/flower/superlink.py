"""The SuperLink of a federation: how it is started, how nodes are admitted, how a run begins."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.retry import make_simple_http_retry_invoker

from gemel.core.errors import GemelError
from gemel.core.pki import create_tls
from gemel.server.flower import HOME_VARIABLE
from gemel.server.flower.internals import BUNDLE_ID, BUNDLE_VERSION
from gemel.server.home import CoordinatorHome
from gemel.server.members import FleetNode

# Both are on by default in Flower: nothing of ours calls home.
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}

_BUNDLE = f"""\
[project]
name = "{BUNDLE_ID.split("/")[1]}"
version = "{BUNDLE_VERSION}"
description = "Names a Gemel run. It holds no code: coordinator and nodes run what is installed there."
license = "Apache-2.0"

[tool.flwr.app]
publisher = "{BUNDLE_ID.split("/")[0]}"

[tool.flwr.app.components]
serverapp = "installed.at.coordinator:app"
clientapp = "installed.at.node:app"

[tool.flwr.app.config]
study = ""
approval-timeout-s = 3600.0
"""


@dataclass(frozen=True)
class Command:
    """One process to supervise: its arguments and what it needs in its environment."""

    name: str
    arguments: tuple[str, ...]
    environment: dict[str, str]


@dataclass(frozen=True)
class SuperLink:
    """A SuperLink on one host and port; Fleet, Control and Runtime APIs share the port, under TLS."""

    home: CoordinatorHome
    host: str
    port: int

    @property
    def address(self) -> str:
        """What nodes connect to."""
        return f"{self.host}:{self.port}"

    @property
    def ca_certificate(self) -> Path:
        """The federation's CA, part of every node's start kit."""
        return self.home.folder / "tls" / "ca.crt"

    def prepare(self) -> None:
        """Make certificates and the SuperExec secret, once."""
        tls = self.home.folder / "tls"
        if not tls.exists():
            create_tls(tls, hosts=("localhost", self.host))
        secret = self.home.folder / "keys" / "superexec.secret"
        if not secret.exists():
            descriptor = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))

    def commands(self) -> tuple[Command, Command]:
        """The SuperLink, and what starts our ServerApp for each run."""
        folder = self.home.folder
        tls, secret = folder / "tls", folder / "keys" / "superexec.secret"
        environment = {
            **QUIET,
            "FLWR_HOME": str(folder / "flower"),
            "OMP_NUM_THREADS": "1",
            HOME_VARIABLE: str(folder),
        }
        superlink = (
            *(sys.executable, "-m", "gemel.server.flower.superlink_process"),
            *("--ssl-ca-certfile", str(tls / "ca.crt")),
            *("--ssl-certfile", str(tls / "server.crt")),
            *("--ssl-keyfile", str(tls / "server.key")),
            "--enable-supernode-auth",
            "--disable-runtime-dependency-installation",
            *("--isolation", "process", "--superexec-auth-secret-file", str(secret)),
            *("--database", str(folder / "superlink.db")),
            *("--host", self.host, "--port", str(self.port)),
        )
        starter = (
            *(sys.executable, "-m", "gemel.server.flower.run_starter"),
            *(self.address, str(tls / "ca.crt"), str(secret), str(folder / "serverapp.log")),
        )
        return (
            Command("superlink", superlink, environment),
            Command("starter", starter, environment),
        )

    def admit_node(self, public_key: bytes) -> int:
        """Register a node's transport key (PEM); returns Flower's node id. Raises GEM505."""
        with self._control() as control:
            response = control.client.RegisterNode(RegisterNodeRequest(public_key=public_key))
        if not response.node_id:
            raise GemelError("GEM505", "The SuperLink did not admit the node.")
        return int(response.node_id)

    def remove_node(self, flower_node: int) -> None:
        """Take a node's registration back, for good: its transport key never connects again. Raises GEM505."""
        with self._control() as control:
            control.client.UnregisterNode(UnregisterNodeRequest(node_id=flower_node))

    def nodes(self) -> list[FleetNode]:
        """The registered nodes, whether they are connected or not. Raises GEM505."""
        with self._control() as control:
            found = control.client.ListNodes(ListNodesRequest()).nodes_info
        return [FleetNode(int(node.node_id), node.public_key.decode(), str(node.status)) for node in found]

    def start_run(self, study_sha256: str, *, approval_timeout_s: float) -> int:
        """Begin a run of a study that is on record at the coordinator; returns Flower's run id."""
        content, _ = build_fab_from_files({"pyproject.toml": _BUNDLE.encode()})
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        override: dict[str, bool | float | int | str] = {
            "study": study_sha256,
            "approval-timeout-s": approval_timeout_s,
        }
        request = StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto(override))
        with self._control() as control:
            return int(control.client.StartRun(request).run_id)

    def run_status(self, run_id: int) -> tuple[str, str]:
        """(status, sub-status) of a run, in Flower's words."""
        with self._control() as control:
            runs = control.client.ListRuns(ListRunsRequest(run_id=run_id)).run_dict
        status = runs[run_id].status
        return str(status.status), str(status.sub_status)

    def _control(self) -> _Control:
        try:  # Flower's client would try again for ever
            socket.create_connection((self.host, self.port), timeout=5.0).close()
        except OSError as error:
            raise GemelError(
                "GEM505", f"The SuperLink does not listen on {self.address}: {error}."
            ) from error
        return _Control(self.address, self.ca_certificate.read_bytes())


class _Control:
    """Flower's Control API, open for one call."""

    def __init__(self, address: str, root_certificates: bytes) -> None:
        self.client = ControlHttpClient.from_server_address(
            server_address=address,
            insecure=False,
            root_certificates=root_certificates,
            interceptors=[],
            retry_invoker=make_simple_http_retry_invoker(),
        )

    def __enter__(self) -> _Control:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.client.close()
