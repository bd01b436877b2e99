"""Two hundred rounds of one study: memory and descriptors stay flat, disks grow by what a round leaves and no more."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil
import pytest
from consortium import COORDINATOR, Consortium
from kills import kind_of
from verdict import judge, missing

ROUNDS = int(os.environ.get("GEMEL_SOAK_ROUNDS", "200"))
EVERY = max(1, ROUNDS // 20)
WARM = ROUNDS // 4

Sample = dict[str, tuple[float, float]]  # process -> MB of its own (PSS), descriptors

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1500)]


def test_two_hundred_rounds_leak_nothing(live: Consortium, figures: list[str]) -> None:
    study = live.study("soak", rounds=ROUNDS, round_timeout_s=60.0)
    samples: dict[int, Sample] = {}
    disks: dict[int, dict[str, float]] = {}

    def watch(event: dict[str, Any]) -> None:
        if event["event"] == "task_done" and event["task"].startswith("train/"):
            number = int(event["task"].split("/")[1])
            if number % EVERY == 0:
                samples[number] = _processes(live)
                disks[number] = _disks(live)

    started = time.monotonic()
    tasks = judge(live, study, live.run(study, watch=watch, timeout_s=1400))
    seconds = time.monotonic() - started
    assert missing(tasks) == {}
    rounds = [tasks[f"train/{number}"]["seconds"] for number in range(1, ROUNDS + 1)]
    figures.append(
        f"soak: {ROUNDS} rounds in {seconds:.0f} s; a round {sorted(rounds)[ROUNDS // 2]:.2f} s, "
        f"of the first twenty {sum(rounds[:20]) / 20:.2f} s, of the last {sum(rounds[-20:]) / 20:.2f} s"
    )
    first, last = min(number for number in samples if number >= WARM), max(samples)
    for name in sorted(samples[last]):
        before, after = samples[first].get(name), samples[last][name]
        if before is None:
            continue
        figures.append(
            f"  {name:<34} {before[0]:6.1f} -> {after[0]:6.1f} MB, {before[1]:.0f} -> {after[1]:.0f} descriptors"
        )
        assert after[0] < before[0] * 1.1 + 10.0, f"{name} grows: {before} -> {after}"
        assert after[1] <= before[1] + 8, f"{name} keeps descriptors: {before} -> {after}"
    middle = min(disks, key=lambda number: abs(number - (first + last) / 2))
    for name in sorted(disks[last]):
        early = (disks[middle][name] - disks[first][name]) / (middle - first)
        late = (disks[last][name] - disks[middle][name]) / (last - middle)
        figures.append(f"  disk of {name:<26} {early:6.1f} kB a round, then {late:6.1f}")
        assert late < early * 1.5 + 20.0, f"{name}'s disk grows faster and faster"


def _processes(live: Consortium) -> Sample:
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for name, host in live.network.items():
        where = COORDINATOR if name == COORDINATOR else "hospital"
        for process in host.everything():
            try:
                if (kind := kind_of(process)) and kind != "task":
                    memory = process.memory_full_info().pss / 1e6
                    found[f"{where}: {kind}"].append((memory, process.num_fds()))
            except (psutil.Error, OSError):
                continue
    # Of four hospitals the largest; of several of a kind at the coordinator, too.
    return {name: (max(m for m, _ in seen), max(d for _, d in seen)) for name, seen in found.items()}


def _disks(live: Consortium) -> dict[str, float]:
    """kB in each home, and of its parts at a hospital and at the coordinator that grow by design."""
    return {
        "coordinator": _kilobytes(live.home.folder),
        "a hospital": _kilobytes(live.nodes["alpha"].folder),
    }


def _kilobytes(folder: Path) -> float:
    total = 0
    for path in folder.rglob("*"):
        try:
            if path.is_file() and not path.is_symlink():
                total += path.stat().st_blocks * 512
        except OSError:
            continue
    return total / 1e3
