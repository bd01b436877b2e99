"""FHIR: marks, ids, references, a second opinion, and that every kind of fault is found in every resource."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import importlib
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from cardiometabolic import PROGRAMME
from faulty_resources import FAULTS, patient_lines
from ucumvert import PintUcumRegistry
from virtual_patients import PASSED, unrelated_cohort

from gemel.core.errors import GemelError
from gemel.synthetic.export import Format, Visits, write
from gemel.synthetic.export.codes import chosen_code, meaning_of, own_concept
from gemel.synthetic.export.fhir import HTEST, resources_of
from gemel.synthetic.export.fhir_check import Checker, ucum_units
from gemel.synthetic.export.ids import identify, numbers_within, patient_ids, patient_numbers, spelt
from gemel.synthetic.export.records import Records, records_of
from gemel.synthetic.export.release_check import ReleaseChecker
from gemel.twins.installed import installed

Resource = dict[str, Any]


@pytest.fixture
def everything(exported: Path) -> list[Resource]:
    return [
        json.loads(line)
        for path in sorted((exported / "fhir").iterdir())
        for line in path.read_bytes().splitlines()
    ]


@pytest.fixture
def bundles(exported: Path) -> list[Resource]:
    lines = (exported / "bundles" / "Bundle.ndjson").read_bytes().splitlines()
    return [json.loads(line) for line in lines]


def lines_of(records: Records) -> list[list[bytes]]:
    """The lines of each patient."""
    found = resources_of(records)
    return [found.of_patient(place) for place in range(len(records))]


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "reference":
                yield inner
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_every_resource_and_bundle_is_marked_synthetic(
    everything: list[Resource], bundles: list[Resource]
) -> None:
    inner = [entry["resource"] for bundle in bundles for entry in bundle["entry"]]
    for resource in (*everything, *bundles, *inner):
        assert resource["meta"]["security"] == [HTEST]
        assert {"system": "urn:gemel:tag", "code": "synthetic"} in resource["meta"]["tag"]


def test_ids_are_unique_uuids_of_version_five_and_every_reference_leads_to_one(
    everything: list[Resource],
) -> None:
    assert all(uuid.UUID(resource["id"]).version == 5 for resource in everything)
    known = {f"{r['resourceType']}/{r['id']}" for r in everything}
    assert len(known) == len(everything)
    assert {ref for r in everything for ref in references(r)} <= known


def test_ids_of_many_rows_are_those_that_the_standard_library_makes() -> None:
    rows, names = range(3, 9), ["outcome/stroke", "x" * 300, "Encounter/first", "y" * 39, "z" * 40]
    patients = patient_numbers("ab", rows)
    found = spelt(numbers_within(np.repeat(patients, [5, 5, 5, 5, 5, 5], axis=0)[:25], names, [5] * 5))
    texts = [row.tobytes().decode() for row in found]
    which = [3 + place // 5 for place in range(25)]
    assert texts == [identify("ab", row, names[at // 5]) for at, row in enumerate(which)]
    space = uuid.uuid5(uuid.NAMESPACE_URL, "urn:gemel:virtual-cohort")
    patient = uuid.uuid5(space, "ab/3")
    assert patient_ids("ab", 4)[3] == str(patient) == identify("ab", 3)
    assert texts[0] == str(uuid.uuid5(patient, "outcome/stroke"))


def test_ids_depend_on_the_cohort_alone(drawn: Any, provenance: Resource, tmp_path: Path) -> None:
    one, two = (
        write(drawn, tmp_path / name, provenance=provenance, decision=PASSED, formats=[Format.FHIR])
        for name in ("a", "b")
    )
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    other = dataclasses.replace(drawn, seed=drawn.seed + 1)
    assert not set(patient_ids(other.release, len(other))) & set(patient_ids(drawn.release, len(drawn)))


def test_a_bundle_holds_what_the_lines_of_its_patient_say(
    everything: list[Resource], bundles: list[Resource]
) -> None:
    inner = [entry["resource"] for bundle in bundles for entry in bundle["entry"]]
    by_name = {(r["resourceType"], r["id"]): r for r in everything if r["resourceType"] != "Provenance"}
    assert {(r["resourceType"], r["id"]): r for r in inner} == by_name
    assert len(inner) == len(by_name)
    for bundle in bundles:
        assert bundle["type"] == "transaction"
        for entry in bundle["entry"]:
            name = f"{entry['resource']['resourceType']}/{entry['resource']['id']}"
            assert entry["request"] == {"method": "PUT", "url": name}
            assert entry["fullUrl"].endswith(f"/{name}")


def test_each_patient_has_a_first_and_a_last_encounter_and_one_provenance_names_all(
    drawn: Any, everything: list[Resource]
) -> None:
    kinds = [r["resourceType"] for r in everything]
    assert kinds.count("Patient") == len(drawn)
    assert kinds.count("Encounter") == 2 * len(drawn)
    (provenance,) = (r for r in everything if r["resourceType"] == "Provenance")
    assert [t["reference"] for t in provenance["target"]] == [
        f"Patient/{number}" for number in patient_ids(drawn.release, len(drawn))
    ]


def test_the_dead_have_a_date_of_death_and_only_they(drawn: Any, everything: list[Resource]) -> None:
    patients = {r["id"]: r for r in everything if r["resourceType"] == "Patient"}
    for row, number in enumerate(patient_ids(drawn.release, len(drawn))):
        died = patients[number].get("deceasedDateTime")
        assert (died is not None) == (drawn.event[row, 0] == 1)
        if died is not None:
            days = (datetime.date.fromisoformat(died) - datetime.date(2000, 1, 1)).days
            assert days == round(float(drawn.time_years[row, 0]) * 365.25)


def test_missing_values_have_no_observation_and_missing_sex_is_unknown(
    drawn: Any, everything: list[Resource]
) -> None:
    place = PROGRAMME.feature_names.index("body_mass_index_kg_m2")
    code = chosen_code(PROGRAMME, "body_mass_index").code
    found = [r for r in everything if r["resourceType"] == "Observation" and code in str(r["code"])]
    assert len(found) == np.sum(~np.isnan(drawn.values[:, place]))
    values = drawn.values.copy()
    values[:2, PROGRAMME.feature_names.index("male")] = (np.nan, 1)
    lines = lines_of(records_of(dataclasses.replace(drawn, values=values)))
    assert [json.loads(own[0])["gender"] for own in lines[:2]] == ["unknown", "male"]


@pytest.mark.parametrize("programme", installed(), ids=lambda programme: programme.name)
def test_fhir_resources_accepts_a_sample_of_every_shape(programme: Any, provenance: Resource) -> None:
    document = provenance | {"programme": programme.name, "programme_version": programme.version}
    found = resources_of(records_of(unrelated_cohort(programme, document, patients=40)))
    for kind, place in found.files.items():
        some = found.content[place].tobytes().splitlines()
        model = getattr(importlib.import_module(f"fhir.resources.R4B.{kind.lower()}"), kind)
        shapes = {tuple(sorted(json.loads(line))): line for line in some}
        codes = {str(json.loads(line).get("code")): line for line in some}
        for line in {*shapes.values(), *codes.values()}:
            model.model_validate_json(line)


def test_fhir_resources_accepts_bundle_and_provenance(
    everything: list[Resource], bundles: list[Resource]
) -> None:
    from fhir.resources.R4B.bundle import Bundle
    from fhir.resources.R4B.provenance import Provenance

    Bundle.model_validate(bundles[0])
    Provenance.model_validate(next(r for r in everything if r["resourceType"] == "Provenance"))


@pytest.mark.parametrize(
    ("fault", "kind"), [(fault, kind) for fault, (kinds, _) in FAULTS.items() for kind in kinds]
)
def test_a_faulty_resource_is_refused(drawn: Any, fault: str, kind: str) -> None:
    sound = patient_lines(drawn)
    Checker().check_lines([orjson.dumps(r) for r in sound])
    damaged = copy.deepcopy(sound)
    FAULTS[fault][1](next(r for r in damaged if r["resourceType"] == kind))
    checker = Checker()
    checker.check_lines([orjson.dumps(r) for r in sound])  # What it remembers must not let the fault pass.
    with pytest.raises(GemelError, match="GEM703"):
        checker.check_lines([orjson.dumps(r) for r in damaged])


def test_an_id_used_twice_and_an_entry_of_another_address_are_refused(drawn: Any) -> None:
    sound = [orjson.dumps(r) for r in patient_lines(drawn)]
    with pytest.raises(GemelError, match="GEM703"):
        Checker().check_lines([*sound, sound[-1]])
    with pytest.raises(GemelError, match="GEM703"):
        Checker().check_lines(sound[1:])
    bundle = resources_of(records_of(drawn), bundled=True).bundle(0)
    Checker().check_bundle(bundle)
    for damaged in (
        bundle.replace(b'"url":"Patient/', b'"url":"Person/'),
        bundle.replace(b'"PUT"', b'"POST"', 1),
        bundle.replace(b'"transaction"', b'"batch"'),
        bundle.replace(b"virtual-patients.invalid", b"hospital.example", 1),
    ):
        with pytest.raises(GemelError, match="GEM703"):
            Checker().check_bundle(damaged)


def test_every_unit_that_may_be_written_is_ucum() -> None:
    registry = PintUcumRegistry()
    for unit in sorted(ucum_units()):
        registry.from_ucum(unit)


def test_a_resource_that_fails_leaves_nothing_behind(
    drawn: Any, provenance: Resource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemel.synthetic.export.fhir.HTEST", HTEST | {"code": "NORMAL"})
    with pytest.raises(GemelError, match="GEM703"):
        write(drawn, tmp_path / "out", provenance=provenance, decision=PASSED)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bundled", [True, False])
def test_each_patient_alone_is_spelt_as_among_others(drawn: Any, bundled: bool) -> None:
    visits = Visits(
        np.array([4, 4, 9]), np.array([3, 8, 5]), {"body_mass_index": np.array([25.0, 26.0, 27.0])}
    )
    alive = dataclasses.replace(drawn, event=np.where(drawn.event == 1, 0, drawn.event).astype(np.int8))
    records = records_of(alive, visits)
    whole = resources_of(records, bundled=bundled)
    for place in range(len(drawn)):
        alone = resources_of(records.part(place, place + 1), bundled=bundled)
        assert alone.of_patient(0) == whole.of_patient(place)
        ReleaseChecker().check(alone)


def test_many_patients_are_several_files_and_the_number_of_workers_changes_nothing(
    drawn: Any, provenance: Resource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemel.synthetic.export.writing.PATIENTS_PER_FILE", 25)
    formats = [Format.FHIR, Format.BUNDLES]
    one = write(drawn, tmp_path / "one", provenance=provenance, decision=PASSED, formats=formats)
    two = write(drawn, tmp_path / "two", provenance=provenance, decision=PASSED, formats=formats, workers=2)
    assert (tmp_path / "one" / "bundles" / "Bundle.00002.ndjson") in one
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]
    whole = [
        line for p in sorted((tmp_path / "one" / "bundles").iterdir()) for line in p.read_bytes().splitlines()
    ]
    assert whole == resources_of(records_of(drawn), bundled=True).content.tobytes().splitlines()


def test_a_history_is_recorded_by_a_concept_and_a_code_that_mean_as_little_else_as_possible() -> None:
    cardiovascular = PROGRAMME.features[PROGRAMME.feature_names.index("cardiovascular_history")]
    others = {c for f in PROGRAMME.features if f is not cardiovascular for c in f.concepts}
    assert own_concept(PROGRAMME, cardiovascular) not in others
    stroke = next(p for p in installed() if p.name == "stroke")
    # I63 would say that an infarct was seen.
    assert meaning_of(stroke, chosen_code(stroke, "stroke")) == {"stroke"}


def test_visits_become_encounters_with_their_observations(drawn: Any) -> None:
    rows, days = np.array([0, 0, 2]), np.array([10, 20, 30])
    alive = dataclasses.replace(drawn, event=np.where(drawn.event == 1, 0, drawn.event).astype(np.int8))
    visits = Visits(rows, days, {"body_mass_index": np.array([25.0, np.nan, 31.5])})
    lines, plain = lines_of(records_of(alive, visits)), lines_of(records_of(alive))
    assert [len(a) - len(b) for a, b in zip(lines, plain, strict=True)][:4] == [3, 0, 2, 0]
    found = {r["id"]: r for r in map(json.loads, lines[2])}
    value = next(r for r in found.values() if r.get("effectiveDateTime") == "2000-01-31")
    assert value["valueQuantity"]["value"] == 31.5
    assert (
        found[value["encounter"]["reference"].removeprefix("Encounter/")]["period"]["start"] == "2000-01-31"
    )
    for own in lines:
        Checker().check_lines(own)


BAD_VISITS = {
    "a patient who is not there": ([99], [1]),
    "on the index date": ([0], [0]),
    "out of order": ([1, 0], [1, 1]),
    "twice on one day": ([0, 0], [3, 3]),
    "after death": ([0], [100_000]),
}


@pytest.mark.parametrize("fault", BAD_VISITS)
def test_visits_that_do_not_fit_are_refused(drawn: Any, fault: str) -> None:
    event = drawn.event.copy()
    event[:, 0] = 1
    rows, days = BAD_VISITS[fault]
    with pytest.raises(GemelError, match="GEM740"):
        records_of(dataclasses.replace(drawn, event=event), Visits(np.array(rows), np.array(days)))


def test_a_visit_that_measures_what_the_programme_does_not_is_refused(drawn: Any) -> None:
    visits = Visits(np.array([0]), np.array([1]), {"fatty_liver": np.array([1.0])})
    with pytest.raises(GemelError, match="GEM740"):
        records_of(dataclasses.replace(drawn, event=np.zeros_like(drawn.event)), visits)
