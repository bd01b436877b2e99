"""A real Flower deployment on loopback: TLS, node keys, separate processes, small hospitals."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.supercore.fab import Fab

from gemel.cli.demo.federation import Federation, run_study, running
from gemel.core.certificate import check_certificate
from gemel.core.errors import GemelError
from gemel.core.signing import SigningKey, sign_document
from gemel.core.study import Study
from gemel.privacy.accounting import price
from gemel.server.run_check import check_run

MakeStudy = Callable[..., Study]


@pytest.fixture
def live(federation: Federation) -> Iterator[Federation]:
    with running(federation):
        yield federation


def _signed(study: Study) -> Any:
    return sign_document("study", study.to_payload(), SigningKey.generate(), role="proposer")


def test_three_hospitals_train_over_flower_and_no_submitted_code_runs(
    live: Federation, make_study: MakeStudy, tmp_path: Path
) -> None:
    study = make_study(quorum=3, round_timeout_s=60.0)
    run = run_study(live, _signed(study), watch=lambda _event: None, timeout_s=150.0)
    document = run.certificate
    assert document is not None
    assert document.payload["status"] == "complete"
    check_certificate(document)
    check_run(document, run.folder)
    for site, home in live.nodes.items():
        with home.open_ledger() as ledger:
            spent = ledger.epsilon_spent()
        assert spent == document.payload["sites"][site]["epsilon_spent"]
        assert spent == price(study.charges(), delta=1e-5)

    marker = tmp_path / "pwned"
    evil = f"open({str(marker)!r}, 'w').close()\n".encode()
    content, _ = build_fab_from_files(
        {
            "pyproject.toml": (
                b'[project]\nname="app"\nversion="0.1.0"\ndescription="x"\nlicense="Apache-2.0"\n'
                b'[tool.flwr.app]\npublisher="evil"\n[tool.flwr.app.components]\n'
                b'serverapp="evil:app"\nclientapp="evil:app"\n'
                b'[tool.flwr.app.config]\nstudy=""\napproval-timeout-s=1.0\n'
            ),
            "evil.py": evil,
        }
    )
    fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
    override = {"study": study.sha256, "approval-timeout-s": 4.0}
    with live.superlink._control() as control:
        request = StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto(override))
        run_id = int(control.client.StartRun(request).run_id)
    _wait_until_finished(live, run_id)
    assert not marker.exists()
    for home in live.nodes.values():
        assert not (home.folder / "flower" / "apps").exists(), "a bundle was unpacked"
        with home.open_ledger() as ledger:
            assert ledger.epsilon_spent() == price(study.charges(), delta=1e-5)


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_two_studies_run_at_once_each_to_its_own_certificate(live: Federation, make_study: MakeStudy) -> None:
    plain = make_study()
    noisy = {  # so that both fit a patient's budget
        "training": msgspec.structs.replace(plain.training, noise_multiplier=60.0),
        "privacy": msgspec.structs.replace(
            plain.privacy,
            count_noise_multiplier=60.0,
            metrics_noise_multiplier=90.0,
            marginals_noise_multiplier=120.0,
        ),
    }
    studies = [make_study(study_id=n, quorum=3, round_timeout_s=120.0, **noisy) for n in ("one", "two")]
    began: dict[str, list[str]] = {"one": [], "two": []}

    def run(study: Study) -> Any:
        def watch(event: dict[str, Any]) -> None:
            if event["event"] == "task":
                began[study.study_id].append(event["task"])
                if len(began[study.study_id]) == 2:
                    overlap.append(min(map(len, began.values())))

        return run_study(live, _signed(study), watch=watch, timeout_s=400.0)

    overlap: list[int] = []
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(run, studies))
    assert max(overlap) >= 1, "the one began before the other was done"
    for run_folder in runs:
        document = run_folder.certificate
        assert document is not None
        assert document.payload["status"] == "complete"
        check_certificate(document)
        check_run(document, run_folder.folder)
        assert all(task["missing"] == [] for task in document.payload["tasks"])
    for home in live.nodes.values():
        with home.open_ledger() as ledger:
            assert ledger.epsilon_spent() == price((*studies[0].charges(), *studies[1].charges()), delta=1e-5)


def _wait_until_finished(live: Federation, run_id: int) -> None:
    import time

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if live.superlink.run_status(run_id)[0] == "finished":
            return
        time.sleep(0.5)
    pytest.fail("the run did not end")


def test_a_study_that_is_not_on_record_is_not_run(federation: Federation) -> None:
    with pytest.raises(GemelError, match="GEM101"):
        federation.coordinator.run("../../etc")
