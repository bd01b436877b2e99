"""Processes that are kept running: started apart, logged, started again when they die, ended by process group."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gemel.core.errors import GemelError

RESTART_S = 3.0
STEADY_S = 10.0  # who ran for so long did not fail at its start
_PR_SET_PDEATHSIG = 1


def free_port() -> int:
    """A loopback port that nobody listens on right now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Process:
    """One supervised process in a session of its own.

    Args:
        name: For people, and the log's name.
        arguments: Program and arguments.
        environment: Added to this process' environment.
        log: Where stdout and stderr go, appended.
        restart: Start it again when it dies (as systemd would for a hospital's node).
        longest_wait_s: How long it may wait before that: each death within ten seconds of its start doubles the wait.
        watch: Told of each start ("started") and each end ("ended", with the exit status), for a log.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        restart: bool = False,
        longest_wait_s: float = RESTART_S,
        watch: Callable[[str, int], None] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self.restarts = 0
        self._arguments = list(arguments)
        self._environment = {**os.environ, **(environment or {})}
        self._restart = restart
        self._longest_wait_s = longest_wait_s
        self._watch = watch or (lambda _event, _number: None)
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name=f"supervise {name}", daemon=True)

    def start(self) -> None:
        """Start it and its supervision."""
        self._thread.start()
        self._started.wait()

    @property
    def pid(self) -> int:
        """The process id now."""
        return self._process.pid if self._process is not None else 0

    @property
    def alive(self) -> bool:
        """True while it runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self, *, timeout_s: float = 5.0) -> None:
        """Ask its group to end, then make it."""
        self._stopping.set()
        process = self._process
        if process is None:
            return
        for signal_number, wait_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, 2.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal_number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(wait_s)
                break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        # Its end is in the log before whoever stopped it goes on to the next line.
        self._thread.join(timeout=1.0)

    def _supervise(self) -> None:
        wait_s = RESTART_S
        while not self._stopping.is_set():
            started = time.monotonic()
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._arguments,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_die_with_parent if sys.platform == "linux" else None,
                )
            self._started.set()
            self._watch("started", self._process.pid)
            self._watch("ended", self._process.wait())
            if not self._restart:
                return
            if time.monotonic() - started >= STEADY_S:
                wait_s = RESTART_S
            if self._stopping.wait(wait_s):
                return
            wait_s = min(2 * wait_s, max(RESTART_S, self._longest_wait_s))
            self.restarts += 1


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def wait_for_port(host: str, port: int, process: Process, *, timeout_s: float = 60.0) -> None:
    """Wait until something listens. Raises GEM505 when the process ends first, or time is up."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.alive:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1.0):
            return
        time.sleep(0.1)
    raise GemelError("GEM505", f"{process.name} does not listen on {host}:{port}; its log is {process.log}.")
