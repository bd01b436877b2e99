"""Two studies at once, two hundred rounds, models of many megabytes."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from in_process import Clock, certificate
from light_nodes import Delivery, LightFederation, LightNode, light_federation

from gemel.core.certificate import check_certificate
from gemel.core.messages import Envelope, Request
from gemel.server.anchors import Anchors
from gemel.server.run_check import check_run


def test_two_studies_run_at_once_on_one_home_and_its_store(tmp_path: Path) -> None:
    first = light_federation(tmp_path, rounds=5)
    keys = {site: node.key for site, node in first.nodes.items()}
    study = msgspec.structs.replace(first.study, study_id="second")
    nodes = {site: LightNode(site, key, study) for site, key in keys.items()}
    second = LightFederation(first.home, study, nodes, Clock())
    runs = [federation.start()[:2] for federation in (first, second)]
    threads = [threading.Thread(target=coordinator.run) for coordinator, _ in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _, run in runs:
        assert certificate(run)["status"] == "complete"
        document = run.certificate
        assert document is not None
        check_certificate(document)
        check_run(document, run.folder)
    heads = Anchors(first.home.open_store()).all()
    assert {head.seq for head in heads.values()} == {1 + len(study.tasks)}


@pytest.mark.parametrize(
    "rounds", [40, pytest.param(200, marks=[pytest.mark.heavy, pytest.mark.timeout(1800)])]
)
def test_the_memory_of_a_coordinator_stays_flat_over_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: int
) -> None:
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)
    federation = light_federation(tmp_path, rounds=rounds)
    after: dict[int, int] = {}

    def look(_site: str, request: Request, reply: Envelope) -> Sequence[Delivery]:
        number = int(request.task.removeprefix("train/")) if request.task.startswith("train/") else 0
        if number in (20, rounds):
            after[number] = tracemalloc.get_traced_memory()[0]
        for node in federation.nodes.values():  # the nodes are here too, and theirs is not measured
            node.outbox.clear()
        return [(0.001, reply)]

    coordinator, run, _ = federation.start(look)
    tracemalloc.start()
    try:
        coordinator.run()
    finally:
        tracemalloc.stop()
    assert certificate(run)["status"] == "complete"
    # What grows is one entry of state for each task and site, some 1.5 kB: not a model, not a release (2.5 kB each here).
    # Caches fill once on the way, some 100 kB.
    grown = after[rounds] - after[20]
    assert grown < 100_000 + (rounds - 20) * 3 * 2400, f"{grown} bytes over {rounds - 20} rounds"
