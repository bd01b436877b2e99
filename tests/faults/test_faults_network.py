"""The network between hospitals and coordinator: cut, healed, lossy, slow. A run ends true, whatever it does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from consortium import COORDINATOR, Consortium
from verdict import judge, missing

from gemel.core.study import Study

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

Watch = Callable[[dict[str, Any]], None]


def at(task: str, act: Callable[[], None]) -> Watch:
    """Act once, when a task is asked."""
    done: list[bool] = []

    def watch(event: dict[str, Any]) -> None:
        if event["event"] == "task" and event["task"] == task and not done:
            done.append(True)
            act()

    return watch


def both(*watches: Watch) -> Watch:
    def watch(event: dict[str, Any]) -> None:
        for one in watches:
            one(event)

    return watch


def cut_for(live: Consortium, host: str, seconds: float) -> Callable[[], None]:
    """Cut a host off now, and heal it later."""

    def act() -> None:
        live.network[host].cut()
        threading.Timer(seconds, live.network[host].heal).start()

    return act


@pytest.mark.parametrize("host", ["gamma", COORDINATOR])
def test_a_cut_that_heals_in_time_costs_nobody_a_round(live: Consortium, host: str) -> None:
    study = live.study(f"cut {host}", rounds=5, round_timeout_s=90.0)
    tasks = judge(live, study, live.run(study, watch=at("train/2", cut_for(live, host, 12.0)), timeout_s=240))
    assert missing(tasks) == {}


def test_a_hospital_cut_off_for_long_misses_rounds_and_takes_part_again(live: Consortium) -> None:
    study = live.study("cut for long", rounds=8, round_timeout_s=8.0)
    tasks = judge(
        live, study, live.run(study, watch=at("train/2", cut_for(live, "gamma", 12.0)), timeout_s=240)
    )
    assert {site for who in missing(tasks).values() for site in who} == {"gamma"}
    assert "train/2" in missing(tasks) or "train/3" in missing(tasks)
    assert "gamma" in _contributors(tasks, "synthesise/3"), "it takes part again"


def test_with_too_few_hospitals_left_a_run_stops_and_says_so_and_goes_on_when_they_are_back(
    live: Consortium,
) -> None:
    study = live.study("below quorum", rounds=4, quorum=3, round_timeout_s=10.0)

    def cut() -> None:
        for site in ("gamma", "delta"):
            live.network[site].cut()

    run = live.run(study, watch=at("train/2", cut), timeout_s=120)
    stopped = run.certificate
    assert stopped is not None
    assert stopped.payload["code"] == "GEM501"
    judge(live, study, run, complete=False)
    assert live.state(study) == "failed"
    for site in ("gamma", "delta"):
        live.network[site].heal()
    for _ in range(6):  # nodes notice that the cable is back within half a minute
        live.resume(study)
        live.follow(study, run, timeout_s=120)
        if live.state(study) == "finished":
            break
    tasks = judge(live, study, run)
    assert len(tasks["train/2"]["contributions"]) >= 3


def test_a_third_of_all_frames_lost_is_slower_and_nothing_else(live: Consortium) -> None:
    try:
        for number, site in enumerate(live.sites):
            live.network[site].weather(loss=0.3, seed=number)
        study = live.study("lossy", rounds=3, round_timeout_s=120.0)
        tasks = judge(live, study, live.run(study, timeout_s=280))
    finally:
        for site in live.sites:
            live.network[site].weather()
    # A connection that loses a third of its frames may stand still for longer than a round: whoever that hits is named.
    absent = [code for who in missing(tasks).values() for code in who.values()]
    assert set(absent) <= {"GEM502"}
    assert len(absent) <= 2, missing(tasks)


def test_two_seconds_of_latency_are_slower_and_nothing_else(live: Consortium) -> None:
    try:
        live.coordinator.weather(delay_s=1.0)
        study = live.study("far away", rounds=2, round_timeout_s=120.0)
        tasks = judge(live, study, live.run(study, timeout_s=280))
    finally:
        live.coordinator.weather()
    assert missing(tasks) == {}


def test_a_slow_hospital_is_not_waited_for_its_late_update_is_recorded_and_not_counted(
    live: Consortium,
) -> None:
    study = live.study("slow", rounds=6, round_timeout_s=8.0)
    node = live.services["delta"]

    def sleep_through_a_round() -> None:
        inner = node.inner
        assert inner is not None
        inner.suspend()
        threading.Timer(11.0, inner.resume).start()

    started = time.monotonic()
    tasks = judge(live, study, live.run(study, watch=at("train/2", sleep_through_a_round), timeout_s=120))
    assert time.monotonic() - started < 110
    assert {site for who in missing(tasks).values() for site in who} == {"delta"}
    assert "train/2" in missing(tasks)
    assert "delta" in _contributors(tasks, "synthesise/3")
    certificate = live.home.run(study.sha256).certificate
    assert certificate is not None
    late = {entry["task"]: entry for entry in certificate.payload["late"] if entry["site"] == "delta"}
    assert "train/2" in late, "what came late is named"


def _contributors(tasks: dict[str, dict[str, Any]], task: str) -> set[str]:
    return {contribution["site"] for contribution in tasks[task]["contributions"]}


def test_two_studies_run_at_once(live: Consortium) -> None:
    first, second = (live.study(f"at once {number}", rounds=4) for number in (1, 2))
    ended: list[tuple[Study, Any]] = []
    threads = [
        threading.Thread(target=lambda s=study: ended.append((s, live.run(s, timeout_s=200))))
        for study in (first, second)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ended) == 2
    spans = []
    for study, run in ended:
        assert missing(judge(live, study, run)) == {}
        times = [event["at"] for _, event in run.events() if event["event"] == "task"]
        spans.append((times[0], times[-1]))
    assert max(start for start, _ in spans) < min(end for _, end in spans), "they overlap"
