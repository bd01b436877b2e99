"""The coordinator's processes, kept running: SuperLink, SuperExec and the service, until the supervisor is told to stop.

Log: one JSON object a line on stderr; each process' own words go to HOME/logs/NAME.log. SIGTERM and SIGINT stop, SIGHUP starts
all anew (after a change of settings).
"""

from __future__ import annotations

import datetime as dt
import fcntl
import importlib.util
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from gemel.core.errors import GemelError
from gemel.core.supervision import Process, wait_for_port
from gemel.server import federation_config, nginx
from gemel.server.administration import reconcile
from gemel.server.federation_config import FederationConfig
from gemel.server.flower.superlink import SuperLink
from gemel.server.home import CoordinatorHome
from gemel.server.members import Members
from gemel.server.store import open_store, store_url

LOOPBACK = "127.0.0.1"
SERVICE = "gemel.server.service"
LONGEST_WAIT_S = 30.0
LOCK = "supervisor.lock"
_CHECK_S = 1.0


def superlink_of(folder: Path, config: FederationConfig) -> SuperLink:
    """The SuperLink of a coordinator's home, on loopback."""
    return SuperLink(CoordinatorHome(folder), LOOPBACK, config.superlink_port)


def run(folder: Path) -> None:
    """Run a coordinator until SIGTERM or SIGINT. Raises GEM524 when its home is none or runs already, GEM505, GEM520."""
    folder = folder.resolve()
    config = federation_config.load(folder)
    with _alone(folder):
        wake, stop = threading.Event(), threading.Event()

        def on_signal(number: int, _frame: FrameType | None) -> None:
            if number != signal.SIGHUP:
                stop.set()
            wake.set()

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, on_signal)
        while not stop.is_set():
            wake.clear()
            _generation(folder, config, wake)
            config = federation_config.load(folder)
        log("stopped")


def log(event: str, **facts: object) -> None:
    """One line for whoever reads the journal."""
    line = {"at": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"), "event": event, **facts}
    sys.stderr.write(json.dumps(line) + "\n")
    sys.stderr.flush()


def running_pid(folder: Path) -> int | None:
    """The process id of the supervisor of a home, or None when none runs."""
    try:
        with (folder / LOCK).open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return int(file.read() or 0)
    except FileNotFoundError:
        pass
    return None


def _generation(folder: Path, config: FederationConfig, wake: threading.Event) -> None:
    """Start everything, keep it until `wake`, stop everything."""
    link = superlink_of(folder, config)
    link.prepare()
    nginx.write_configuration(folder, config)
    (folder / "logs").mkdir(exist_ok=True)
    members = Members(open_store(store_url(folder)))
    processes: list[Process] = []
    settled = False
    try:
        for name, arguments, environment in _commands(folder, config, link):
            process = Process(
                name,
                arguments,
                log=folder / "logs" / f"{name}.log",
                environment=environment,
                restart=True,
                longest_wait_s=LONGEST_WAIT_S,
                watch=_watch(name),
            )
            processes.append(process)
            process.start()
            if name == "superlink":
                settled = _settle(link, members, process, timeout_s=120.0)
        log("ready", hospitals=config.fleet_address, people=config.service_url, processes=len(processes))
        superlink, restarts = processes[0], processes[0].restarts
        while not wake.wait(_CHECK_S):
            if superlink.alive and (superlink.restarts != restarts or not settled):
                restarts = superlink.restarts
                settled = _settle(link, members, superlink, timeout_s=30.0)
    finally:
        for process in reversed(processes):
            process.stop()
        members.engine.dispose()


def _commands(
    folder: Path, config: FederationConfig, link: SuperLink
) -> Iterator[tuple[str, list[str], dict[str, str]]]:
    for command in link.commands():
        yield command.name, list(command.arguments), command.environment
    if importlib.util.find_spec(SERVICE) and importlib.util.find_spec(f"{SERVICE}.__main__"):
        arguments = [sys.executable, "-m", SERVICE, str(folder), "--port", str(config.service_port)]
        arguments += ["--superlink", link.address, "--public-url", config.service_url]
        yield "service", arguments, {}


def _settle(link: SuperLink, members: Members, process: Process, *, timeout_s: float) -> bool:
    """Wait for the SuperLink, and bring its registrations in line with the members; False: to be tried again."""
    try:
        wait_for_port(link.host, link.port, process, timeout_s=timeout_s)
        for done in reconcile(members, link):
            log("members", done=done)
    except GemelError as error:
        log("unsettled", code=error.code, message=error.message)
        return False
    return True


def _watch(name: str) -> Callable[[str, int], None]:
    def watch(event: str, number: int) -> None:
        log(event, process=name, **{"pid" if event == "started" else "status": number})

    return watch


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+") as file:
        for last in (False, False, True):  # whoever asks whether one runs holds the lock for an instant
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if last:
                    message = f"A coordinator of {folder} runs already: process {file.read()}."
                    raise GemelError("GEM524", message) from error
                time.sleep(0.2)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
