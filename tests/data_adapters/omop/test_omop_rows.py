"""What becomes of single rows of a CDM: each is a fact, or is counted with a reason."""

from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
import two_forms as form

from gemel.core.errors import GemelError
from gemel.data_adapters.meaning.site_mapping import SiteMapping, load_mapping

HDL, PRESSURE = (form.LOINC, "2085-9"), (form.LOINC, "8480-6")
DIABETES, E11 = (form.SNOMED, "44054006"), (form.ICD_10, "E11.9")
DAY = date(2010, 5, 6)
ONE = form.Person(1, "male", (1950, 2, 3))
Read = Callable[..., Any]


def _tables(
    *parts: Any, people: tuple[form.Person, ...] = (ONE,), words: form.Vocabulary | None = None
) -> form.Tables:
    hospital = form.Hospital(list(people))
    for part in parts:
        kinds = {
            form.Visit: hospital.visits,
            form.Statement: hospital.statements,
            form.Value: hospital.values,
        }
        kinds[type(part)].append(part)
    return form.omop_tables(hospital, words)


def _said(
    code: form.Code | None = None, source: form.Code | None = None, kind: str = "condition"
) -> form.Statement:
    return form.Statement(1, kind, code, source, DAY)


def test_sex_is_the_gender_concept_or_nothing(read: Read, tmp_path: Path) -> None:
    expected = {8507: "male", 8532: "female", 8521: "other", 8551: "unknown", 0: None, 77: None}
    tables = _tables(people=tuple(form.Person(number, None, (1950,)) for number in range(6)))
    for row, gender in zip(tables["person"], expected, strict=True):
        row["gender_concept_id"] = gender
    rows, _ = read(form.write_csv(tables, tmp_path / "cdm"))
    assert [row[1] for row in rows["person"]] == list(expected.values())


def test_a_birth_without_a_day_is_the_middle_of_its_month_or_year(read: Read, tmp_path: Path) -> None:
    people = (
        form.Person(1, "male", (1950,)),
        form.Person(2, "male", (1950, 2)),
        form.Person(3, "male", (1950, 2, 3)),
    )
    rows, account = read(form.write_csv(_tables(people=people), tmp_path / "cdm"))
    assert [row[2] for row in rows["person"]] == [date(1950, 7, 2), date(1950, 2, 16), date(1950, 2, 3)]
    assert account.partial_dates == {"person.birth": 2}


def test_the_birth_datetime_is_taken_only_where_no_year_stands(read: Read, tmp_path: Path) -> None:
    tables = _tables(people=(ONE, form.Person(2, "male", (1950,))))
    for row in tables["person"]:
        row["birth_datetime"] = datetime(1961, 1, 1)
    tables["person"][0] |= {"year_of_birth": None, "month_of_birth": None, "day_of_birth": None}
    rows, _ = read(form.write_csv(tables, tmp_path / "cdm"))
    assert [row[2] for row in rows["person"]] == [date(1961, 1, 1), date(1950, 7, 2)]


@pytest.mark.parametrize(
    ("cells", "code", "path"),
    [
        ({"person_id": None}, "GEM207", "person_id"),
        ({"person_id": "1x"}, "GEM214", "person_id"),
        ({"person_id": "12.7"}, "GEM214", "person_id"),
        ({"year_of_birth": 9999}, "GEM210", "year_of_birth"),
        ({"month_of_birth": 13}, "GEM210", "month_of_birth"),
        ({"month_of_birth": 2, "day_of_birth": 30}, "GEM210", "day_of_birth"),
        ({"birth_datetime": "soon"}, "GEM210", "birth_datetime"),
    ],
)
def test_a_person_at_fault_is_rejected_and_leaves_orphans(
    read: Read, tmp_path: Path, cells: dict[str, Any], code: str, path: str
) -> None:
    tables = _tables(form.Visit(1, DAY, DAY), people=(ONE, form.Person(2, "female", (1960,))))
    tables["person"][0] |= cells
    rows, account = read(form.write_csv(tables, tmp_path / "cdm"))
    assert [row[0] for row in rows["person"]] == ["2"]
    assert rows["visit"] == []
    assert [(reject.code, reject.path, reject.line) for reject in account.rejects] == [(code, path, 1)]
    assert account.orphans == {"visit_occurrence": 1}


def test_numbers_as_pandas_writes_them_are_whole_numbers(read: Read, tmp_path: Path) -> None:
    tables = _tables(form.Visit(1, DAY, DAY))
    tables["person"][0] |= {"person_id": "1.0", "gender_concept_id": "8507.0", "year_of_birth": "1950.0"}
    rows, _ = read(form.write_csv(tables, tmp_path / "cdm"))
    assert rows["person"] == [("1", "male", date(1950, 2, 3), None, False)]
    assert len(rows["visit"]) == 1


def test_nobody_lives_on_by_an_error_in_a_death(read: Read, tmp_path: Path) -> None:
    people = tuple(form.Person(number, "male", (1950,), DAY) for number in (1, 2, 3, 4))
    tables = _tables(people=people)
    tables["death"][1]["death_date"] = "9999-12-31"
    tables["death"][2]["death_date"] = None
    tables["death"].append({"person_id": 4, "death_date": date(2011, 1, 1)})
    tables["death"].append(dict(tables["death"][0]))
    rows, account = read(form.write_csv(tables, tmp_path / "cdm"))
    assert [row[3:] for row in rows["person"]] == [(DAY, True), (None, True), (None, True), (None, True)]
    assert account.rejects_by_code == {"GEM210": 1, "GEM251": 2}
    assert account.superseded == {"death": 1}


def test_a_visit_without_an_end_is_not_finished_and_one_that_ends_before_it_starts_is_rejected(
    read: Read, tmp_path: Path
) -> None:
    visits = (
        form.Visit(1, DAY, date(2010, 5, 9)),
        form.Visit(1, DAY, None, over=False),
        form.Visit(1, DAY, date(2010, 1, 1)),
    )
    rows, account = read(form.write_csv(_tables(*visits), tmp_path / "cdm"))
    assert rows["visit"] == [("1", DAY, DAY, False), ("1", DAY, date(2010, 5, 9), True)]
    assert [(reject.code, reject.line) for reject in account.rejects] == [("GEM210", 3)]


@pytest.mark.parametrize("kind", ["condition", "procedure", "drug"])
@pytest.mark.parametrize(("standard", "source"), [(DIABETES, None), (None, E11), (DIABETES, E11)])
def test_standard_and_source_concept_are_both_tried_and_make_one_fact(
    read: Read, tmp_path: Path, kind: str, standard: form.Code | None, source: form.Code | None
) -> None:
    rows, account = read(form.write_csv(_tables(_said(standard, source, kind)), tmp_path / "cdm"))
    assert rows["fact"] == [("1", "diabetes", DAY, datetime(2010, 5, 6), None, None, None)]
    assert account.values == account.people == {"diabetes": 1}


def test_two_codes_of_two_concepts_make_two_facts(read: Read, tmp_path: Path) -> None:
    rows, _ = read(form.write_csv(_tables(_said((form.SNOMED, "422504002"), E11)), tmp_path / "cdm"))
    assert [row[1] for row in rows["fact"]] == ["diabetes", "stroke"]


def test_a_local_code_is_mapped_by_the_name_of_its_column(read: Read, tmp_path: Path) -> None:
    tables = _tables(form.Value(1, (form.LOINC, "0000-0"), 50, "mg/dL", DAY))
    tables["measurement"][0] |= {"measurement_concept_id": 0, "measurement_source_value": "HDL-C"}
    folder = form.write_csv(tables, tmp_path / "cdm")
    rows, account = read(folder)
    assert rows["fact"] == []
    assert [(u.system, u.code, u.count) for u in account.unmapped] == [
        ("measurement_source_value", "HDL-C", 1)
    ]
    mapping = SiteMapping(codes={("measurement_source_value", "HDL-C"): ("hdl",)})
    rows, account = read(folder, mapping=mapping)
    assert [row[1] for row in rows["fact"]] == ["hdl"]
    assert account.unmapped_total == 0


def test_a_code_of_no_concept_is_counted_under_its_fhir_system(read: Read, tmp_path: Path) -> None:
    said = (_said((form.SNOMED, "1")), _said((form.SNOMED, "1")), _said(None, (form.ICD_10, "Z00")), _said())
    tables = _tables(*said)
    tables["condition_occurrence"].append(
        {
            "condition_occurrence_id": 99,
            "person_id": 1,
            "condition_concept_id": 4711,
            "condition_start_date": DAY,
        }
    )
    _, account = read(form.write_csv(tables, tmp_path / "cdm"))
    found = {(u.system, u.code): u.count for u in account.unmapped}
    assert found == {
        (form.SNOMED, "1"): 2,
        (form.ICD_10, "Z00"): 1,
        ("condition_source_value", ""): 1,
        ("concept_id", "4711"): 1,
    }
    assert account.unmapped_total == 5


def test_descendants_count_only_for_a_code_that_takes_its_children(read: Read, tmp_path: Path) -> None:
    words = form.Vocabulary()
    product, child = (form.RXNORM, "860975"), (form.SNOMED, "1")
    tables = _tables(_said(product, kind="drug"), _said(child), words=words)
    tables["concept_ancestor"] = [
        {"ancestor_concept_id": words((form.ATC, "A10B")), "descendant_concept_id": words(product)},
        {"ancestor_concept_id": words(DIABETES), "descendant_concept_id": words(child)},
    ]
    tables["concept"] = words.rows()
    rows, account = read(form.write_csv(tables, tmp_path / "cdm"))
    assert [row[1] for row in rows["fact"]] == ["metformin"]
    assert account.unmapped_total == 1


@pytest.mark.parametrize(
    ("number", "unit", "is_text", "expected"),
    [
        (50, "mg/dL", False, 50.0),
        (1.5, "mmol/L", False, 57.9975),
        (50, "MG/DL", True, 50.0),
        (50, None, False, "GEM202"),
        (50, "parsec", True, "GEM203"),
        (50, "kg", False, "GEM203"),
        (2000, "mg/dL", False, "implausible"),
        (None, "mg/dL", False, "absent"),
    ],
)
def test_a_measurement_is_converted_or_counted(
    read: Read, tmp_path: Path, number: float | None, unit: str | None, is_text: bool, expected: float | str
) -> None:
    value = form.Value(1, HDL, number, unit, datetime(2010, 5, 6, 7, 8), unit_is_text=is_text)
    rows, account = read(form.write_csv(_tables(value), tmp_path / "cdm"))
    if isinstance(expected, float):
        assert rows["fact"] == [("1", "hdl", DAY, datetime(2010, 5, 6, 7, 8), None, expected, None)]
        return
    assert rows["fact"] == []
    if expected.startswith("GEM"):
        assert account.rejects_by_code == {expected: 1}
        [problem] = account.unit_problems
        assert (problem.code, problem.concept, problem.unit, problem.count) == (
            expected,
            "hdl",
            unit or "",
            1,
        )
    else:
        assert getattr(account, expected) == {"hdl": 1}


def test_the_sites_unit_of_a_test_without_one_is_taken(read: Read, tmp_path: Path) -> None:
    values = (form.Value(1, HDL, 50, None, DAY), form.Value(1, PRESSURE, 120, None, DAY))
    folder = form.write_csv(_tables(*values), tmp_path / "cdm")
    rows, account = read(folder, mapping=SiteMapping(default_units={"hdl": "mg/dL"}))
    assert [row[1] for row in rows["fact"]] == ["hdl"]
    assert [(p.code, p.concept) for p in account.unit_problems] == [("GEM202", "pressure")]


def test_an_operator_makes_a_bound(read: Read, tmp_path: Path) -> None:
    expected = {4171756: "<", 4171754: "<=", 4172704: ">", 4171755: ">=", 4172703: None, 0: None}
    tables = _tables(*(form.Value(1, HDL, 50 + i, "mg/dL", DAY) for i in range(6)))
    for row, operator in zip(tables["measurement"], expected, strict=True):
        row["operator_concept_id"] = operator
    rows, account = read(form.write_csv(tables, tmp_path / "cdm"))
    assert [row[6] for row in rows["fact"]] == list(expected.values())
    assert account.bounds == {"hdl": 4}


_FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"operator_concept_id": 4}, "GEM214"),
    ({"value_as_number": "1,5"}, "GEM214"),
    ({"value_as_number": "nan"}, "GEM214"),
    ({"value_as_number": "1e999"}, "GEM214"),
    ({"measurement_date": None}, "GEM207"),
    ({"measurement_date": "06/05/2010"}, "GEM210"),
    ({"measurement_date": "2010-02-30"}, "GEM210"),
    ({"measurement_date": "0001-01-01"}, "GEM210"),
    ({"measurement_datetime": "2010-05-06 25:00:00"}, "GEM210"),
    ({"measurement_id": None}, "GEM207"),
    ({"person_id": None}, "GEM207"),
]


def test_a_measurement_at_fault_is_rejected_for_the_first_of_its_faults(read: Read, tmp_path: Path) -> None:
    tables = _tables(
        *(form.Value(1, HDL, 50, "mg/dL", DAY) for _ in _FAULTS), form.Value(1, HDL, 60, "mg/dL", DAY)
    )
    for row, (cells, _) in zip(tables["measurement"], _FAULTS, strict=False):
        row |= cells
    rows, account = read(form.write_csv(tables, tmp_path / "cdm"))
    assert [row[5] for row in rows["fact"]] == [60.0]
    found = sorted((reject.line, reject.code, reject.path) for reject in account.rejects)
    assert found == [(i, code, next(iter(cells))) for i, (cells, code) in enumerate(_FAULTS, 1)]


@pytest.mark.parametrize(
    ("written", "at"),
    [
        ("2010-05-06T23:30:00-05:00", datetime(2010, 5, 6, 23, 30)),
        ("2010-05-06 00:30:00Z", datetime(2010, 5, 6, 0, 30)),
        ("2010-05-06", datetime(2010, 5, 6)),
        ("2010-05-07 01:00:00", datetime(2010, 5, 6)),
        ("", datetime(2010, 5, 6)),
    ],
)
def test_times_are_those_of_the_hospitals_clock_and_the_date_holds(
    read: Read, tmp_path: Path, written: str, at: datetime
) -> None:
    tables = _tables(form.Value(1, HDL, 50, "mg/dL", DAY))
    tables["measurement"][0]["measurement_datetime"] = written
    rows, account = read(form.write_csv(tables, tmp_path / "cdm"))
    assert [row[2:4] for row in rows["fact"]] == [(DAY, at)]
    assert account.other_days == ({"measurement": 1} if written.startswith("2010-05-07") else {})


@pytest.mark.parametrize("end", ["2010-05-05", "9999-12-31", "later"])
def test_an_odd_end_is_left_out_and_the_diagnosis_stays(read: Read, tmp_path: Path, end: str) -> None:
    tables = _tables(_said(DIABETES))
    tables["condition_occurrence"][0]["condition_end_date"] = end
    rows, account = read(form.write_csv(tables, tmp_path / "cdm"))
    assert rows["fact"] == [("1", "diabetes", DAY, datetime(2010, 5, 6), None, None, None)]
    assert account.odd_ends == {"condition_occurrence": 1}


def test_a_repeated_row_counts_once_and_a_key_of_two_rows_is_refused(read: Read, tmp_path: Path) -> None:
    values = [form.Value(1, HDL, number, "mg/dL", DAY) for number in (40, 50, 60)]
    tables = _tables(*values)
    tables["measurement"].append(dict(tables["measurement"][0]))
    tables["measurement"].append({**tables["measurement"][1], "value_as_number": 51})
    rows, account = read(form.write_csv(tables, tmp_path / "cdm"))
    assert [row[5] for row in rows["fact"]] == [40.0, 60.0]
    assert account.superseded == {"measurement": 1}
    assert [(reject.code, reject.line) for reject in account.rejects] == [("GEM251", 2), ("GEM251", 5)]


def test_an_observation_says_that_something_is_so_only_without_a_value(read: Read, tmp_path: Path) -> None:
    words = form.Vocabulary()
    tables = _tables(words=words)
    row = {
        "person_id": 1,
        "observation_concept_id": words(DIABETES),
        "observation_date": DAY,
        "unit_concept_id": 0,
    }
    others: list[dict[str, Any]] = [
        {},
        {"value_as_concept_id": 4188540},
        {"value_as_string": "no"},
        {"value_as_number": 0},
    ]
    tables["observation"] = [row | {"observation_id": i} | other for i, other in enumerate(others, 1)]
    tables["observation"].append(
        {"observation_id": 9, "person_id": 1, "observation_concept_id": words(HDL), "observation_date": DAY}
        | {"value_as_number": 50, "unit_concept_id": words(("ucum", "mg/dL"))}
    )
    tables["concept"] = words.rows()
    rows, account = read(form.write_csv(tables, tmp_path / "cdm"))
    assert [(row[1], row[5]) for row in rows["fact"]] == [("diabetes", None), ("hdl", 50.0)]
    assert account.excluded == {"observation: a value beside a concept that has none": 3}


@pytest.mark.parametrize("who", ["1", "mrn-1"])
def test_no_row_of_a_withheld_person_is_seen(read: Read, tmp_path: Path, who: str) -> None:
    people = (form.Person(1, "male", (1950,), DAY), form.Person(2, "male", (1950,)))
    parts = (
        form.Visit(1, DAY, DAY),
        _said((form.SNOMED, "rare")),
        form.Value(1, HDL, 50, "odd", DAY, unit_is_text=True),
    )
    rows, account = read(
        form.write_csv(_tables(*parts, people=people), tmp_path / "cdm"), withheld=frozenset({who})
    )
    assert [row[0] for row in rows["person"]] == ["2"]
    assert rows["visit"] == rows["fact"] == []
    assert (account.withheld, account.patients) == (1, 1)
    assert account.unmapped == account.unit_problems == account.rejects == []
    assert account.excluded == {
        f"{table}: withheld": 1
        for table in ("death", "visit_occurrence", "condition_occurrence", "measurement")
    }


def test_a_cdm_of_version_6_is_refused(read: Read, tmp_path: Path) -> None:
    tables = _tables()
    tables["cdm_source"][0]["cdm_version"] = "CDM v6.0.0"
    with pytest.raises(GemelError, match=r"GEM250.*v6") as caught:
        read(form.write_csv(tables, tmp_path / "cdm"))
    assert caught.value.code == "GEM250"


def test_the_facts_database_keeps_no_row_of_the_source(tmp_path: Path, programme: Any) -> None:
    from gemel.data_adapters.meaning.facts import Facts
    from gemel.data_adapters.omop.read import read_omop

    folder = form.write_csv(_tables(form.Value(1, HDL, 50, "mg/dL", DAY)), tmp_path / "cdm")
    with Facts() as facts:
        read_omop(folder, programme, facts)
        tables = {name for (name,) in facts.run("SELECT table_name FROM duckdb_tables()")}
    assert tables == {"person", "visit", "fact"}


def _unknown_diabetes(folder: Path, **cells: Any) -> Path:
    """A diagnosis whose standard concept is not in CONCEPT."""
    tables = _tables()
    row = {"condition_occurrence_id": 1, "person_id": 1, "condition_concept_id": 201826}
    tables["condition_occurrence"].append(row | {"condition_start_date": DAY} | cells)
    return form.write_csv(tables, folder)


def test_a_concept_that_the_cdm_does_not_have_is_mapped_by_its_number_or_by_its_source_value(
    read: Read, tmp_path: Path
) -> None:
    folder = _unknown_diabetes(tmp_path / "cdm", condition_source_value="E11.9")
    _, account = read(folder)
    assert "concept: it lacks 1 concept ids that condition_occurrence names" in account.unread
    systems = tmp_path / "systems.toml"
    systems.write_text('[systems]\n"condition_source_value" = "ICD-10"\n')
    # What says more than a number is shown.
    assert [(u.system, u.code) for u in account.unmapped] == [("condition_source_value", "E11.9")]
    for mapping in (
        SiteMapping(codes={("concept_id", "201826"): ("diabetes",)}),
        SiteMapping(codes={("condition_source_value", "E11.9"): ("diabetes",)}),
        load_mapping(systems),
    ):
        rows, account = read(folder, mapping=mapping)
        assert [row[1] for row in rows["fact"]] == ["diabetes"]
        assert account.unmapped_total == 0


def test_a_mapped_number_holds_instead_of_the_code_in_the_vocabulary(read: Read, tmp_path: Path) -> None:
    words = form.Vocabulary()
    tables = _tables(_said(DIABETES), words=words)
    mapping = SiteMapping(codes={("concept_id", str(words(DIABETES))): ("stroke",)})
    rows, _ = read(form.write_csv(tables, tmp_path / "cdm"), mapping=mapping)
    assert [row[1] for row in rows["fact"]] == ["stroke"]


def test_of_a_concept_that_the_cdm_does_not_have_the_source_concept_counts(
    read: Read, tmp_path: Path
) -> None:
    tables = _tables(_said(None, E11), _said(None, (form.ICD_10, "Z00")))
    for row in tables["condition_occurrence"]:
        row["condition_concept_id"] = 201826
    rows, account = read(form.write_csv(tables, tmp_path / "cdm"))
    assert [row[1] for row in rows["fact"]] == ["diabetes"]
    assert [(u.system, u.code) for u in account.unmapped] == [(form.ICD_10, "Z00")]
