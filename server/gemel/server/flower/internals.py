"""Every touch of flwr 1.41.0's internals at the coordinator. A contract test fails loudly when they move.

What is changed: a bundle that a run submits is never unpacked, our installed ServerApp runs instead; the first
back-off of an object pull is 20 ms instead of 1 s (a message is visible before its objects are).
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from flwr.serverapp import ServerApp
from flwr.supercore.inflatable import inflatable_utils

# The package holds a function of the same name, which hides the module from `import`.
runtime: Any = importlib.import_module("flwr.superlink.runtime.run_serverapp")

FLWR_VERSION = "1.41.0"
BUNDLE_ID, BUNDLE_VERSION = "gemel/federation", "0.1.0"


def shorten_pull_back_off() -> None:
    """Start object pulls with a 20 ms back-off, capped at 0.2 s."""
    for name in ("pull_objects", "pull_and_inflate_object_from_tree"):
        defaults = getattr(inflatable_utils, name).__kwdefaults__
        defaults.update(initial_backoff=0.02, backoff_cap=0.2)


def run_installed_server_app(app: ServerApp) -> None:
    """Be `flwr-serverapp` for one task (its arguments are in `sys.argv`), running `app` whatever was submitted."""
    shorten_pull_back_off()
    runtime.install_from_fab = lambda *_args, **_kwargs: None
    runtime.get_project_dir = lambda *_args, **_kwargs: Path()
    runtime.get_project_config = lambda _path: {"tool": {"flwr": {"app": {"components": {"serverapp": ""}}}}}
    runtime.get_fused_config_from_dir = lambda _path, override: dict(override)
    run = runtime.run_
    runtime.run_ = lambda grid, context, **_kwargs: run(
        grid=grid, context=context, server_app_dir="", loaded_server_app=app
    )
    from flwr.superlink.cli import flwr_serverapp

    sys.argv[0] = "flwr-serverapp"
    flwr_serverapp()
