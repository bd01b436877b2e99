"""Kill -9 at random instants while a study runs, and the figures afterwards."""

from __future__ import annotations

import contextlib
import random
import statistics
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil
from consortium import COORDINATOR, Consortium

from gemel.core.mechanism import kind_of as kind_of_task

# What a process is, by words of its command line; the first that fits. "+" means: what it has forked.
KINDS = (
    ("nginx master", ("nginx: master",)),
    ("nginx worker", ("nginx: worker",)),
    ("SuperLink", ("gemel.server.flower.superlink_process",)),
    ("run starter", ("gemel.server.flower.run_starter",)),
    ("service", ("gemel.server.service",)),
    ("coordinator's supervisor", ("gemel", "federation", "start")),
    ("worker", ("gemel.client_node.worker",)),
    ("node", ("gemel", "node", "start")),
)
# What they fork keeps their command line: it is told by its depth.
FORKS = {"run starter": ("ServerApp",), "worker": ("study's worker", "task"), "node": ("node's child",)}


def kind_of(process: psutil.Process) -> str:
    """What a process is to the product; empty for anything else (a shell, a launcher's helper)."""
    with contextlib.suppress(psutil.Error):
        line = " ".join(process.cmdline())
        if "nsenter" in line.split(" ")[0]:
            return ""
        kind = next((name for name, words in KINDS if all(word in line for word in words)), "")
        depth, parent = 0, process.parent()
        while kind in FORKS and parent is not None and parent.cmdline() == process.cmdline():
            depth, parent = depth + 1, parent.parent()
        return FORKS[kind][min(depth, len(FORKS[kind])) - 1] if depth else kind
    return ""


@dataclass
class Kill:
    """One kill: who, where, in which phase, when, and after how many seconds its host was heard of again."""

    kind: str
    host: str
    phase: str
    at: float
    recovered_s: float | None = None


@dataclass
class Killer:
    """Kills while it is told what happens (`watch`).

    Args:
        consortium: Whom.
        seed: Of the victims and the instants.
        every_s: Seconds between two kills, on average.
        most: Stop after so many.
        only: Hosts to kill on; all when empty.
        phases: Kinds of tasks to kill in; all when empty.
    """

    consortium: Consortium
    seed: int
    every_s: float
    most: int = 10**9
    only: tuple[str, ...] = ()
    phases: tuple[str, ...] = ()
    kills: list[Kill] = field(default_factory=list)
    phase: str = ""
    _open: list[Kill] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _next: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def watch(self, event: dict[str, Any]) -> None:
        """Learn the phase; a new short phase is a reason to kill in it."""
        kind = event["event"]
        with self._lock:
            if kind == "started":
                self.phase = "hello"
                self._soon(1.0)
            elif kind == "task":
                new = kind_of_task(event["task"])
                if new != self.phase:
                    self.phase = new
                    self._soon(0.6)
            elif kind in ("release", "site", "late", "task_done", "finished"):
                self._heard(event)

    @contextmanager
    def killing(self) -> Iterator[Killer]:
        """Kill in the background."""
        self._stop.clear()
        self._next = time.monotonic() + self.random.uniform(0.0, self.every_s)
        thread = threading.Thread(target=self._work)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()
            self._open.clear()

    def _soon(self, within_s: float) -> None:
        self._next = min(self._next, time.monotonic() + self.random.uniform(0.0, within_s))

    def _heard(self, event: dict[str, Any]) -> None:
        for kill in list(self._open):
            if event["at"] > kill.at and kill.host in (COORDINATOR, event.get("site")):
                kill.recovered_s = event["at"] - kill.at
                self._open.remove(kill)

    def _work(self) -> None:
        while not self._stop.wait(0.02) and len(self.kills) < self.most:
            if time.monotonic() < self._next:
                continue
            with self._lock:
                self._next = time.monotonic() + self.random.expovariate(1 / self.every_s)
                phase = self.phase
            if phase and (not self.phases or phase in self.phases):
                self._kill(phase)

    def _kill(self, phase: str) -> None:
        names = list(self.only or self.consortium.network)
        # Mostly who has recovered: what is down already shows nothing new. One in six strikes the wounded.
        if self.random.random() > 1 / 6:
            with self._lock:
                wounded = {kill.host for kill in self._open}
            names = [name for name in names if name not in wounded]
        if COORDINATOR in names:
            names += [COORDINATOR] * max(0, len(names) - 2)  # it has as many processes as all hospitals
        if not names:
            return
        host = self.random.choice(names)
        found: dict[str, list[psutil.Process]] = defaultdict(list)
        for process in self.consortium.network[host].everything():
            if kind := kind_of(process):
                found[kind].append(process)
        if not found:
            return
        kind = self.random.choice(sorted(found))
        victim = self.random.choice(found[kind])
        with contextlib.suppress(psutil.Error):
            victim.kill()
            kill = Kill(kind, host, phase, time.time())
            with self._lock:
                self.kills.append(kill)
                self._open.append(kill)


def report(kills: Sequence[Kill]) -> str:
    """The figures: kills by process and by phase, seconds until the host was heard of again."""
    lines = [f"{len(kills)} kills -9"]
    lines.append("  by phase: " + _counted(kill.phase for kill in kills))
    for kind in sorted({kill.kind for kill in kills}):
        mine = [kill for kill in kills if kill.kind == kind]
        back = [kill.recovered_s for kill in mine if kill.recovered_s is not None]
        seconds = f"heard of again after {_spread(back)}" if back else "the study ended before"
        lines.append(f"  {kind:<26}{len(mine):>4}   {seconds}")
    back = [kill.recovered_s for kill in kills if kill.recovered_s is not None]
    if back:
        lines.append(f"  all: {len(back)} recoveries, {_spread(back)}")
    return "\n".join(lines)


def _spread(seconds: Sequence[float]) -> str:
    return f"median {statistics.median(seconds):.1f} s, at most {max(seconds):.1f} s"


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in Counter(names).most_common())
