"""A node's process: the warm worker and Flower's SuperNode, over one outbound connection."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from gemel.client_node.flower import HOME_VARIABLE
from gemel.client_node.flower.worker import socket_path, write_launcher

START_TIMEOUT_S = 120.0
RESTART_S = 1.0


def node_environment(folder: Path) -> dict[str, str]:
    """The environment of a node: Flower quiet, our launcher first on the PATH."""
    scripts = Path(sys.executable).parent
    return {
        **os.environ,
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
        "FLWR_HOME": str(folder / "flower"),
        "OMP_NUM_THREADS": "1",
        # Of its own: the default is a folder in /tmp, from which another user could have this node run code.
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled"),
        HOME_VARIABLE: str(folder),
        "PATH": f"{folder / 'bin'}:{scripts}:{os.environ.get('PATH', '')}",
    }


def run(folder: Path, *, superlink: str, ca_certificate: Path, port: int) -> None:
    """Run a node until it is stopped.

    Args:
        folder: The node's home.
        superlink: host:port of the coordinator's SuperLink.
        ca_certificate: The federation's CA.
        port: A free loopback port for the SuperNode's local API.
    """
    write_launcher(folder)
    os.environ.update(node_environment(folder))
    threading.Thread(target=_keep_worker, args=(folder,), daemon=True).start()
    deadline = time.monotonic() + START_TIMEOUT_S
    while not socket_path(folder).exists():
        if time.monotonic() > deadline:
            sys.exit(1)
        time.sleep(0.1)
    from gemel.client_node.flower.internals import run_supernode

    run_supernode(
        [
            *("--root-certificates", str(ca_certificate)),
            *("--superlink", superlink),
            *("--auth-supernode-private-key", str(folder / "keys" / "transport.key")),
            *("--host", "127.0.0.1", "--port", str(port)),
        ]
    )


def _keep_worker(folder: Path) -> None:
    """Start the worker, and start it again whenever it ends: without one the node would answer nothing."""
    while True:
        socket_path(folder).unlink(missing_ok=True)
        command = [sys.executable, "-m", "gemel.client_node.flower.worker", str(folder), str(os.getpid())]
        subprocess.run(command, check=False)
        time.sleep(RESTART_S)


if __name__ == "__main__":
    home, address, ca, local_port = sys.argv[1:5]
    run(Path(home), superlink=address, ca_certificate=Path(ca), port=int(local_port))
