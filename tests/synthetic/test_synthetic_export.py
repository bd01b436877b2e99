import copy
import csv
import dataclasses
import hashlib
import json

import numpy as np
import pytest
from cardiometabolic import PROGRAMME
from pyarrow import parquet

from gemel.core.errors import GemelError
from gemel.synthetic.cohort import sample
from gemel.synthetic.export import write
from gemel.synthetic.fhir import HTEST, first_verified_code, own_concept, patient_ids, resources
from gemel.synthetic.fhir_check import check_resources, references


@pytest.fixture(scope="module")
def everything(cohort):
    return list(resources(cohort))


def test_every_resource_is_marked_synthetic(everything):
    assert all(HTEST in r["meta"]["security"] for r in everything)
    assert all({"system": "urn:gemel:tag", "code": "synthetic"} in r["meta"]["tag"] for r in everything)


def test_every_reference_leads_to_a_resource_of_the_cohort(everything):
    known = {f"{r['resourceType']}/{r['id']}" for r in everything}
    assert len(known) == len(everything)
    assert {ref for r in everything for ref in references(r)} <= known


def test_each_patient_has_a_first_and_a_last_encounter_and_one_provenance_names_all(cohort, everything):
    kinds = [r["resourceType"] for r in everything]
    assert kinds.count("Patient") == len(cohort)
    assert kinds.count("Encounter") == 2 * len(cohort)
    assert kinds.count("Provenance") == 1
    assert len(everything[-1]["target"]) == len(cohort)


def test_deaths_are_dated_and_only_deaths(cohort, everything):
    patients = [r for r in everything if r["resourceType"] == "Patient"]
    assert [("deceasedDateTime" in p) for p in patients] == (cohort.event[:, 0] == 1).tolist()


def test_ids_depend_on_the_seed_alone(cohort, model, twin, provenance):
    again = sample(model, twin, patients=len(cohort), seed=cohort.seed, provenance=provenance)
    other = sample(model, twin, patients=len(cohort), seed=cohort.seed + 1, provenance=provenance)
    assert list(resources(again)) == list(resources(cohort))
    assert not set(patient_ids(other)) & set(patient_ids(cohort))


def test_missing_values_have_no_observation_and_missing_sex_is_unknown(cohort, everything):
    bmi = PROGRAMME.feature_names.index("body_mass_index_kg_m2")
    code = first_verified_code(PROGRAMME, "body_mass_index").code
    found = [r for r in everything if r["resourceType"] == "Observation" and code in str(r["code"])]
    assert len(found) == np.sum(~np.isnan(cohort.values[:, bmi]))
    values = cohort.values.copy()
    values[0, 1] = np.nan
    assert next(resources(dataclasses.replace(cohort, values=values)))["gender"] == "unknown"


def test_fhir_resources_accepts_a_sample_of_each_type(everything):
    import importlib

    for kind in ("Patient", "Encounter", "Condition", "Observation", "Provenance"):
        model_class = getattr(importlib.import_module(f"fhir.resources.R4B.{kind.lower()}"), kind)
        some = [r for r in everything if r["resourceType"] == kind][:15]
        assert some
        for resource in some:
            model_class.model_validate(resource)


FAULTS = {
    "no subject": lambda r: r.pop("subject"),
    "status banana": lambda r: r.update(status="banana"),
    "no mark": lambda r: r["meta"].update(security=[]),
    "bad id": lambda r: r.update(id="a b"),
    "no unit": lambda r: r["valueQuantity"].pop("code"),
    "nan": lambda r: r["valueQuantity"].update(value=float("nan")),
    "bad date": lambda r: r.update(effectiveDateTime="2000-13-01"),
    "too early": lambda r: r.update(effectiveDateTime="1899-12-31"),
    "dangling": lambda r: r.update(subject={"reference": "Patient/nobody"}),
    "other type": lambda r: r.update(resourceType="Immunization"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_resource_is_refused(everything, fault):
    damaged = copy.deepcopy(everything)
    FAULTS[fault](next(r for r in damaged if r["resourceType"] == "Observation"))
    with pytest.raises(GemelError, match="GEM703"):
        list(check_resources(damaged))


def test_an_id_used_twice_is_refused(everything):
    with pytest.raises(GemelError, match="GEM703"):
        list(check_resources([*everything, everything[0]]))


def test_a_history_is_recorded_by_a_concept_that_means_no_other_feature():
    cardiovascular = PROGRAMME.features[PROGRAMME.feature_names.index("cardiovascular_history")]
    others = {c for f in PROGRAMME.features if f is not cardiovascular for c in f.concepts}
    assert own_concept(PROGRAMME, cardiovascular) not in others


def test_files_agree_with_the_cohort_and_with_their_manifest(cohort, provenance, tmp_path):
    files = write(cohort, tmp_path, provenance=provenance)
    assert {p.relative_to(tmp_path).as_posix() for p in files} == {
        *(
            f"fhir/{kind}.ndjson"
            for kind in ("Condition", "Encounter", "Observation", "Patient", "Provenance")
        ),
        "cohort.parquet",
        "cohort.csv",
        "cohort.json",
    }
    manifest = json.loads((tmp_path / "cohort.json").read_text())
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    table = parquet.read_table(tmp_path / "cohort.parquet")
    for j, name in enumerate(PROGRAMME.feature_names):
        column = np.array(table[name].to_pylist(), dtype=float)
        assert np.array_equal(column.astype(np.float32), cohort.values[:, j], equal_nan=True)
        assert table.schema.field(name).metadata[b"unit"].decode() == PROGRAMME.features[j].unit
    for j, name in enumerate(PROGRAMME.outcome_names):
        assert table[f"{name}_event"].to_pylist() == cohort.event[:, j].tolist()
    assert json.loads(table.schema.metadata[b"gemel.provenance"]) == cohort.provenance.as_dict()
    with (tmp_path / "cohort.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["virtual_patient"] for r in rows] == patient_ids(cohort)
    assert {r["synthetic"] for r in rows} == {"true"}
    assert [r["body_mass_index_kg_m2"] == "" for r in rows] == np.isnan(cohort.values[:, 2]).tolist()


def test_equal_cohorts_give_equal_bytes(cohort, provenance, tmp_path):
    one, two = (write(cohort, tmp_path / n, provenance=provenance) for n in ("a", "b"))
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]


def test_nothing_that_is_written_holds_the_exact_number_of_patients(cohort, provenance, real, tmp_path):
    for path in write(cohort, tmp_path, provenance=provenance):
        if path.suffix == ".json":
            assert str(len(real)) not in path.read_text()
    assert str(len(real)).encode() not in (tmp_path / "fhir" / "Provenance.ndjson").read_bytes()


def test_another_cohorts_provenance_is_refused_and_nothing_is_written(cohort, provenance, tmp_path):
    with pytest.raises(GemelError, match="GEM702"):
        write(cohort, tmp_path / "out", provenance=provenance | {"study": "another"})
    assert not (tmp_path / "out").exists()


def test_the_platform_refuses_to_train_on_what_was_written(cohort, provenance, tmp_path):
    build = pytest.importorskip("gemel.data_adapters.dataset.build").build
    write(cohort, tmp_path, provenance=provenance)
    with pytest.raises(GemelError, match="GEM211"):
        build(tmp_path / "fhir", PROGRAMME, pseudonym_key=b"0" * 32)


def test_without_its_marks_the_cohort_reads_back_as_it_was(cohort, provenance, tmp_path):
    adapters = pytest.importorskip("gemel.data_adapters.dataset.build")
    write(cohort, tmp_path, provenance=provenance)
    unmarked = tmp_path / "unmarked"
    unmarked.mkdir()
    for path in (tmp_path / "fhir").glob("*.ndjson"):
        if path.stem != "Provenance":
            lines = [json.loads(line) for line in path.read_bytes().splitlines()]
            (unmarked / path.name).write_text(
                "".join(json.dumps({k: v for k, v in r.items() if k != "meta"}) + "\n" for r in lines)
            )
    dataset, _ = adapters.build(unmarked, PROGRAMME, pseudonym_key=b"0" * 32)
    assert len(dataset) == len(cohort)
    pseudonyms = [adapters.pseudonym(b"0" * 32, number) for number in patient_ids(cohort)]
    order = np.argsort(pseudonyms)
    assert np.array(pseudonyms)[order].tolist() == list(dataset.patient_ids)
    one_day = 1.01 / 365.25
    for j, name in enumerate(PROGRAMME.feature_names):
        expected, found = cohort.values[order, j], dataset.values[:, j]
        assert (np.isnan(expected) == np.isnan(found)).all(), name
        assert np.nanmax(np.abs(expected - found)) <= (one_day if name == "age_years" else 1e-4), name
    assert (dataset.event == cohort.event[order]).all()
    assert np.abs(dataset.time_years - cohort.time_years[order]).max() <= one_day
