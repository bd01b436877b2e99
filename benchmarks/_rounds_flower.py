"""Stock Flower's side of `rounds.py`: its own SuperLink, SuperNodes and ClientApps, with TLS and node keys, unchanged."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from _rounds_gemel import SITES, Timed

from gemel.core.pki import create_tls, create_transport_key
from gemel.core.supervision import Process, free_port, wait_for_port

HOST = "127.0.0.1"
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1"}
PROJECT = """\
[project]
name = "rounds"
version = "1.0.0"
description = "timed"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "bench"
[tool.flwr.app.components]
serverapp = "rounds.server_app:app"
clientapp = "rounds.client_app:app"
[tool.flwr.app.config]
rounds = 1
values = 100
log = ""
"""
SERVER_APP = """\
import time

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid, context):
    config = context.run_config
    arrays = [np.zeros(int(config["values"]) // 4, np.float32) for _ in range(4)]

    def note(number, _arrays):
        with open(config["log"], "a") as file:
            file.write(f"{number} {time.time()}\\n")

    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=3)
    strategy.start(grid=grid, initial_arrays=ArrayRecord(arrays), num_rounds=int(config["rounds"]), evaluate_fn=note)
"""
CLIENT_APP = """\
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    arrays = [value + 1 for value in message.content["arrays"].to_numpy_ndarrays()]
    content = {"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 10})}
    return Message(RecordDict(content), reply_to=message)
"""


@dataclass(frozen=True)
class Stock:
    """What runs."""

    folder: Path
    address: str


@contextmanager
def deployment(folder: Path) -> Iterator[Stock]:
    """A SuperLink, its SuperExec and three SuperNodes, as their documentation starts them."""
    folder.mkdir()
    create_tls(folder / "tls", hosts=("localhost", HOST))
    scripts, port = Path(sys.executable).parent, free_port()
    tls = [f"--ssl-{kind}file={folder / 'tls' / name}" for kind, name in
           (("ca-cert", "ca.crt"), ("cert", "server.crt"), ("key", "server.key"))]  # fmt: skip
    environment = {**QUIET, "PATH": f"{scripts}:{os.environ.get('PATH', '')}"}
    processes: list[Process] = []

    def start(name: str, *arguments: str) -> Process:
        process = Process(
            name,
            arguments,
            log=folder / f"{name}.log",
            environment={**environment, "FLWR_HOME": str(folder / f"flower-{name}")},
        )
        processes.append(process)
        process.start()
        return process

    try:
        link = start(
            "superlink",
            str(scripts / "flower-superlink"),
            *tls,
            "--enable-supernode-auth",
            "--disable-runtime-dependency-installation",
            *("--database", str(folder / "state.db"), "--host", HOST, "--port", str(port)),
        )
        wait_for_port(HOST, port, link, timeout_s=120)
        stock = Stock(folder, f"{HOST}:{port}")
        for site in SITES:
            keys = folder / site
            keys.mkdir()
            create_transport_key(keys)
            _register(stock, (keys / "transport.pub").read_bytes())
            start(
                site,
                str(scripts / "flower-supernode"),
                *("--root-certificates", str(folder / "tls" / "ca.crt"), "--superlink", stock.address),
                *("--auth-supernode-private-key", str(keys / "transport.key")),
                *("--host", HOST, "--port", str(free_port())),
            )
        yield stock
    finally:
        for process in reversed(processes):
            process.stop()


def time_rounds(stock: Stock, *, values: int, rounds: int) -> Timed:
    """Run FedAvg for so many rounds, and wait for its end."""
    from flwr.cli.build import build_fab_from_files
    from flwr.common.serde import fab_to_proto, user_config_to_proto
    from flwr.proto.control_pb2 import ListRunsRequest, StartRunRequest
    from flwr.supercore.fab import Fab

    log = stock.folder / f"rounds-{time.time_ns()}.log"
    content, _ = build_fab_from_files(
        {
            "pyproject.toml": PROJECT.encode(),
            "rounds/__init__.py": b"",
            "rounds/server_app.py": SERVER_APP.encode(),
            "rounds/client_app.py": CLIENT_APP.encode(),
        }
    )
    fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
    override: dict[str, bool | float | int | str] = {"rounds": rounds, "values": values, "log": str(log)}
    request = StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto(override))
    with _control(stock) as control:
        started = time.time()
        run = control.StartRun(request).run_id
        deadline = time.monotonic() + 120 + 60 * rounds
        while time.monotonic() < deadline:
            status = control.ListRuns(ListRunsRequest(run_id=run)).run_dict[run].status
            if status.status == "finished":
                break
            time.sleep(0.5)
    lines = log.read_text().splitlines() if log.exists() else []
    ends = [float(line.split()[1]) for line in lines if not line.startswith("0 ")]
    if len(ends) < rounds:
        raise RuntimeError(f"stock Flower did {len(ends)} of {rounds} rounds; logs are in {stock.folder}")
    return Timed(ends[0] - started, [after - before for before, after in pairwise(ends)])


def _register(stock: Stock, public_key: bytes) -> None:
    from flwr.proto.control_pb2 import RegisterNodeRequest

    with _control(stock) as control:
        control.RegisterNode(RegisterNodeRequest(public_key=public_key))


def _control(stock: Stock):  # type: ignore[no-untyped-def]  # Flower's own type is not exported
    from flwr.supercore.control import ControlHttpClient
    from flwr.supercore.retry import make_simple_http_retry_invoker

    return ControlHttpClient.from_server_address(
        server_address=stock.address,
        insecure=False,
        root_certificates=(stock.folder / "tls" / "ca.crt").read_bytes(),
        interceptors=[],
        retry_invoker=make_simple_http_retry_invoker(),
    )
