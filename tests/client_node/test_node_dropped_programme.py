"""A programme's folder is dropped into an installation, no other file is touched, and the whole platform runs it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from dropped_programme import dropped_programme

from gemel.client_node import tasks
from gemel.client_node.audit.people import made_up_dataset
from gemel.client_node.audit.studies import usual_study
from gemel.client_node.audit.throwaway import signed, throwaway_node
from gemel.core.arrays import check_arrays, unpack_arrays
from gemel.core.dataset import Dataset
from gemel.core.messages import Status
from gemel.core.programme import Programme
from gemel.core.study import Study
from gemel.privacy.noise import NoiseSource
from gemel.synthetic.cohort import fit, sample
from gemel.synthetic.export import write
from gemel.synthetic.marginals import sum_sites
from gemel.synthetic.releases import declared_inputs, declared_release, starting_model
from gemel.synthetic.study_provenance import provenance_of_study
from gemel.twins.installed import make_twin
from gemel.twins.metrics import metrics_from_tables
from gemel.twins.recalibration import recalibrate

PATIENTS = 400


@pytest.fixture
def programme(tmp_path: Path) -> Iterator[Programme]:
    with dropped_programme(tmp_path / "programmes") as found:
        yield found


@pytest.fixture
def people(programme: Programme) -> Dataset:
    return made_up_dataset(programme, patients=PATIENTS, seed=0)


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


def test_it_trains_is_evaluated_and_becomes_a_virtual_cohort(
    programme: Programme, people: Dataset, tmp_path: Path
) -> None:
    study = usual_study(programme)
    assert study.metrics_tables == len(programme.endpoints) == 5
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
    assert set(scores["death"]) == {"auc_14d", "brier_14d", "auc_42d", "brier_42d", "integrated_brier"}
    assert set(scores["dead_or_dependent"]) == set(scores["dependent"]) == {"auc_42d", "brier_42d"}
    assert set(scores["diabetes"]) == {"auc_28d", "brier_28d"}
    assert set(scores["pressure"]) == {"rmse", "mean_error"}
    assert set(recalibrate(twin, tables, noise_sigma=sigma)) == set(scores) - {"pressure"}

    marginals = released("synthesise", study, programme, people, {})
    model = fit(
        programme,
        sum_sites(programme, [marginals]),
        noise_multiplier=study.privacy.marginals_noise_multiplier,
        sites=1,
    )
    provenance = provenance_of_study(study, sites=1, created="2026-01-01T00:00:00Z", noise="test")
    cohort = sample(model, twin, patients=60, seed=3, provenance=provenance)
    died = cohort.event[:, 0] == 1
    assert np.isnan(cohort.targets[died, 0]).all()
    assert np.isfinite(cohort.targets[~died]).all()
    assert np.array_equal(cohort.targets[:, 3] == 1, died)
    days = cohort.time_years.astype(np.float64) * 365.25
    assert np.abs(days - np.rint(days)).max() < 1e-3
    write(cohort, tmp_path / "cohort", provenance=provenance)
    said = (tmp_path / "cohort" / "fhir" / "Observation.ndjson").read_text("utf-8").splitlines()
    later = [json.loads(line) for line in said]
    rankin = [o for o in later if o["effectiveDateTime"] == "2000-02-12"]  # day 42
    assert len(rankin) == (~died).sum()


def test_a_node_that_allows_it_releases_every_task_and_refuses_another_number_of_tables(
    programme: Programme,
) -> None:
    with throwaway_node(programme) as node:
        study = usual_study(programme)
        document = signed(node.study(study, study_id="whole"))
        node.approve(document)
        for task in ("count", "train/1", "train/2", "evaluate", "synthesise"):
            reply, got = node.ask(document, task)
            assert reply.status is Status.RELEASED, (task, reply.code)
            unpack_arrays(got.payload, declared_release(task, programme, study=study))
        short = signed(node.study(study, study_id="short", metrics_tables=4))
        node.approve(short)
        node.ask(short, "count")
        reply, _ = node.ask(short, "evaluate")
        assert (reply.status, reply.code) == (Status.REFUSED, "GEM307")
