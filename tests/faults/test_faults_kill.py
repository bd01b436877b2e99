"""kill -9 in the middle of a real Flower run: a hospital's node, its worker, the coordinator's parts."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import msgspec
import psutil
import pytest

from gemel.cli.demo.federation import Federation, run_study, running
from gemel.core.signing import SigningKey, sign_document
from gemel.core.study import Study
from gemel.privacy.accounting import price
from gemel.server.home import RunFolder

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

MakeStudy = Callable[..., Study]
Victims = Callable[[Federation], list[int]]


def _node(federation: Federation) -> list[int]:
    return [federation.processes["gamma"].pid]


def _worker(federation: Federation) -> list[int]:
    folder = str(federation.nodes["gamma"].folder)
    return _running("gemel.client_node.flower.worker", folder)


def _server_app(federation: Federation) -> list[int]:
    return _running("gemel.server.flower.server_app", federation.superlink.address)


def _superlink(federation: Federation) -> list[int]:
    return [federation.processes["superlink"].pid]


def _running(*words: str) -> list[int]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if all(word in line for word in words):
            found.append(process.pid)
    assert found, f"nothing runs {words}"
    return found


def _run_killing(
    federation: Federation, study: Study, victims: Victims, *, in_task: str = "train/3"
) -> tuple[RunFolder, dict[str, dict[str, Any]]]:
    document = sign_document("study", study.to_payload(), SigningKey.generate(), role="proposer")
    killed: list[int] = []
    with running(federation) as live:

        def watch(event: dict[str, Any]) -> None:
            if event["event"] == "task" and event["task"] == in_task and not killed:
                killed.extend(victims(live))
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)

        run = run_study(live, document, watch=watch, timeout_s=550.0)
    assert killed
    certificate = run.certificate
    assert certificate is not None
    assert certificate.payload["status"] == "complete"
    return run, {task["task"]: task for task in certificate.payload["tasks"]}


def _study(make_study: MakeStudy, *, rounds: int, patience_s: float) -> Study:
    training = msgspec.structs.replace(make_study().training, rounds=rounds)
    return make_study(training=training, round_timeout_s=patience_s)


def _assert_ledgers_cover(federation: Federation, study: Study, tasks: dict[str, dict[str, Any]]) -> None:
    """What left is charged; what is charged was charged once; the chain holds; the certificate says the same."""
    for site, home in federation.nodes.items():
        released = {t for t, entry in tasks.items() if site in [c["site"] for c in entry["contributions"]]}
        missed = {t for t, entry in tasks.items() if site in [m["site"] for m in entry["missing"]]}
        assert released | missed == set(study.tasks)
        with home.open_ledger() as ledger:
            charged = [entry.task for entry in ledger.entries() if entry.kind == "begun"]
            assert len(charged) == len(set(charged)), "a task was charged twice"
            assert released <= set(charged), "something left that was not charged"
            assert ledger.epsilon_spent() == price(study.charges(), delta=1e-5), "the study is charged whole"
            ledger.verify()


@pytest.mark.parametrize("patience_s", [8.0, 90.0], ids=["the round goes on", "the round waits"])
def test_a_node_killed_in_round_three_comes_back_with_a_true_ledger(
    federation: Federation, make_study: MakeStudy, patience_s: float
) -> None:
    study = _study(make_study, rounds=8, patience_s=patience_s)
    _, tasks = _run_killing(federation, study, _node)
    _assert_ledgers_cover(federation, study, tasks)
    missed = [t for t, entry in tasks.items() if entry["missing"]]
    if patience_s > 60:
        assert missed == []
    assert all(m["site"] == "gamma" for t in missed for m in tasks[t]["missing"])
    assert tasks["synthesise"]["missing"] == [], "it takes part again"


@pytest.mark.parametrize(
    "victims", [_worker, _server_app, _superlink], ids=["a node's worker", "the ServerApp", "the SuperLink"]
)
def test_a_killed_part_is_replaced_and_every_site_contributes_to_every_task(
    federation: Federation, make_study: MakeStudy, victims: Victims
) -> None:
    study = _study(make_study, rounds=4, patience_s=150.0)
    _, tasks = _run_killing(federation, study, victims)
    _assert_ledgers_cover(federation, study, tasks)
    assert all(entry["missing"] == [] for entry in tasks.values())
