"""Hospitals on different clocks: nobody waits for the slow one, its update counts less, each does its rounds once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import certificate, missing
from light_nodes import Delivery, LightFederation, Schedule, at_once, light_federation

from gemel.core.certificate import check_certificate
from gemel.core.errors import GemelError
from gemel.core.messages import Envelope, Request
from gemel.core.strategy_plan import Pace
from gemel.server.home import RunFolder
from gemel.server.mapped import map_arrays
from gemel.server.run_check import check_run


class Killed(BaseException):
    """The coordinator's process ends here."""


def _paced(seconds: dict[str, float]) -> Schedule:
    """Sites that take so long for each round of training."""

    def schedule(site: str, request: Request, reply: Envelope) -> Sequence[Delivery]:
        return [(seconds[site] if request.task.startswith("train/") else 0.01, reply)]

    return schedule


FAST_AND_SLOW = {"site0": 1.0, "site1": 1.1, "site2": 4.5}


def _federation(folder: Path, *, buffer: int, rounds: int = 4, **changes: object) -> LightFederation:
    return light_federation(folder, rounds=rounds, pace=Pace(buffer=buffer), **changes)


def _versions(run: RunFolder) -> list[dict[str, Any]]:
    last = [task for task in certificate(run)["tasks"] if task["task"].startswith("train/")][-1]
    versions: list[dict[str, Any]] = last["versions"]
    return versions


def _true(run: RunFolder) -> None:
    document = run.certificate
    assert document is not None
    check_certificate(document)
    check_run(document, run.folder)


def test_the_twin_moves_when_the_buffer_is_full_and_says_who_was_in_it_how_stale(tmp_path: Path) -> None:
    federation = _federation(tmp_path, buffer=2)
    coordinator, run, network = federation.start(_paced(FAST_AND_SLOW))
    coordinator.run()
    versions = _versions(run)
    parts = [(part["site"], part["task"]) for version in versions for part in version["contributions"]]
    assert [len(version["contributions"]) for version in versions] == [2] * 6
    assert sorted(parts) == sorted((s, f"train/{r}") for s in federation.nodes for r in range(1, 5))
    staleness = {
        (part["site"], part["task"]): part["staleness"] for v in versions for part in v["contributions"]
    }
    assert staleness["site0", "train/1"] == 0
    assert staleness["site2", "train/1"] == 4, "the twin moved four times while it trained"
    assert Counter(network.asked)["site2", "train/1"] == 1
    # Eight rounds of the fast ones and then two more of the slow one, not four rounds of waiting for the slowest.
    assert federation.clock.now < 4 * 4.5 + 2
    _true(run)


def test_a_stale_update_moves_the_twin_less(tmp_path: Path) -> None:
    federation = _federation(tmp_path, buffer=1, rounds=1)
    coordinator, run, _ = federation.start(_paced({"site0": 1.0, "site1": 1.1, "site2": 9.0}))
    coordinator.run()
    first, second, third = _versions(run)
    assert [v["contributions"][0]["staleness"] for v in (first, second, third)] == [0, 1, 2]
    models = [map_arrays(run.folder / f"model-{n:04d}.safetensors") for n in range(4)]
    for version, site in ((2, "site1"), (3, "site2")):
        update = run.map_release("train/1", site)
        for name, before in models[version - 1].items():
            moved = models[version][name] - before
            own = update[name] - models[0][name]
            np.testing.assert_allclose(moved, version**-0.5 * own, rtol=1e-3, atol=1e-6)


def test_a_site_that_falls_silent_does_not_hold_the_others_and_is_named(tmp_path: Path) -> None:
    def silent(site: str, request: Request, reply: Envelope) -> Sequence[Delivery]:
        gone = site == "site2" and request.task in ("train/2", "train/3", "train/4")
        return [] if gone else [(1.0, reply)]

    federation = _federation(tmp_path, buffer=2)
    coordinator, run, _ = federation.start(silent)
    coordinator.run()
    done = {task["task"]: task for task in certificate(run)["tasks"]}
    assert missing(done["train/1"]) == {}
    assert all(missing(done[f"train/{r}"]) == {"site2": "GEM502"} for r in (2, 3, 4))
    assert missing(done["evaluate"]) == {}, "it takes part again"
    assert done["train/2"]["missing"][0]["request_sha256"] != ""
    assert done["train/3"]["missing"][0]["request_sha256"] == "", "it was not asked for more"
    (left_over,) = done["train/4"]["unused"]
    assert (left_over["task"], left_over["staleness"]) == ("train/4", 0) or left_over["site"] != "site2"
    assert federation.clock.now < 30
    _true(run)


def test_a_site_that_comes_back_before_the_others_are_done_goes_on(tmp_path: Path) -> None:
    def slow_once(site: str, request: Request, reply: Envelope) -> Sequence[Delivery]:
        first = (site, request.task) == ("site2", "train/1")
        return [(25.0 if first else 7.0, reply)]  # 20 s is the round's time

    federation = _federation(tmp_path, buffer=2)
    coordinator, run, _ = federation.start(slow_once)
    coordinator.run()
    done = {task["task"]: task for task in certificate(run)["tasks"]}
    assert all(missing(done[f"train/{r}"]) == {} for r in range(1, 5))
    _true(run)


@pytest.mark.parametrize("at", [3, 6, 9])
def test_a_coordinator_killed_among_rounds_asks_the_same_again_and_makes_the_same_twins(
    tmp_path: Path, at: int
) -> None:
    federation = _federation(tmp_path, buffer=2)
    came = 0

    def kill(site: str, request: Request, reply: Envelope) -> Sequence[Delivery]:
        nonlocal came
        came += request.task.startswith("train/")
        if came == at and request.task.startswith("train/"):
            came += 100
            raise Killed
        return _paced(FAST_AND_SLOW)(site, request, reply)

    with pytest.raises(Killed):
        federation.start(kill)[0].run()
    released = {site: dict(node.released) for site, node in federation.nodes.items()}
    coordinator, run, _ = federation.start(_paced(FAST_AND_SLOW))
    coordinator.run()
    assert certificate(run)["status"] == "complete"
    for site, node in federation.nodes.items():
        assert released[site].items() <= node.released.items(), "the same request was asked again"
        assert set(node.released) == set(federation.study.tasks)
    assert all(missing(task) == {} for task in certificate(run)["tasks"])
    _true(run)


def test_too_few_sites_in_the_twin_stop_the_run_and_it_can_go_on(tmp_path: Path) -> None:
    def only_one(site: str, request: Request, reply: Envelope) -> Sequence[Delivery]:
        return [] if site != "site0" and request.task.startswith("train/") else at_once(site, request, reply)

    federation = _federation(tmp_path, buffer=1)
    coordinator, run, _ = federation.start(only_one)
    with pytest.raises(GemelError, match="^GEM501 "):
        coordinator.run()
    payload = certificate(run)
    assert (payload["status"], payload["code"], payload["model_sha256"]) == ("stopped", "GEM501", "")
    assert len(payload["asynchronous"]["versions"]) == 4
    federation.start()[0].run()
    assert certificate(run)["status"] == "complete"
    assert len(_versions(run)) == 12
    _true(run)


def test_what_a_strategy_remembered_is_kept_as_long_as_a_site_trains_from_it(tmp_path: Path) -> None:
    from gemel.core.strategy_plan import Algorithm, StrategyPlan

    plan = StrategyPlan(algorithm=Algorithm.FEDADAM, server_learning_rate=0.1)
    federation = _federation(tmp_path, buffer=1, strategy=plan)
    coordinator, run, _ = federation.start(_paced({"site0": 1.0, "site1": 1.1, "site2": 10.0}))
    coordinator.run()
    assert len(_versions(run)) == 12
    _true(run)
