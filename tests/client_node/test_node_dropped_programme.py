"""A programme's folder is dropped into an installation, no other file is touched, and the whole platform runs it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from dropped_programme import dropped_programme
from virtual_patients import MODEL, PASSED

from gemel.client_node import tasks
from gemel.client_node.audit.people import made_up_dataset
from gemel.client_node.audit.studies import usual_study
from gemel.client_node.audit.throwaway import signed, throwaway_node
from gemel.core.arrays import Arrays, check_arrays, unpack_arrays
from gemel.core.dataset import Dataset
from gemel.core.messages import HELLO, Status
from gemel.core.programme import Programme, TargetKind
from gemel.core.study import Study, parse_study
from gemel.core.synthesis_plan import ROUNDS
from gemel.privacy.noise import NoiseSource
from gemel.synthetic.cohort import VirtualCohort, sample
from gemel.synthetic.domain import domain_of
from gemel.synthetic.export import write
from gemel.synthetic.protocol import Summed, cohort_model, outcome
from gemel.synthetic.releases import declared_inputs, declared_release, starting_model
from gemel.synthetic.study_provenance import provenance_of_study
from gemel.synthetic.trajectory.study_rounds import trajectory_plan
from gemel.twins.installed import installed, make_twin
from gemel.twins.metrics import Score, metrics_from_tables
from gemel.twins.recalibration import recalibrate, recalibrate_locally
from gemel.twins.scores import is_risk

PATIENTS = 400
VISITS = msgspec.structs.replace(
    trajectory_plan(patients=60, epsilon=1.0, hospitals=1),
    rounds=2,
    local_steps=2,
    noise_multiplier=30.0,
    strata_noise_multiplier=30.0,
)


@pytest.fixture
def dropped(tmp_path: Path) -> Iterator[Programme]:
    with dropped_programme(tmp_path / "programmes") as found:
        yield found


def released(
    task: str, study: Study, programme: Programme, people: Dataset, inputs: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What a node computes for a task, checked as the gate checks it."""
    arrays = tasks.compute(
        task,
        study,
        programme,
        dataset=people,
        inputs=inputs,
        noisy_patients=float(PATIENTS),
        noise=NoiseSource.for_tests(1),
    )
    check_arrays(arrays, declared_release(task, programme, study=study))
    return arrays


def walked(
    programme: Programme, people: Dataset, folder: Path
) -> tuple[dict[str, dict[str, Score]], VirtualCohort]:
    """One round, an evaluation and a virtual cohort, each release as the gate declares it: the scores, and the cohort."""
    study = usual_study(programme)
    assert study.metrics_tables == len(programme.endpoints) > 0
    start = starting_model(study, programme)
    check_arrays(start, declared_inputs("train/1", programme, study=study))
    trained = released("train/1", study, programme, people, start)
    assert any(np.any(trained[name] != start[name]) for name in start)
    assert all(np.isfinite(array).all() for array in trained.values())

    twin = make_twin(programme)
    twin.load_arrays(trained)
    tables = released("evaluate", study, programme, people, trained)
    sigma = study.privacy.metrics_noise_multiplier
    scores = metrics_from_tables(twin, tables, noise_sigma=sigma)
    assert all(np.isfinite(score.value) for of in scores.values() for score in of.values())
    risks = {endpoint.name for endpoint in programme.endpoints if is_risk(programme, endpoint)}
    assert set(recalibrate(twin, tables, noise_sigma=sigma)) == risks
    assert set(recalibrate_locally(twin, people)) == risks

    domain = domain_of(programme)
    sums: dict[str, Summed] = {}
    chosen: Arrays = {}
    for task in ROUNDS:
        inputs = chosen if declared_inputs(task, programme, study=study) else {}
        check_arrays(inputs, declared_inputs(task, programme, study=study))
        sums[task] = Summed(released(task, study, programme, people, inputs), 1)
        chosen = outcome(study, domain, sums)
    provenance = provenance_of_study(study, sites=1, created="2026-01-01T00:00:00Z", noise="test")
    model = cohort_model(study, domain, chosen)
    cohort = sample(model, patients=60, seed=3, provenance=provenance, model_sha256=MODEL)
    days = cohort.time_years.astype(np.float64) * 365.25
    assert np.abs(days - np.rint(days)).max() < 1e-2
    write(cohort, folder, provenance=provenance, decision=PASSED)
    return scores, cohort


@pytest.mark.parametrize("programme", installed(), ids=lambda programme: programme.name)
def test_every_installed_programme_goes_the_whole_way(programme: Programme, tmp_path: Path) -> None:
    people = made_up_dataset(programme, patients=PATIENTS, seed=0)
    scores, cohort = walked(programme, people, tmp_path)
    assert set(scores) == {endpoint.name for endpoint in programme.endpoints}
    died = cohort.event[:, 0] == 1
    for j, name in enumerate(programme.target_names):
        kind = next(target.kind for target in programme.targets if target.name == name)
        if kind is TargetKind.DEATH:
            assert np.array_equal(cohort.targets[:, j] == 1, died)


def test_a_dropped_programme_goes_the_whole_way_with_every_kind_of_endpoint_and_target(
    dropped: Programme, tmp_path: Path
) -> None:
    people = made_up_dataset(dropped, patients=PATIENTS, seed=0)
    scores, cohort = walked(dropped, people, tmp_path / "cohort")
    assert set(scores["death"]) == {"auc_14d", "brier_14d", "auc_42d", "brier_42d", "integrated_brier"}
    assert set(scores["dead_or_dependent"]) == set(scores["dependent"]) == {"auc_42d", "brier_42d"}
    assert set(scores["diabetes"]) == {"auc_28d", "brier_28d"}
    assert set(scores["pressure"]) == {"rmse", "mean_error"}
    died = cohort.event[:, 0] == 1
    assert np.isnan(cohort.targets[died, 0]).all()
    assert np.isfinite(cohort.targets[~died]).any(axis=0).all()
    said = (tmp_path / "cohort" / "fhir" / "Observation.ndjson").read_text("utf-8").splitlines()
    later = [json.loads(line) for line in said]
    # On day 42, or on the last day before it that the target's tolerance allows.
    title = next(target.title for target in dropped.targets if target.name == "rankin")
    rankin = [o for o in later if o["code"]["text"] == title]
    assert all("2000-01-01" < o["effectiveDateTime"] <= "2000-02-12" for o in rankin)
    assert len(rankin) == np.isfinite(cohort.targets[:, dropped.target_names.index("rankin")]).sum()


def test_a_node_that_allows_it_releases_every_task_and_refuses_another_number_of_tables(
    dropped: Programme,
) -> None:
    programme = dropped
    with throwaway_node(programme) as node:
        study = usual_study(programme)
        document = signed(node.study(study, study_id="whole"))
        node.approve(document)
        for task in ("count", "train/1", "train/2", "evaluate", *ROUNDS[:2]):
            reply, got = node.ask(document, task)
            assert reply.status is Status.RELEASED, (task, reply.code)
            unpack_arrays(got.payload, declared_release(task, programme, study=study))
        short = signed(node.study(study, study_id="short", metrics_tables=4))
        node.approve(short)
        node.ask(short, "count")
        reply, _ = node.ask(short, "evaluate")
        assert (reply.status, reply.code) == (Status.REFUSED, "GEM307")


def test_a_node_releases_what_trajectories_need_as_declared_and_refuses_what_is_not_theirs(
    dropped: Programme,
) -> None:
    programme = dropped
    with throwaway_node(programme) as node:
        study = usual_study(programme)
        dearer = msgspec.structs.replace(study.privacy, epsilon=3.5)
        document = signed(node.study(study, study_id="visits", trajectories=VISITS, privacy=dearer))
        study = parse_study(document.payload)
        node.approve(document)
        for task in ("count", "visits/1", "visits/2", "strata"):
            reply, got = node.ask(document, task)
            assert reply.status is Status.RELEASED, (task, reply.code)
            unpack_arrays(got.payload, declared_release(task, programme, study=study))
        with node.home.open_ledger() as ledger:
            charged = ledger.charged(study.sha256, "visits/1")
            assert charged is not None
            reserved = ledger.reserved(study.sha256)
            assert reserved is not None
            assert reserved.charges == study.charges()
        other = signed(node.study(usual_study(programme), study_id="other"))
        node.approve(other)
        node.ask(other, "count")
        reply, got = node.send(node.envelope(other, "visits/2", b""))
        assert (reply.status, reply.code, got.payload) == (Status.REFUSED, "GEM404", b"")
        with node.home.open_ledger() as ledger:
            assert ledger.charged(other.payload_sha256, "visits/2") is None


def test_a_study_of_visits_is_refused_by_a_node_whose_programme_has_none() -> None:
    programme = next(one for one in installed() if one.visits is None)
    with throwaway_node(programme) as node:
        document = signed(node.study(usual_study(programme), trajectories=VISITS))
        reply, _ = node.send(node.envelope(document, HELLO))
        assert (reply.status, reply.code) == (Status.REFUSED, "GEM730")
