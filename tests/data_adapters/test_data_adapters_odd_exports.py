"""Exports that are odd and legal, or broken in ways of their own: a right value, a counted reject, or one clear error."""

import gzip
import json
import time

import numpy as np
import pytest

from gemel.core.errors import GemelError
from gemel.data_adapters.dataset.build import build
from gemel.data_adapters.quality.check import check_export
from gemel.data_adapters.reading.json_line import RepeatedKeyError, check_line, infinite_number
from gemel.data_adapters.sources.files import open_export
from gemel.data_adapters.views.run import parse_view, run_views
from gemel.twins.programmes.fatty_liver import PROGRAMME

KEY = b"0123456789abcdef"
BMI, SYSTOLIC, HDL = 2, 3, 4
HYPERTENSION = 6


def people(fhir):
    return [fhir.patient("p"), fhir.encounter("p", "2010-01-01", "2012-01-01")]


def bmi(fhir, **changes):
    """A body mass index of 30; a change to None takes the element out."""
    resource = fhir.observation("p", "39156-5", 30.0, "kg/m2", "2009-06-01") | changes
    return {key: value for key, value in resource.items() if value is not None}


def values_of(fhir, tmp_path, *resources):
    export = fhir.write(tmp_path, {"x.ndjson": [*people(fhir), *resources]})
    dataset, card = build(export, PROGRAMME, pseudonym_key=KEY)
    return dataset.values[0], card


def only_reject(fhir, tmp_path, line):
    """The one reject of an export; the build must count the same."""
    export = fhir.write(tmp_path, {"x.ndjson": [*people(fhir), line]})
    report = check_export(export, PROGRAMME, validate="off")
    [reject] = report.rejects
    assert (report.read, report.accepted, reject.line) == (3, 2, 3)
    assert build(export, PROGRAMME, pseudonym_key=KEY)[1].rejects == {reject.code: 1}
    return reject


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 1}',
        '{"x": [{"b": {"a": 1, "b": 2, "a": 3}}]}',
        '{"a": 1, "\\u0061": 2}',
        '{"a": "\\u003a", "b": 1, "b": 2}',
        '{"a": {"b": 1}, "c": 1, "a": {}}',
    ],
)
def test_a_key_that_stands_twice_in_an_object_is_found(text):
    with pytest.raises(RepeatedKeyError):
        check_line(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        '{"a": {"a": {"a": 1}}, "b": [{"a": 1}, {"a": 2}]}',
        '{"a": "x:y::", "b": "\\u003a", "c:": "\\":", "d": "\\\\u003a"}',
        '{"a": 1.50, "b" : "é\\u00e9\\/", "A": 1}',
    ],
)
def test_a_line_with_one_meaning_passes(text):
    check_line(text.encode())


@pytest.mark.parametrize("content", [b"[" * 99_999 + b"1e400", b'{"a": 1e400', b'{"a": 1}'])
def test_a_number_whose_place_cannot_be_found_is_somewhere_in_the_line(content):
    assert infinite_number(content) == "$"


@pytest.mark.parametrize(
    ("old", "new"), [('"value": 30.0', '"value": 30.0, "value": 31.0'), ('"id": ', '"id": "other", "id": ')]
)
def test_a_repeated_key_rejects_its_line_in_check_build_and_view(old, new, fhir, tmp_path):
    line = json.dumps(bmi(fhir)).replace(old, new).encode()
    reject = only_reject(fhir, tmp_path, line)
    assert (reject.code, reject.path) == ("GEM201", "$")
    assert "stands twice" in reject.reason
    view = parse_view({"resource": "Observation", "select": [{"column": [{"name": "id", "path": "id"}]}]})
    assert run_views([view], tmp_path)["view"].num_rows == 0


def test_a_repeated_key_that_is_no_name_is_not_quoted_in_the_report(fhir, tmp_path):
    line = json.dumps(bmi(fhir)).replace('"status"', '"Mr X 1950": 1, "Mr X 1950": 2, "status"').encode()
    assert only_reject(fhir, tmp_path, line).reason == "a key stands twice in one object"


@pytest.mark.parametrize(
    ("changes", "code", "path"),
    [
        ({"valueQuantity": None, "valueInteger": 30}, "GEM202", "$.valueInteger"),
        ({"valueQuantity": None, "valueString": "30 kg/m2"}, "GEM202", "$.valueString"),
        ({"valueString": "31"}, "GEM214", "$.value[x]"),
        ({"dataAbsentReason": {"text": "error"}}, "GEM214", "$.dataAbsentReason"),
        ({"valueQuantity": {"value": 30, "code": "kg/m2", "comparatr": "<"}}, "GEM214", "$.valueQuantity"),
        ({"modifierExtension": [{"url": "http://x/not"}]}, "GEM215", "$.modifierExtension"),
        ({"component": [{"code": {"text": "x"}, "modifierExtension": [{}]}]}, "GEM215", "$.component[0].modifierExtension"),
        ({"component": [{"valueString": "x"}]}, "GEM207", "$.component[0].code"),
        ({"id": "a b/c"}, "GEM214", "$.id"),
        ({"id": "a\0b"}, "GEM214", "$.id"),
        ({"id": "x" * 65}, "GEM214", "$.id"),
        ({"resourceType": "Obsrvation"}, "GEM214", "$.resourceType"),
        ({"resourceType": "Bundle"}, "GEM215", "$.entry"),
        ({"effectiveDateTime": "2009-01-01T24:00:00Z"}, "GEM210", "$.effective"),
        ({"effectiveDateTime": "9999-12-31"}, "GEM210", "$.effective"),
        ({"effectiveDateTime": None, "effectivePeriod": {"end": "2009"}}, "GEM207", "$.effectiveDateTime"),
        ({"subject": {"identifier": {"value": "p"}}}, "GEM207", "$.subject"),
        ({"valueQuantity": {"value": 30, "unit": "stone", "code": "99", "system": "http://local"}}, "GEM203", "$.valueQuantity.code"),
    ],
)  # fmt: skip
def test_an_observation_that_cannot_be_used_is_rejected_at_its_place(changes, code, path, fhir, tmp_path):
    reject = only_reject(fhir, tmp_path, bmi(fhir, **changes))
    assert (reject.code, reject.path) == (code, path)


@pytest.mark.parametrize(
    ("make", "code", "path"),
    [
        (lambda f: f.patient("q", gender="M"), "GEM214", "$.gender"),
        (lambda f: f.patient("q", "0001-01-01"), "GEM210", "$.birthDate"),
        (lambda f: f.encounter("p", "2010-01-01", "9999-12-31"), "GEM210", "$.period.end"),
        (lambda f: f.encounter("p", "2010-01-02", "2010-01-01T10:00:00Z"), "GEM210", "$.period"),
        (lambda f: f.encounter("p", "2010-02-02", "2009"), "GEM210", "$.period"),
        (lambda _: b'{"resourceType":"Basic","id":"b","x":1e400}', "GEM214", "$.x"),
        (lambda _: b'{"resourceType":"Basic","id":"b","x":' + b"[" * 99_999 + b"]" * 99_999 + b"}", "GEM201", "$"),
        (lambda _: b"x" * 9_000_000, "GEM201", "$"),
        (lambda _: b"\0" * 9, "GEM201", "$"),
        (lambda _: "ä".encode("latin-1"), "GEM201", "$"),
    ],
)  # fmt: skip
def test_another_line_that_cannot_be_used_is_rejected_at_its_place(make, code, path, fhir, tmp_path):
    reject = only_reject(fhir, tmp_path, make(fhir))
    assert (reject.code, reject.path) == (code, path)


def test_an_encounter_that_ends_in_the_year_of_its_start_is_in_order(fhir, tmp_path):
    resources = [
        fhir.patient("p"),
        fhir.encounter("p", "2010-01-01", "2010"),
        fhir.encounter("p", "2011", "2011-01-01"),
    ]
    report = check_export(fhir.write(tmp_path, {"x.ndjson": resources}), validate="off")
    assert report.rejected_total == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": {"reference": "https://fhir.example/r4/Patient/p"}},
        {"subject": {"reference": "Patient/p/_history/2"}},
        {"subject": {"reference": "urn:uuid:p"}},
        {"effectiveDateTime": None, "effectiveInstant": "2009-06-01T10:00:00+01:00"},
        {"effectiveDateTime": None, "effectivePeriod": {"start": "2009-06-01T10:00:00.123+01:00"}},
        {"effectiveDateTime": "2009-06-01T10:00:00"},
        {"valueQuantity": {"value": 30, "unit": "KG/M2"}},
        {"valueQuantity": {"value": 30, "unit": " Kg/m² "}},
        {"valueQuantity": {"value": 3e1, "unit": "kg/m2", "code": ""}},
        {"valueQuantity": {"value": 30, "unit": "kg/m2", "system": "http://snomed.info/sct", "code": "258983007"}},
        {"valueQuantity": {"value": 30, "system": "urn:oid:2.16.840.1.113883.6.8", "unit": "BMI", "code": "kg/m2"}},
        {"code": {"coding": [{"system": "http://local", "code": "7"}, {"system": "http://loinc.org", "code": "39156-5"}]}},
        {"code": {"coding": [{"system": "urn:oid:2.16.840.1.113883.6.1", "code": "39156-5"}]}},
        {"note": [{"text": "x" * 30_000_000}]},
    ],
)  # fmt: skip
def test_a_value_is_found_however_it_is_written(changes, fhir, tmp_path):
    values, card = values_of(fhir, tmp_path, bmi(fhir, **changes))
    assert values[BMI] == 30
    assert (card.rejects, card.orphans) == ({}, {})


@pytest.mark.parametrize(
    ("code", "column", "value", "unit", "expected"),
    [
        ("8480-6", SYSTOLIC, 120, "MMHG", 120),
        ("8480-6", SYSTOLIC, 16, "kPa", 120.01),
        ("2085-9", HDL, 50, "MG/DL", 50),
        ("2085-9", HDL, 1.2, "MMOL/L", 46.398),
        ("2085-9", HDL, 1200, "µmol/l", 46.398),
        ("2085-9", HDL, 1.2, "mmol/L{hdl}", 46.398),
    ],
)
def test_spellings_of_units_mean_the_same_value(code, column, value, unit, expected, fhir, tmp_path):
    line = fhir.observation("p", code, None, None, "2009-06-01", valueQuantity={"value": value, "unit": unit})
    assert values_of(fhir, tmp_path, line)[0][column] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "preliminary"},
        {"valueQuantity": {"value": 30, "code": "kg/m2", "comparator": "<"}},
        {"valueQuantity": {"value": -30, "code": "kg/m2"}},
        {"valueQuantity": {"value": 1e300, "code": "kg/m2"}},
        {"valueQuantity": None, "dataAbsentReason": {"text": "lost"}},
        {"code": {"text": "BMI"}},
        {"subject": {"reference": "Group/g"}},
        {"subject": {"reference": "Patient/p "}},
    ],
)
def test_what_is_accepted_and_not_used_is_counted_somewhere(changes, fhir, tmp_path):
    values, card = values_of(fhir, tmp_path, bmi(fhir, **changes))
    report = check_export(tmp_path, PROGRAMME, validate="off")
    assert np.isnan(values[BMI])
    assert (report.rejected_total, card.rejects) == (0, {})
    for account in (report, card):
        absent = card.absent or {c.concept: c.absent for c in report.coverage if c.absent}
        counted = [
            account.unmapped_total,
            sum(account.orphans.values()),
            *(card.implausible.values()),
            *(card.bounds.values()),
            *absent.values(),
            *card.excluded_resources.values(),
        ]
        assert sum(counted) == 1


@pytest.mark.parametrize("onset", [{"onsetPeriod": {"start": "2008-01-01"}}, {"recordedDate": "2008-01"}])
def test_a_diagnosis_is_dated_by_its_period_or_its_record(onset, fhir, tmp_path):
    values, card = values_of(fhir, tmp_path, fhir.condition("p", fhir.ICD_10, "I10", None, **onset))
    assert values[HYPERTENSION] == 1
    assert card.rejects == {}


def test_one_patient_is_one_however_the_references_are_written(fhir, tmp_path):
    forms = ["Patient/p", "https://fhir.example/Patient/p", "Patient/p/_history/3", "urn:uuid:p"]
    lines = [bmi(fhir, id=f"o{i}", subject={"reference": form}) for i, form in enumerate(forms)]
    report = check_export(
        fhir.write(tmp_path, {"x.ndjson": [*people(fhir), *lines]}), PROGRAMME, validate="off"
    )
    # Four resources say the same of one patient at one time: one fact.
    [found] = [concept for concept in report.concepts if concept.values]
    assert (found.values, found.patients, found.duplicates) == (1, 1, 3)
    assert report.orphans == {}


def test_files_of_all_ndjson_names_are_read_and_the_others_are_named(fhir, tmp_path):
    first, second = people(fhir)
    fhir.write(tmp_path, {"export-2024-part1.json": [first], "B.NDJSON": [second], "c.jsonl.gz": [bmi(fhir)]})
    fhir.write(tmp_path, {"empty.ndjson": [], "blank.ndjson": [b"", b" \t", b"\r"], ".DS_Store": [b"x"]})
    (tmp_path / "table.csv").write_text("a,b\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "pretty.json").write_text(json.dumps({"resourceType": "Bundle", "entry": []}, indent=1))
    (tmp_path / "array.json.gz").write_bytes(gzip.compress(json.dumps([first, second]).encode()))
    report = check_export(tmp_path, PROGRAMME, validate="off")
    assert {file.file: file.read for file in report.files} == {
        "B.NDJSON": 1,
        "array.json.gz": 2,
        "blank.ndjson": 0,
        "c.jsonl.gz": 1,
        "empty.ndjson": 0,
        "export-2024-part1.json": 1,
        "pretty.json": 0,
    }
    assert [entry.partition(":")[0] for entry in report.unread] == ["sub", "table.csv"]
    assert build(tmp_path, PROGRAMME, pseudonym_key=KEY)[1].unread == report.unread


def test_an_export_of_which_nothing_can_be_read_is_refused_and_says_what_is_there(tmp_path):
    name = "notes.txt"
    (tmp_path / name).write_text('{\n "resourceType": "Patient"\n}')
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(GemelError, match=name) as caught:
            open_export(path)
        assert caught.value.code == "GEM208"


def test_a_link_to_itself_is_refused(tmp_path):
    (tmp_path / "x.ndjson").symlink_to(tmp_path / "x.ndjson")
    with pytest.raises(GemelError) as caught:
        open_export(tmp_path)
    assert caught.value.code == "GEM208"


def test_a_patient_with_fifty_thousand_observations_is_one_row(fhir, tmp_path):
    # The last before the index date is the one of noon.
    lines = [json.dumps(bmi(fhir, id=f"o{i}", effectiveDateTime=f"2009-06-01T{i // 3600:02}:{i // 60 % 60:02}:{i % 60:02}Z",
                            valueQuantity={"value": 20 + i / 10_000, "code": "kg/m2"})).encode()
             for i in range(50_000)]  # fmt: skip
    started = time.process_time()
    values, card = values_of(fhir, tmp_path, *lines)
    assert time.process_time() - started < 20
    assert card.values["body_mass_index"] == 50_000
    assert values[BMI] == np.float32(20 + 49_999 / 10_000)


def test_unit_problems_are_grouped_with_a_line_to_look_at(fhir, tmp_path):
    lines = [
        bmi(fhir, valueQuantity={"value": 30}),
        *(bmi(fhir, valueQuantity={"value": 5, "unit": "stone"}) for _ in range(3)),
        bmi(fhir, code={"text": "score"}, valueQuantity={"value": 5}),
    ]
    report = check_export(fhir.write(tmp_path, {"x.ndjson": lines}), PROGRAMME, validate="off")
    found = [(p.code, p.concept, p.unit, p.count, p.example) for p in report.unit_examples]
    assert found == [
        ("GEM203", "body_mass_index", "stone", 3, "x.ndjson:2"),
        ("GEM202", "", "", 1, "x.ndjson:5"),
        ("GEM202", "body_mass_index", "", 1, "x.ndjson:1"),
    ]
    assert report.unit_problems == {"GEM202": 2, "GEM203": 3}
