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
from small_study import small_study

from gemel.cli.demo.federation import Federation, create, run_study, running
from gemel.client_node.audit.people import write_export
from gemel.core.arrays import unpack_arrays
from gemel.core.certificate import check_certificate
from gemel.core.errors import GemelError
from gemel.core.signing import SigningKey, sign_document
from gemel.core.study import Study
from gemel.privacy.accounting import price
from gemel.server.registry.evaluation import loaded_twin, released_calibration, released_scores
from gemel.server.registry.twin_versions import read_version, twin_versions
from gemel.server.run_check import check_run
from gemel.synthetic.releases import travelling
from gemel.twins.programmes.stroke import PROGRAMME as STROKE

MakeStudy = Callable[..., Study]


@pytest.fixture
def live(federation: Federation) -> Iterator[Federation]:
    with running(federation):
        yield federation


@pytest.fixture
def of_stroke(tmp_path: Path) -> Iterator[Federation]:
    """Two made-up hospitals of the stroke programme, which has a grid in days, an ordinal target and an index diagnosis."""
    exports = {
        site: write_export(tmp_path / site, STROKE, patients=150, seed=number)
        for number, site in enumerate(("alpha", "beta"))
    }
    federation = create(
        tmp_path / "federation", exports, STROKE, epsilon_cap=5.0, delta=1e-5, minimum_patients=50
    )
    with running(federation):
        yield federation


def test_another_programme_trains_is_evaluated_and_tells_each_hospital_whether_it_fits(
    of_stroke: Federation,
) -> None:
    study = small_study(of_stroke.site_keys, of=STROKE, quorum=2, round_timeout_s=60.0)
    run = run_study(of_stroke, _signed(study), watch=lambda _event: None, timeout_s=150.0)
    document = run.certificate
    assert document is not None
    assert document.payload["status"] == "complete"
    check_run(document, run.folder)
    version = twin_versions(run)[-1]
    twin = loaded_twin(study, unpack_arrays(read_version(run, version), travelling(STROKE, study.strategy)))
    assert twin is not None
    scores, fits = released_scores(run, study, twin), released_calibration(run, study, twin)
    assert scores is not None
    assert fits is not None
    assert set(scores) == {endpoint.name for endpoint in STROKE.endpoints}
    assert {site: set(of) for site, of in fits.items()} == {site: set(scores) for site in study.sites}


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
            count_noise_multiplier=20.0,  # far from the floor of patients, so that chance stops no run
            metrics_noise_multiplier=90.0,
            synthesis_noise_multiplier=30.0,
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
