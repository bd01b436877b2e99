"""The same patients written as FHIR and as OMOP give the same data set, value for value and pseudonym for pseudonym."""

import csv
import gzip
import json
import random
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import two_forms as form
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.programme import Programme
from gemel.data_adapters.dataset.assemble import assemble
from gemel.data_adapters.meaning.facts import Facts
from gemel.data_adapters.meaning.fhir_facts import read_fhir
from gemel.data_adapters.omop.read import read_omop

KEY = b"a key of the tests, 16 bytes or more"


def _from_fhir(folder: Path, programme: Programme) -> tuple[dict[str, Any], Dataset | str]:
    with Facts() as facts:
        read_fhir(folder, programme, facts)
        return _rows(facts), _dataset(facts, programme)


def _from_omop(source: Path | str, programme: Programme) -> tuple[dict[str, Any], Dataset | str]:
    with Facts() as facts:
        read_omop(source, programme, facts)
        return _rows(facts), _dataset(facts, programme)


def _rows(facts: Facts) -> dict[str, Any]:
    return {name: facts.run(f"SELECT * FROM {name} ORDER BY ALL") for name in ("person", "visit", "fact")}


def _dataset(facts: Facts, programme: Programme) -> Dataset | str:
    try:
        return assemble(facts, programme, pseudonym_key=KEY)[0]
    except GemelError as error:
        return error.code


def _assert_same(
    one: tuple[dict[str, Any], Dataset | str], other: tuple[dict[str, Any], Dataset | str]
) -> None:
    for name in ("person", "visit", "fact"):
        assert one[0][name] == other[0][name], name
    left, right = one[1], other[1]
    if isinstance(left, str) or isinstance(right, str):
        assert left == right
        return
    assert left.patient_ids == right.patient_ids
    np.testing.assert_array_equal(left.values, right.values)
    np.testing.assert_array_equal(left.time_years, right.time_years)
    np.testing.assert_array_equal(left.event, right.event)
    assert left.snapshot == right.snapshot


# --- Invented patients --------------------------------------------------------------------------------

_DAYS = st.dates(date(1990, 1, 1), date(2030, 12, 31))
_TIMES = st.one_of(
    _DAYS,
    st.datetimes(datetime(1990, 1, 1), datetime(2030, 12, 31)).map(lambda at: at.replace(microsecond=0)),
)


@st.composite
def hospitals(draw: st.DrawFn) -> form.Hospital:
    """Up to four patients with visits, statements and values of every kind; some rows name nobody."""
    people = [
        form.Person(
            number,
            draw(st.sampled_from(["male", "female", "other", "unknown", None])),
            (draw(st.integers(1920, 1985)), 5, 17)[: draw(st.integers(1, 3))],
            draw(st.one_of(st.none(), _DAYS)),
            dead=draw(st.booleans()),
        )
        for number in range(1, draw(st.integers(1, 4)) + 1)
    ]
    who = st.integers(1, len(people))

    def stay(person: int, start: date, days: int | None, over: bool) -> form.Visit:
        return form.Visit(
            person, start, None if days is None else start + timedelta(days=days), over or days is not None
        )

    visits = draw(
        st.lists(
            st.builds(stay, who, _DAYS, st.one_of(st.none(), st.integers(0, 9000)), st.booleans()), max_size=8
        )
    )
    kinds = st.sampled_from(["condition", "procedure", "drug"])
    codes = st.one_of(st.none(), st.sampled_from(form.CODES))
    statements = draw(
        st.lists(
            st.builds(
                form.Statement,
                who,
                kinds,
                st.sampled_from(form.CODES),
                codes,
                _TIMES,
                st.one_of(st.none(), _DAYS),
            ),
            max_size=8,
        )
    )
    # A procedure has no end in this form.
    statements = [
        s if s.kind != "procedure" else form.Statement(s.person, s.kind, s.standard, s.source, s.at)
        for s in statements
    ]
    values = []
    for _ in range(draw(st.integers(0, 8))):
        code = draw(st.sampled_from(list(form.UNITS)))
        unit, is_text, near = draw(st.sampled_from(form.UNITS[code]))
        number = draw(st.one_of(st.none(), st.just(near), st.floats(0.1, 400).map(lambda x: round(x, 3))))
        bound = draw(st.sampled_from([None, None, None, "<", "<=", ">", ">="]))
        values.append(form.Value(draw(who), code, number, unit, draw(_TIMES), bound, is_text))
    return form.Hospital(people, visits, statements, values)


@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(hospital=hospitals(), seed=st.randoms(use_true_random=False))
def test_any_patients_in_either_form_give_the_same_facts_and_data_set(
    hospital: form.Hospital,
    seed: random.Random,
    tmp_path_factory: pytest.TempPathFactory,
    programme: Programme,
) -> None:
    folder = tmp_path_factory.mktemp("two-forms")
    expected = _from_fhir(form.write_fhir(hospital, folder / "fhir"), programme)
    tables = form.omop_tables(hospital)
    for rows in tables.values():
        seed.shuffle(rows)
    write: Callable[..., Path] = seed.choice([form.write_csv, form.write_parquet])
    _assert_same(_from_omop(write(tables, folder / "omop"), programme), expected)


WRITERS: dict[str, Callable[[form.Tables, Path], Path]] = {
    "csv": form.write_csv,
    "upper-case tab-separated gzip": lambda t, f: form.write_csv(t, f, upper=True, tab=True, zipped=True),
    "parquet": form.write_parquet,
}


def test_a_larger_hospital_in_every_kind_of_file_gives_the_same_data_set(
    tmp_path: Path, programme: Programme
) -> None:
    hospital = form.invented(400)
    expected = _from_fhir(form.write_fhir(hospital, tmp_path / "fhir"), programme)
    assert isinstance(expected[1], Dataset)
    assert len(expected[1]) > 200
    tables = form.omop_tables(hospital)
    for name, write in WRITERS.items():
        _assert_same(_from_omop(write(tables, tmp_path / name), programme), expected)


# --- A public export, converted ------------------------------------------------------------------------


def _site_b(folder: Path, shared: Path) -> tuple[Path, form.Hospital]:
    """site_b with its patients renumbered, and the same as rows; the conversion follows the resources, not the reader."""
    source = shared / "fhir" / "site_b_bulkserver_r4"
    if not source.is_dir():
        pytest.skip("the shared export site_b is not here")
    lines = {
        kind: [
            json.loads(line)
            for line in gzip.decompress((source / f"{kind}.ndjson.gz").read_bytes()).splitlines()
        ]
        for kind in ("Patient", "Encounter", "Condition", "Observation", "Procedure")
    }
    numbers = {patient["id"]: i for i, patient in enumerate(lines["Patient"], 1)}
    folder.mkdir()
    for kind, resources in lines.items():
        for resource in resources:
            if kind == "Patient":
                resource["id"] = str(numbers[resource["id"]])
            else:
                subject = resource["subject"]["reference"]
                key = next(
                    part
                    for part in (subject.rpartition("/")[2], subject.rpartition(":")[2])
                    if part in numbers
                )
                resource["subject"] = {"reference": f"Patient/{numbers[key]}"}
        (folder / f"{kind}.ndjson").write_text("\n".join(json.dumps(r) for r in resources), encoding="utf-8")
    return folder, _converted(lines)


def _clock(text: str) -> date | datetime:
    return datetime.fromisoformat(text).replace(tzinfo=None) if "T" in text else date.fromisoformat(text)


def _converted(lines: dict[str, list[Any]]) -> form.Hospital:
    hospital = form.Hospital()
    for patient in lines["Patient"]:
        born = tuple(int(part) for part in patient["birthDate"].split("-"))
        died = patient.get("deceasedDateTime")
        day = date.fromisoformat(died[:10]) if died else None
        hospital.people.append(form.Person(int(patient["id"]), patient["gender"], born, day))
    for encounter in lines["Encounter"]:
        period = encounter["period"]
        start, end = (date.fromisoformat(period[k][:10]) if k in period else None for k in ("start", "end"))
        assert start is not None
        over = encounter["status"] == "finished"
        hospital.visits.append(form.Visit(_person(encounter), start, end, over))
    for kind, when in (("Condition", "onsetDateTime"), ("Procedure", "performedPeriod")):
        for resource in lines[kind]:
            at = resource[when] if isinstance(resource[when], str) else resource[when]["start"]
            end = resource.get("abatementDateTime") or resource.get("performedPeriod", {}).get("end")
            coding = resource["code"]["coding"][0]
            day = date.fromisoformat(end[:10]) if end else None
            said = form.Statement(
                _person(resource), kind.lower(), (coding["system"], coding["code"]), None, _clock(at), day
            )
            hospital.statements.append(said)
    for observation in lines["Observation"]:
        for holder in (observation, *observation.get("component", [])):
            if "valueQuantity" in holder:
                coding, quantity = holder["code"]["coding"][0], holder["valueQuantity"]
                at = _clock(observation["effectiveDateTime"])
                code = (coding["system"], coding["code"])
                hospital.values.append(
                    form.Value(_person(observation), code, quantity["value"], quantity.get("code"), at)
                )
    return hospital


def _person(resource: Any) -> int:
    return int(resource["subject"]["reference"].partition("/")[2])


def test_a_public_export_and_its_conversion_give_the_same_data_set(tmp_path: Path) -> None:
    from gemel.twins.programmes.fatty_liver import PROGRAMME as FATTY_LIVER

    shared = Path(__file__).resolve().parents[3].parent / "shared" / "data"
    folder, hospital = _site_b(tmp_path / "fhir", shared)
    expected = _from_fhir(folder, FATTY_LIVER)
    assert isinstance(expected[1], Dataset)
    assert len(expected[1]) > 30
    tables = form.omop_tables(hospital)
    for name in ("csv", "parquet"):
        _assert_same(_from_omop(WRITERS[name](tables, tmp_path / name), FATTY_LIVER), expected)


def test_the_two_forms_are_read_by_different_code_and_a_changed_cell_shows(
    tmp_path: Path, programme: Programme
) -> None:
    hospital = form.invented(60)
    expected = _from_fhir(form.write_fhir(hospital, tmp_path / "fhir"), programme)
    tables = form.omop_tables(hospital)
    folder = form.write_csv(tables, tmp_path / "omop")
    with (folder / "measurement.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    changed = next(
        row
        for row in rows
        if row["unit_source_value"] == "mm[Hg]" and 60 < float(row["value_as_number"]) < 250
    )
    changed["value_as_number"] = str(float(changed["value_as_number"]) + 0.5)
    with (folder / "measurement.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(AssertionError, match="fact"):
        _assert_same(_from_omop(folder, programme), expected)
