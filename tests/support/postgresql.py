"""A PostgreSQL of the test's own, on a socket in a folder of its own; ended with the block."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs; the test is left out where there is none."""
    places = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    found = shutil.which(name, path=os.pathsep.join(map(str, places))) or shutil.which(name)
    if found is None:
        pytest.skip(f"PostgreSQL's {name} is not installed")
    return found


@contextmanager
def postgresql() -> Iterator[str]:
    """Start a server and give its URL for SQLAlchemy."""
    owner = None
    if os.geteuid() == 0:  # PostgreSQL does not run as root
        names = {entry.pw_name for entry in pwd.getpwall()}
        owner = next((name for name in ("postgres", "nobody") if name in names), None)
        if owner is None:
            pytest.skip("root has no other user to run PostgreSQL as")
    run_as = {"user": owner, "extra_groups": [] if owner else None}
    with tempfile.TemporaryDirectory(prefix="gemel-pg-") as folder:
        if owner is not None:
            shutil.chown(folder, owner)
        data = f"{folder}/data"
        made = [
            program("initdb"),
            "-D",
            data,
            "-U",
            "gemel",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ]
        subprocess.run(made, check=True, capture_output=True, timeout=120, **run_as)
        started = [
            program("postgres"),
            "-D",
            data,
            "-k",
            folder,
            "-c",
            "listen_addresses=",
            "-c",
            "fsync=off",
        ]
        with Path(folder, "log").open("wb") as log:
            process = subprocess.Popen(started, stdout=log, stderr=log, **run_as)
        try:
            ready = [program("pg_isready"), "-q", "-h", folder]
            for _ in range(300):
                if subprocess.run(ready, check=False).returncode == 0:
                    break
                assert process.poll() is None, "the server ended"
                time.sleep(0.1)
            yield f"postgresql+psycopg://gemel@/postgres?host={quote(folder, safe='')}"
        finally:
            process.send_signal(signal.SIGINT)  # its fast shutdown
            process.wait(timeout=60)
