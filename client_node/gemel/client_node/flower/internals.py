"""Every touch of flwr 1.41.0's internals at a node. A contract test fails loudly when they move.

What is changed, and why:
- a bundle that a run submits is never unpacked; only our installed ClientApp is loaded (promise 1);
- the SuperNode's waits of 0.5 s and 3 s become 0.1 s, and the first back-off of an object pull 20 ms;
- its heartbeat is every 10 s, so that a killed node is missed, and may come back, after 20 s instead of 60.
"""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace
from typing import Any

from flwr.clientapp import ClientApp
from flwr.clientapp.client_app import LoadClientAppError
from flwr.supercore import heartbeat
from flwr.supercore.inflatable import inflatable_utils
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.runtime import run_clientapp as runtime

FLWR_VERSION = "1.41.0"
ALLOWED_BUNDLE = ("gemel/federation", "0.1.0")
LONGEST_WAIT_S = 0.1
HEARTBEAT_S = 10


def shorten_waits() -> None:
    """Cap the SuperNode's sleeps, the pull back-off and the heartbeat interval, in this process."""
    waiting: Any = start_client_internal
    names = {name: getattr(time, name) for name in dir(time) if not name.startswith("_")}
    names["sleep"] = lambda seconds: time.sleep(min(seconds, LONGEST_WAIT_S))
    waiting.time = SimpleNamespace(**names)
    patched_heartbeat: Any = heartbeat
    patched_connection: Any = fleet_http_connection
    patched_heartbeat.HEARTBEAT_DEFAULT_INTERVAL = HEARTBEAT_S
    patched_connection.HEARTBEAT_DEFAULT_INTERVAL = HEARTBEAT_S
    shorten_pull_back_off()


def shorten_pull_back_off() -> None:
    """Start object pulls with a 20 ms back-off, capped at 0.2 s."""
    for name in ("pull_objects", "pull_and_inflate_object_from_tree"):
        defaults = getattr(inflatable_utils, name).__kwdefaults__
        defaults.update(initial_backoff=0.02, backoff_cap=0.2)


def allow_only(app: ClientApp) -> None:
    """From here on `flwr-clientapp` in this process runs `app`, for our own bundle's name only."""

    def load(fab_id: str, fab_version: str, _fab_hash: str) -> ClientApp:
        if (fab_id, fab_version) != ALLOWED_BUNDLE:
            raise LoadClientAppError("GEM408")
        return app

    patched: Any = runtime
    patched.install_from_fab = lambda *_args, **_kwargs: None
    patched.get_project_dir = lambda *_args, **_kwargs: None
    patched.get_load_client_app_fn = lambda **_kwargs: load


def run_client_app(arguments: list[str]) -> None:
    """Be `flwr-clientapp` for one task; leaves by SystemExit."""
    from flwr.supernode.cli import flwr_clientapp

    sys.argv = ["flwr-clientapp", *arguments]
    flwr_clientapp()


def run_supernode(arguments: list[str]) -> None:
    """Be `flower-supernode`."""
    from flwr.supernode.cli import flower_supernode

    shorten_waits()
    sys.argv = ["flower-supernode", *arguments]
    flower_supernode()
