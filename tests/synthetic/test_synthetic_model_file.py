"""A model of virtual cohorts as a file: made from a run's folder, read back, and nothing in it can be changed unseen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from in_process import start
from safetensors.numpy import load, save
from small_study import small_study

from gemel.cli.demo.federation import create
from gemel.core.arrays import pack_arrays
from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.signing import SigningKey, sign_document
from gemel.core.study import Study
from gemel.server.home import RunFolder
from gemel.synthetic.cohort import sample
from gemel.synthetic.model_file import CohortModel, check_model, fit_run, read_model, write_model
from gemel.synthetic.protocol import cohort_model
from gemel.twins.programmes.fatty_liver import PROGRAMME


def a_run(exports: dict[str, Path], folder: Path, **changes: object) -> RunFolder:
    """A finished run over three small hospitals."""
    federation = create(folder, exports, PROGRAMME, epsilon_cap=3.0, delta=1e-5, minimum_patients=50)
    coordinator, run, _ = start(federation, small_study(federation.site_keys, **changes))
    coordinator.run()
    return run


@pytest.fixture(scope="module")
def run(exports: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return a_run(exports, tmp_path_factory.mktemp("model_file") / "federation")


@pytest.fixture(scope="module")
def fitted(run: RunFolder) -> tuple[CohortModel, bytes]:
    return fit_run(run.folder)


@pytest.fixture
def file(fitted: tuple[CohortModel, bytes], tmp_path: Path) -> Path:
    path = tmp_path / "made" / "cohorts.safetensors"
    write_model(fitted[1], path)
    return path


def _refused(path: Path, *, deep: bool = False) -> str:
    with pytest.raises(GemelError) as caught:
        (check_model if deep else read_model)(path)
    return f"{caught.value.code}: {caught.value.message}"


def _changed(path: Path, *, arrays: dict[str, np.ndarray] | None = None, **header: object) -> Path:
    """The file with other arrays or another header, as somebody who knows the form would write it."""
    content = path.read_bytes()
    told = json.loads(
        json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["gemel"]
    )
    path.write_bytes(
        save({**load(content), **(arrays or {})}, metadata={"gemel": json.dumps({**told, **header})})
    )
    return path


def test_what_is_read_is_what_was_fitted_and_draws_the_same_patients(
    fitted: tuple[CohortModel, bytes], file: Path
) -> None:
    made, found = fitted[0], read_model(file)
    assert found.sha256 == made.sha256 == sha256_hex(file.read_bytes())
    assert found.provenance == made.provenance
    one, other = (
        sample(model.tree, patients=200, seed=4, provenance=model.provenance) for model in (made, found)
    )
    assert one.values.tobytes() == other.values.tobytes()
    assert one.time_years.tobytes() == other.time_years.tobytes()
    assert one.release == other.release


def test_the_model_is_the_one_that_the_coordinator_could_fit(
    run: RunFolder, fitted: tuple[CohortModel, bytes]
) -> None:
    model = fitted[0]
    assert isinstance(model.study, Study)
    again = cohort_model(model.study, model.tree.domain, run.load_synthesis("synthesise/3"))
    assert again.total == model.tree.total
    assert np.array_equal(again.state, model.tree.state)
    # 370 people, of whom a fifth is held out and some are of no cohort: an estimate, of two figures.
    assert model.patients_about == float(f"{again.total:.2g}")
    assert {name: table.sum() for name, table in model.tables.items()}.keys() == {
        q.name for q in model.tree.queries
    }


def test_a_file_that_holds_is_checked_to_the_ground(file: Path) -> None:
    found = dict(check_model(file))
    assert found.keys() == {"released tables", "provenance", "potentials"}
    assert "3 hospitals" in found["provenance"]


def test_its_provenance_names_the_study_and_its_certificate(
    run: RunFolder, fitted: tuple[CohortModel, bytes]
) -> None:
    statement = fitted[0].statement
    assert run.certificate is not None
    assert statement.certificate_sha256 == run.certificate.payload_sha256
    assert statement.study_sha256 == run.study.payload_sha256
    assert (statement.sites, statement.synthesis.noise) == (3, "secure")
    assert fitted[0].spent_before == 0.0
    assert fitted[0].honest_hospitals == 0


def test_what_a_researcher_pulls_gives_the_same_file(
    run: RunFolder, fitted: tuple[CohortModel, bytes], tmp_path: Path
) -> None:
    for name in ("certificate.json", "synthesise-3.safetensors"):
        shutil.copy(run.folder / name, tmp_path / name)
    assert fit_run(tmp_path)[1] == fitted[1]
    (tmp_path / "synthesise-3.safetensors").unlink()
    with pytest.raises(GemelError, match=r"GEM764.*synthesise-3"):
        fit_run(tmp_path)


def test_tables_that_the_certificate_does_not_name_are_not_fitted(run: RunFolder, tmp_path: Path) -> None:
    shutil.copy(run.folder / "certificate.json", tmp_path / "certificate.json")
    measured = {name: np.array(array) for name, array in run.load_synthesis("synthesise/3").items()}
    measured["tables"][0] += 1
    (tmp_path / "synthesise-3.safetensors").write_bytes(pack_arrays(measured))
    with pytest.raises(GemelError, match=r"GEM763.*not those that the certificate names"):
        fit_run(tmp_path)


def test_a_run_without_its_last_round_brings_no_model(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "synthesise-3.safetensors").write_bytes(
        (run.folder / "synthesise-3.safetensors").read_bytes()
    )
    with pytest.raises(GemelError, match=r"GEM764.*certificate.json"):
        fit_run(tmp_path)
    assert run.certificate is not None
    payload = dict(run.certificate.payload)
    stopped = {**payload, "status": "stopped", "code": "GEM510", "tasks": payload["tasks"][:-1]}
    document = sign_document("certificate", stopped, SigningKey.generate(), role="coordinator")
    (tmp_path / "certificate.json").write_bytes(document.to_bytes())
    with pytest.raises(GemelError, match=r"GEM764.*GEM510"):
        fit_run(tmp_path)


@pytest.mark.parametrize("name", ["released/tables", "released/levels", "released/hospitals"])
def test_another_released_table_is_found(file: Path, name: str) -> None:
    table = load(file.read_bytes())[name].copy()
    table[0] += 1
    assert "not those that the certificate names" in _refused(_changed(file, arrays={name: table}))


def test_potentials_of_another_shape_are_found_at_once(file: Path) -> None:
    state = load(file.read_bytes())["potential/state"]
    assert _refused(_changed(file, arrays={"potential/state": state[:-1]})).startswith("GEM763")
    assert _refused(_changed(file, arrays={"potential/state": state * np.nan})).startswith("GEM763")
    assert _refused(_changed(file, arrays={"else/where": state})).startswith("GEM763")


def test_potentials_that_do_not_follow_from_the_tables_are_found_by_fitting_again(file: Path) -> None:
    state = load(file.read_bytes())["potential/state"].copy()
    state[: len(state) // 2] += 0.2
    read_model(_changed(file, arrays={"potential/state": state}))
    assert "Fitted again" in _refused(file, deep=True)


def test_a_provenance_of_less_than_the_study_cost_is_found(file: Path) -> None:
    provenance = json.loads(json.dumps(read_model(file).provenance))
    provenance["synthesis"]["epsilon"] = 0.01
    _changed(file, provenance=provenance)
    assert "costs and says something else" in _refused(file, deep=True)
    provenance["certificate_sha256"] = "ab" * 32
    assert "another run" in _refused(_changed(file, provenance=provenance))
    provenance["synthesis"]["mechanisms"][0]["noise_multiplier"] = 0.0
    assert _refused(_changed(file, provenance=provenance)).startswith("GEM702")


def test_a_certificate_that_nobody_signed_is_found(file: Path) -> None:
    content = file.read_bytes()
    told = json.loads(
        json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["gemel"]
    )
    told["certificate"]["payload"]["quorum"] = 1
    assert _refused(_changed(file, certificate=told["certificate"])).startswith("GEM103")
    assert _refused(
        _changed(file, schema="gemel/cohort-model/9", certificate=told["certificate"])
    ).startswith("GEM763")


def test_what_is_no_model_is_refused_as_such(file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    for wrong in (b"", b"{}", content[: len(content) // 2], pack_arrays({"a": np.zeros(3)})):
        file.write_bytes(wrong)
        assert _refused(file).startswith("GEM763")
    assert _refused(tmp_path / "absent.safetensors").startswith("GEM763")
