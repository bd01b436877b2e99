"""Machines: power that goes, disks that fill, clocks that are wrong. What comes back goes on where it was."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from consortium import COORDINATOR, FEDERATION, PROXY, Consortium
from hosts import Host, skewed
from verdict import judge, missing

from gemel.client_node.connection import read_connection
from gemel.client_node.home import NodeHome
from gemel.server.home import CoordinatorHome

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]

DAY_S = 86_400.0


def _at(task: str, act: Callable[[], None]) -> Callable[[dict[str, Any]], None]:
    done: list[bool] = []

    def watch(event: dict[str, Any]) -> None:
        if event["event"] == "task" and event["task"] == task and not done:
            done.append(True)
            act()

    return watch


@pytest.mark.parametrize("host", ["beta", COORDINATOR])
def test_a_machine_that_loses_power_comes_back_and_the_run_goes_on(live: Consortium, host: str) -> None:
    study = live.study(f"power of {host}", rounds=5, round_timeout_s=90.0)
    watch = _at("train/2", live.network[host].power_off)
    tasks = judge(live, study, live.run(study, watch=watch, timeout_s=240))
    assert missing(tasks) == {}


@pytest.mark.parametrize("ahead_s", [DAY_S, -DAY_S], ids=["a day ahead", "a day behind"])
def test_a_hospital_whose_clock_is_wrong_is_left_out_until_it_is_right(
    live: Consortium, tmp_path: Path, ahead_s: float
) -> None:
    live.services.pop("delta").stop()
    live.start_node("delta", environment=skewed(ahead_s, tmp_path))
    try:
        study = live.study(f"clock {ahead_s:+.0f}", rounds=3, round_timeout_s=8.0)
        run = live.submit(study, patience_s=20.0)
        tasks = judge(live, study, live.follow(study, run, timeout_s=200))
        told = read_connection(live.nodes["delta"].folder)
    finally:
        live.services.pop("delta").stop()
        live.start_node("delta")
    assert {site for who in missing(tasks).values() for site in who} <= {"delta"}
    assert told is not None
    assert told.standing != "connected", "the hospital is told that it is not connected"
    after = live.study(f"clock right after {ahead_s:+.0f}", rounds=2, round_timeout_s=60.0)
    assert missing(judge(live, after, live.run(after, timeout_s=200))) == {}


@contextmanager
def _filled(folder: Path) -> Iterator[None]:
    """A disk with not one byte left."""
    ballast = folder / "ballast"
    try:
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))
        yield
    finally:
        ballast.unlink(missing_ok=True)


def _bring_back(host: Host, seen: Path, folder: Path) -> None:
    """Take the disk out again, with what is on it copied to where the home was before."""
    aside = folder.with_name(f"{folder.name}.aside")
    shutil.copytree(seen, aside)
    host.run(["umount", folder])
    # Not before: removing a folder takes away what other hosts have mounted on it.
    shutil.rmtree(folder)
    aside.rename(folder)


def test_a_hospital_whose_disk_is_full_says_so_and_takes_part_again_when_there_is_space(
    live: Consortium,
) -> None:
    folder = live.folder / "nodes" / "gamma"
    live.services.pop("gamma").stop()
    seen = live.network["gamma"].own_disk(folder, megabytes=64)
    shutil.copytree(folder, seen, dirs_exist_ok=True)
    live.nodes["gamma"] = NodeHome.open(seen)
    live.start_node("gamma")
    study = live.study("hospital's disk", rounds=8, round_timeout_s=10.0)
    with contextlib.ExitStack() as stack:

        def watch(event: dict[str, Any]) -> None:
            if event["event"] == "task" and event["task"] == "train/2":
                stack.enter_context(_filled(seen))
            if event["event"] == "task" and event["task"] == "train/5":
                stack.close()

        run = live.run(study, watch=watch, timeout_s=240)
    live.services.pop("gamma").stop()
    _bring_back(live.network["gamma"], seen, folder)
    live.nodes["gamma"] = NodeHome.open(folder)
    live.start_node("gamma")
    tasks = judge(live, study, run)
    gone = {task: who for task, who in missing(tasks).items()}
    assert "train/3" in gone, "nothing can be charged on a full disk"
    assert all(set(who) == {"gamma"} for who in gone.values())
    assert "synthesise/3" not in gone, "it takes part again"


def test_a_coordinator_whose_disk_is_full_goes_on_when_there_is_space(live: Consortium) -> None:
    folder = live.home.folder
    for name in (PROXY, FEDERATION):
        live.services.pop(name).stop()
    seen = live.coordinator.own_disk(folder, megabytes=256)
    shutil.copytree(folder, seen, dirs_exist_ok=True)
    live.home = CoordinatorHome(seen)
    live.start_coordinator()
    study = live.study("coordinator's disk", rounds=6, round_timeout_s=60.0)
    with contextlib.ExitStack() as stack:
        full_since = [0.0]

        def watch(event: dict[str, Any]) -> None:
            if event["event"] == "task" and event["task"] == "train/2" and not full_since[0]:
                stack.enter_context(_filled(seen))
                full_since[0] = time.monotonic()

        def relieve() -> bool:
            if full_since[0] and time.monotonic() - full_since[0] > 15:
                stack.close()
            return False

        live.run(study, watch=watch, tick=relieve, timeout_s=300)
    assert full_since[0]
    for name in (PROXY, FEDERATION):
        live.services.pop(name).stop()
    _bring_back(live.coordinator, seen, folder)
    live.home = CoordinatorHome(folder)
    live.start_coordinator()
    assert missing(judge(live, study, live.home.run(study.sha256))) == {}
