"""kill -9 of a hospital's node in round 3 of a real Flower run; the supervisor starts it again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gemel.cli.demo.federation import Federation, run_study, running
from gemel.core.signing import SigningKey, sign_document
from gemel.core.study import Study
from gemel.privacy.accounting import epsilon

pytestmark = pytest.mark.faults


@pytest.mark.timeout(600)
@pytest.mark.parametrize("patience_s", [8.0, 90.0], ids=["round goes on without it", "round waits for it"])
def test_a_node_killed_in_round_three_comes_back_with_a_true_ledger(
    federation: Federation, make_study: Callable[..., Study], patience_s: float
) -> None:
    base = make_study()
    study = make_study(
        training=msgspec.structs.replace(base.training, rounds=8),
        round_timeout_s=patience_s,
    )
    document = sign_document("study", study.to_payload(), SigningKey.generate(), role="proposer")
    killed: list[int] = []

    with running(federation) as live:

        def watch(event: dict[str, Any]) -> None:
            if event["event"] == "task" and event["task"] == "train/3" and not killed:
                killed.append(live.processes["gamma"].pid)
                os.kill(killed[0], signal.SIGKILL)

        run = run_study(live, document, watch=watch, timeout_s=500.0)
        restarts = live.processes["gamma"].restarts
    certificate = run.certificate
    assert certificate is not None
    assert killed
    assert restarts >= 1
    tasks = {task["task"]: task for task in certificate.payload["tasks"]}
    released = [t for t, entry in tasks.items() if "gamma" in [c["site"] for c in entry["contributions"]]]
    missed = [t for t, entry in tasks.items() if "gamma" in [m["site"] for m in entry["missing"]]]
    assert sorted(released + missed) == sorted(study.tasks)
    if patience_s > 60:
        assert missed == []
    with federation.nodes["gamma"].open_ledger() as ledger:
        charged = {entry.task for entry in ledger.entries() if entry.mechanisms}
        assert set(released) <= charged, "everything that left was charged"
        mechanisms = [m for task in sorted(charged) for m in study.mechanisms(task)]
        assert ledger.epsilon_spent() == epsilon(mechanisms, delta=1e-5)
        ledger.verify()
