"""What the demo shows while it runs: a live table of the hospitals on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

BLOCKS = 20


class Screen:
    """Follows a demo run on stderr. `step` names a stage; `watch` takes the coordinator's events."""

    def __init__(self, sites: dict[str, str], *, tasks: int, epsilon_cap: float) -> None:
        self._console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._sites = sites
        self._tasks, self._cap = tasks, epsilon_cap
        self._done, self._task = 0, "waiting for the hospitals"
        self._state = dict.fromkeys(sites, "starting")
        self._epsilon = dict.fromkeys(sites, 0.0)
        self._bytes = dict.fromkeys(sites, 0)
        self._live: Live | None = None

    def __enter__(self) -> Screen:
        if self._console.is_terminal:
            self._live = Live(self._table(), console=self._console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.update(self._table())
            self._live.stop()

    def watch(self, event: dict[str, Any]) -> None:
        """Take in one event of the run."""
        kind, site = event["event"], event.get("site", "")
        if kind == "site":
            self._state[site] = {"pending": "study waits for the steward"}.get(
                event["status"], event["status"]
            )
        elif kind == "approved":
            self._state[site] = "approved"
            self._line(f"{self._sites[site]}: study approved (the demo approves on the steward's behalf)")
        elif kind == "task":
            self._task = describe(event["task"])
            self._state.update(dict.fromkeys(self._sites, "working"))
        elif kind == "release":
            self._state[site] = "released"
            self._epsilon[site] = event["epsilon"]
            self._bytes[site] += event["bytes"]
        elif kind in ("away", "missing"):
            self._state[site] = f"{kind} {event.get('code', '')}".strip()
            self._line(f"{self._sites[site]}: {self._state[site]} in {describe(event['task'])}")
        elif kind == "task_done":
            self._done += 1
            spent = ", ".join(f"{s} ε {e:.2f}" for s, e in sorted(event["epsilon"].items()))
            names = ", ".join(c["site"] for c in event["contributions"])
            self._line(
                f"{describe(event['task']):<22} {names}   {event['seconds']:4.1f} s   {spent}", live=False
            )
        elif kind == "interrupted":
            self._line("the coordinator's run ended early; it goes on from the last completed task")
        if self._live is not None:
            self._live.update(self._table())

    def _line(self, text: str, *, live: bool = True) -> None:
        if self._live is None or live:
            self._console.print(text)

    def _table(self) -> Table:
        filled = round(BLOCKS * self._done / self._tasks)
        title = f"{'█' * filled}{'░' * (BLOCKS - filled)}  {self._done}/{self._tasks}  {self._task}"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for heading in ("hospital", "state", "spent", "left the hospital"):
            table.add_column(heading)
        for site, title in self._sites.items():
            spent = f"ε {self._epsilon[site]:.2f} of {self._cap:g}"
            table.add_row(title, self._state[site], spent, f"{self._bytes[site]:,} bytes")
        return table


def describe(task: str) -> str:
    """A task in words.

    >>> describe("train/3")
    'training, round 3'
    """
    names = {
        "count": "counting (noised)",
        "evaluate": "evaluation (noised)",
        "synthesise/1": "each column (noised)",
        "synthesise/2": "which go together (noised)",
        "synthesise/3": "marginals (noised)",
    }
    return names.get(task, task.replace("train/", "training, round "))


@contextmanager
def step(number: int, text: str) -> Iterator[None]:
    """Say what a stage of the demo does, and how long it took."""
    console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
    started = time.monotonic()
    console.print(f"[bold]{number}.[/bold] {text}")
    yield
    console.print(f"   [dim]{time.monotonic() - started:.1f} s[/dim]")
