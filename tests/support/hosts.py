"""Separate hosts on one machine: each with its own network, processes, mounts and name, on one switch.

    with hosts("coordinator", "alpha", "beta") as network:
        network["alpha"].run(["ping", "-c1", "coordinator"])
        service = network["coordinator"].start("web", ["python3", "-m", "http.server"], log=folder / "web.log")
        network["alpha"].cut(); network["alpha"].heal()
        network["beta"].weather(loss=0.3, delay_s=1.0)

A host is a set of namespaces that one process holds open. Nothing has a name outside: no bridge, no `/run/netns`, no
address of the machine itself is touched, so that two tests never meet and a test that is killed leaves nothing: its
hosts, and all that runs in them, die with it. Hosts reach each other and their own loopback, and nothing else.
They share the machine's files; `host.own_disk` gives one a disk of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from gemel.core.supervision import Process

SUPPORT = Path(__file__).parent
SUBNET = "10.77.0"
SWITCH = "switch"
_PR_SET_PDEATHSIG = 1
# A first process that buries orphans: without one they would stay as zombies.
_INIT = (
    "import os, signal, sys\n"
    "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    "print('ready', flush=True)\n"
    "while True: signal.pause()\n"
)
_OWN = ("--net", "--mount", "--uts", "--ipc", "--pid")


class HostProcess(Process):
    """A supervised process inside a host; `kill` ends what runs, and supervision starts it again."""

    @property
    def inner(self) -> psutil.Process | None:
        """The process itself, as seen from outside; None between two lives."""
        with contextlib.suppress(psutil.Error, IndexError):
            return psutil.Process(self.pid).children()[0]
        return None

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal, -9 unless told otherwise."""
        if (inner := self.inner) is not None:
            with contextlib.suppress(psutil.Error):
                inner.send_signal(number)

    def stop(self, *, timeout_s: float = 10.0) -> None:
        """Ask it, not the program that brought it into the host, to end; then make it."""
        self._stopping.set()
        self.kill(signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        while self.alive and time.monotonic() < deadline:
            time.sleep(0.05)
        super().stop(timeout_s=1.0)


@dataclass
class Host:
    """One host, by name and address. Its commands run as this user, with this machine's files."""

    name: str
    address: str
    pid: int  # of the process that holds it open
    switch: int  # of the process that holds the switch
    processes: list[HostProcess] = field(default_factory=list)
    _wire: subprocess.Popen[bytes] | None = None

    def enter(self, command: Sequence[str | Path]) -> list[str]:
        """The command that runs `command` inside."""
        return ["nsenter", "-t", str(self.pid), *_OWN, f"--wd={os.getcwd()}", "--", *map(str, command)]

    def run(self, command: Sequence[str | Path], *, timeout_s: float = 120.0, **options: Any) -> str:
        """Run to the end; returns stdout. Raises AssertionError with what it said when it fails."""
        result = subprocess.run(
            self.enter(command), capture_output=True, text=True, timeout=timeout_s, check=False, **options
        )
        assert result.returncode == 0, f"{self.name}: {command}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        restart: bool = False,
    ) -> HostProcess:
        """Start and supervise a process inside, as systemd would when `restart` is set."""
        process = HostProcess(name, self.enter(command), log=log, environment=environment, restart=restart)
        self.processes.append(process)
        process.start()
        return process

    def everything(self) -> list[psutil.Process]:
        """All processes inside, but the one that holds the host open."""
        own, found = os.readlink(f"/proc/{self.pid}/ns/pid"), []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                if process.pid != self.pid and os.readlink(f"/proc/{process.pid}/ns/pid") == own:
                    found.append(process)
        return found

    def find(self, *words: str) -> list[psutil.Process]:
        """The processes inside whose command line holds all these words."""
        found = []
        for process in self.everything():
            with contextlib.suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if line and all(word in line for word in words):
                    found.append(process)
        return found

    def power_off(self) -> None:
        """Kill every process inside, as a power cut does; supervision starts them again."""
        for process in self.everything():
            with contextlib.suppress(psutil.Error):
                process.kill()

    # --- the network ---------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Lose every frame from and to this host, silently: the cable is in, and nothing comes through."""
        self._ip("link", "set", self._port, "nomaster")

    def heal(self) -> None:
        """The end of `cut`."""
        self._ip("link", "set", self._port, "master", SWITCH)

    def weather(self, *, loss: float = 0.0, delay_s: float = 0.0, rate: float = 0.0, seed: int = 0) -> None:
        """Lose and delay frames each way, by `wire.py`; nothing told means a clear sky again.

        Args:
            loss: The part of frames that is lost, each way.
            delay_s: Seconds, one way.
            rate: Bytes per second, one way; 0 for no limit.
            seed: Of the losses.
        """
        self._clear()
        if not (loss or delay_s or rate):
            return
        bridge_end, wire_end = f"{self.name}.b", f"{self.name}.w"
        self._ip("link", "add", wire_end, "type", "veth", "peer", "name", bridge_end)
        self.cut()
        for end in (wire_end, bridge_end):
            self._ip("link", "set", end, "up")
        self._ip("link", "set", bridge_end, "master", SWITCH)
        told = {"--loss": loss, "--delay": delay_s, "--rate": rate, "--seed": seed}
        options = [word for name, value in told.items() for word in (name, str(value))]
        self._wire = subprocess.Popen(
            [
                *_in_network(self.switch),
                sys.executable,
                "-S",
                SUPPORT / "wire.py",
                self.name,
                wire_end,
                *options,
            ],
            stdout=subprocess.PIPE,
            preexec_fn=_die_with_parent,
        )
        assert self._wire.stdout is not None
        assert self._wire.stdout.readline() == b"ready\n"

    @property
    def _port(self) -> str:
        """The end of this host's cable that is in the switch."""
        return self.name if self._wire is None else f"{self.name}.b"

    def _clear(self) -> None:
        if self._wire is None:
            return
        self._wire.kill()
        self._wire.communicate()
        self._wire = None
        self._ip("link", "del", f"{self.name}.b")
        self.heal()

    def _ip(self, *words: str) -> None:
        subprocess.run([*_in_network(self.switch), "ip", *words], check=True, capture_output=True)

    # --- disk and clock ------------------------------------------------------------------------------------

    def own_disk(self, folder: Path, *, megabytes: int) -> Path:
        """Mount a disk of that size at a folder, inside only; returns the folder as it is seen from outside."""
        self.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "tmpfs", folder])
        return self.path(folder)

    def path(self, inside: Path) -> Path:
        """A path inside this host, as it is seen from outside."""
        return Path(f"/proc/{self.pid}/root{inside}")


def skewed(seconds: float, folder: Path) -> dict[str, str]:
    """The environment of a process whose wall clock is wrong by so much; its other clocks are right.

    A time namespace cannot shift the wall clock, so a small library, compiled into `folder`, does. Skips without a C
    compiler.
    """
    library = folder / "skew.so"
    if not library.exists():
        if (compiler := shutil.which("cc")) is None:
            pytest.skip("a wrong clock needs a C compiler")
        source = SUPPORT / "skew.c"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "SKEW_S": str(int(seconds))}


@contextmanager
def hosts(*names: str) -> Iterator[dict[str, Host]]:
    """Hosts of these names (at most 8 letters each) on one switch, each found by name from the others.

    Skips the test, with the reason, where this is not allowed.
    """
    if reason := why_not():
        pytest.skip(reason)
    assert all(len(name) <= 11 for name in names)
    holders: list[subprocess.Popen[bytes]] = []
    network: dict[str, Host] = {}
    try:
        switch = _hold(holders, "--net", "--mount")
        ip = [*_in_network(switch), "ip"]
        _do(*ip, "link", "add", SWITCH, "type", "bridge")
        _do(*ip, "link", "set", SWITCH, "up")
        for number, name in enumerate(names, start=1):
            pid = _hold(holders, *_OWN, "--mount-proc")
            network[name] = host = Host(name, f"{SUBNET}.{number}", pid, switch)
            _do(*ip, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
            _do(*ip, "link", "set", name, "master", SWITCH, "up")
            inside = [*_in_network(pid), "ip"]
            _do(*inside, "link", "set", "lo", "up")
            _do(*inside, "address", "add", f"{host.address}/24", "dev", "eth0")
            # One frame for each segment, as on a real cable: a lost one is 1,500 bytes, not 64,000.
            _do(*inside, "link", "set", "eth0", "up", "gso_max_segs", "1")
            host.run(["hostname", name])
        _write_names(network)
        yield network
    finally:
        running = [process for host in network.values() for process in host.processes]
        _all_at_once([process.stop for process in reversed(running)])
        for host in network.values():
            if host._wire is not None:
                host._wire.kill()
                host._wire.communicate()
        for holder in holders:
            holder.kill()
            holder.communicate()


@functools.cache
def why_not() -> str:
    """Why hosts cannot be made on this machine; empty when they can."""
    missing = [program for program in ("ip", "unshare", "nsenter", "mount") if shutil.which(program) is None]
    if missing:
        return f"separate hosts need {', '.join(missing)} (Debian: iproute2, util-linux)"
    trial = subprocess.run(
        ["unshare", *_OWN, "--fork", "--mount-proc", "ip", "link", "add", "trial", "type", "veth"],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if trial.returncode == 0 else f"separate hosts are not allowed here: {trial.stderr.strip()}"


def _hold(holders: list[subprocess.Popen[bytes]], *own: str) -> int:
    """Open namespaces and keep them open; returns the pid of their first process."""
    command = ["unshare", *own, "--fork", "--kill-child=KILL", sys.executable, "-IS", "-c", _INIT]
    holder = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, preexec_fn=_die_with_parent
    )
    holders.append(holder)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"ready\n"
    return psutil.Process(holder.pid).children()[0].pid


def _write_names(network: Mapping[str, Host]) -> None:
    lines = ["127.0.0.1 localhost", *(f"{host.address} {host.name}" for host in network.values())]
    for host in network.values():
        script = 'f=$(mktemp) && printf "%s\\n" "$@" >"$f" && mount --bind "$f" /etc/hosts && rm "$f"'
        host.run(["sh", "-c", script, "sh", *lines])


def _in_network(pid: int) -> list[str]:
    return ["nsenter", "-t", str(pid), "--net"]


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _all_at_once(calls: Sequence[Any]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
