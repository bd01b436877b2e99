"""kill -9 at a node in the middle of its answers: what it says afterwards, and what its ledger knows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from gemel.cli.demo.federation import Federation
from gemel.client_node import approvals, patients
from gemel.client_node.home import NodeHome
from gemel.core.canonical import canonical_bytes
from gemel.core.signing import SigningKey, sign_document
from gemel.core.strategy_plan import Personalisation, StrategyPlan
from gemel.core.study import Study
from gemel.twins.programmes.fatty_liver import PROGRAMME

MakeStudy = Callable[..., Study]
SITE = "beta"


LOCAL = StrategyPlan(personalisation=Personalisation.LOCAL_PARAMETERS, local_parameters=("level",))


@pytest.mark.parametrize("strategy", [StrategyPlan(), LOCAL], ids=["fedavg", "a local level"])
@pytest.mark.parametrize(
    ("kills", "seed"), [(10, 1), pytest.param(60, 2, marks=[pytest.mark.faults, pytest.mark.timeout(600)])]
)
def test_a_node_killed_at_any_instant_charges_once_and_never_says_two_things(
    federation: Federation,
    make_study: MakeStudy,
    tmp_path: Path,
    kills: int,
    seed: int,
    strategy: StrategyPlan,
) -> None:
    training = msgspec.structs.replace(make_study().training, rounds=2 * kills, noise_multiplier=100.0)
    study = make_study(training=training, strategy=strategy)
    document = sign_document("study", study.to_payload(), SigningKey.generate(), role="proposer")
    home: NodeHome = federation.nodes[SITE]
    dataset = patients.load(home, PROGRAMME)
    approvals.propose(home, document, snapshot=dataset.snapshot, patients=len(dataset))
    federation.approve(SITE, study.sha256)
    (tmp_path / "study.json").write_bytes(canonical_bytes(msgspec.to_builtins(document)))
    loop = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", str(Path(__file__).with_name("answer_loop.py"))),
            *(home.folder, federation.coordinator.folder, tmp_path / "study.json"),
            *("--kills", str(kills), "--seed", str(seed)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert loop.returncode == 0, loop.stderr
    result = json.loads(loop.stdout)
    print(result)
    assert result["tasks"] == result["charged"] == result["answered"] == len(study.tasks)
    # Not vacuous: nodes did die, some between a charge and its release, and were asked again.
    assert result["at writes"] >= 10
    assert result["at instants"] == kills
    assert result["died between"] >= 5
    assert result["lines"] >= 2 * len(study.tasks)
