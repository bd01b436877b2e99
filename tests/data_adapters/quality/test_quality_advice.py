"""What a check tells a person to do: lost denials, units of the mapping, texts, genders, what stands where in Bundles."""

import json

import pytest

from gemel.core.concepts import Concept
from gemel.core.errors import GemelError
from gemel.data_adapters.meaning.mapping_suggestion import suggest
from gemel.data_adapters.meaning.site_mapping import NO_MAPPING, load_mapping
from gemel.data_adapters.quality.check import check_export
from gemel.data_adapters.quality.html_report import render_report
from gemel.twins.programmes.fatty_liver import PROGRAMME

HDL, BMI = "2085-9", "39156-5"


def check(fhir, folder, lines, mapping=None, **options):
    site = NO_MAPPING
    if mapping is not None:
        (folder / "site.toml").write_text(mapping)
        site = load_mapping(folder / "site.toml")
    options = {"validate": "off", "mapping": site} | options
    return check_export(fhir.write(folder / "e", {"x.ndjson": lines}), PROGRAMME, **options)


def said(report, *words):
    return [item for item in report.to_do if all(word in item.what + item.fix for word in words)]


@pytest.mark.parametrize(
    ("line", "unread"),
    [
        ({"resourceType": "Consent", "id": "c", "status": "active", "provision": {"type": "deny"}}, 0),
        (b'{"resourceType": "Consent", "id": "c", "status": "active", "provision": {"type": "de', 1),
    ],
)
def test_a_consent_that_names_nobody_is_a_must_of_its_own(fhir, tmp_path, line, unread):
    report = check(fhir, tmp_path, [fhir.patient("p"), line])
    [item] = said(report, "Consents name no patient", "lost")
    assert item.weight == "must"
    assert item.what.startswith("1 Consents")
    assert len(said(report, "Consent lines cannot be read")) == unread
    assert "each may be a denial that is lost" in render_report(report)


def test_without_such_a_consent_nothing_is_said_of_it(fhir, tmp_path):
    assert not said(check(fhir, tmp_path, [fhir.patient("p")]), "Consents name no patient")


def test_what_is_there_of_a_concept_and_gives_no_value_is_told_and_not_called_fine(fhir, tmp_path):
    no_value = {"dataAbsentReason": {"coding": [{"code": "unknown"}]}}
    lines = [
        fhir.patient("p"),
        fhir.observation("p", HDL, None, None, "2010-01-01", **no_value),
        fhir.condition("p", fhir.LOINC, BMI, "2010"),
        fhir.condition("p", fhir.ICD_10, "I10", None),
    ]
    report = check(fhir, tmp_path, lines)
    [hdl] = said(report, "No patient has a usable value of hdl_cholesterol")
    assert "1 without a value" in hdl.what
    [bmi] = said(report, "usable value of body_mass_index")
    assert "1 of a kind that gives it no value" in bmi.what
    [undated] = said(report, "without any date, left out")
    assert "Condition 1" in undated.what
    [rest] = said(report, "No patient has any record of")
    assert "hdl_cholesterol" not in rest.what
    assert "none of the records without a date (Condition 1) is theirs, nothing is wrong" in rest.fix


def test_a_concept_whose_lines_were_all_rejected_is_not_said_to_have_no_record(fhir, tmp_path):
    bare = fhir.observation("p", HDL, None, None, "2010-01-01", valueQuantity={"value": 40})
    report = check(fhir, tmp_path, [fhir.patient("p"), bare])
    assert all("hdl_cholesterol" not in item.what for item in said(report, "No patient has"))


@pytest.mark.parametrize(
    ("mapping", "where"),
    [
        ('[default_units]\nhdl_cholesterol = "kg"', "site.toml:2"),
        ('title = "t"\n[default_units]\nbody_mass_index = "mmol/L"', "site.toml:3"),
        ('[default_units]\nstroke = "kg"', "site.toml:2"),
        ('[units_of.hdl_cholesterol]\n"X" = "kg"', "site.toml:2"),
        ('[default_units]\nleukocytes = "mg"', "site.toml:2"),  # of the library, not of the programme
    ],
)
def test_a_unit_that_cannot_become_the_concepts_is_refused_where_it_stands(fhir, tmp_path, mapping, where):
    with pytest.raises(GemelError) as caught:
        check(fhir, tmp_path, [fhir.patient("p")], mapping)
    assert caught.value.code == "GEM241"
    assert caught.value.message.startswith(f"{where}: ")


def test_a_unit_that_can_become_the_concepts_is_taken(fhir, tmp_path):
    mapping = '[default_units]\nhdl_cholesterol = "mmol/L"\n"http://x|KG" = "kg"\n[units_of.body_mass_index]\n"Q" = "kg/m2"'
    bare = fhir.observation("p", HDL, None, None, "2010-01-01", valueQuantity={"value": 1.3})
    report = check(fhir, tmp_path, [fhir.patient("p"), bare], mapping)
    assert next(one for one in report.coverage if one.concept == "hdl_cholesterol").values == 1
    assert not said(report, "a unit that the mapping gives")


@pytest.mark.parametrize(
    ("mapping", "recorded", "entry"),
    [
        (
            '[default_units]\nhdl_cholesterol = "mmol/L"',
            None,
            "site.toml:2 [default_units] 'hdl_cholesterol'",
        ),
        (
            '[default_units]\n"http://loinc.org|2085-9" = "mmol/L"',
            None,
            "site.toml:2 [default_units] 'http://loinc.org|2085-9'",
        ),
        ('\n[units]\n"ODD" = "mmol/L"', "ODD", "site.toml:3 [units] 'ODD'"),
        (
            '[units_of.hdl_cholesterol]\n"ODD" = "mmol/L"',
            "ODD",
            "site.toml:2 [units_of.hdl_cholesterol] 'ODD'",
        ),
    ],
)
def test_an_entry_that_makes_values_implausible_is_what_to_look_at_first(
    fhir, tmp_path, mapping, recorded, entry
):
    lines = [fhir.patient("p")]
    for value in range(40, 60):
        quantity = {"value": value} | ({"unit": recorded} if recorded else {})
        lines.append(fhir.observation("p", HDL, None, None, "2010-01-01", valueQuantity=quantity))
    report = check(fhir, tmp_path, lines, mapping)
    first = report.to_do[0]
    assert (first.weight, entry in first.what) == ("must", True), first
    assert first.what.startswith("20 of 20 values of hdl_cholesterol")
    assert not said(report, "outside its plausible bounds, left out")


def test_values_that_are_implausible_in_their_own_unit_do_not_blame_the_mapping(fhir, tmp_path):
    lines = [fhir.patient("p"), fhir.observation("p", HDL, 9000, "mg/dL", "2010-01-01")]
    report = check(fhir, tmp_path, lines, '[units]\n"ODD" = "mmol/L"')
    assert not said(report, "a unit that the mapping gives")
    assert said(report, "outside its plausible bounds, left out")


def test_a_text_for_a_measured_value_gets_no_default_unit_as_advice(fhir, tmp_path):
    texts = [
        fhir.observation("p", HDL, None, None, "2010-01-01", valueString=text) for text in ("<20 mg/dL", "40")
    ]
    report = check(fhir, tmp_path, [fhir.patient("p"), *texts])
    [item] = said(report, "2 values of hdl_cholesterol")
    assert "no mapping changes that" in item.fix
    assert "[default_units]" not in item.fix + report.rejects[0].fix
    problems = {(p.code, p.concept, p.unit, p.reason): p.count for p in report.unit_examples}
    text = suggest({}, problems, PROGRAMME)
    assert "[default_units]" not in text
    assert "# hdl_cholesterol: 2 values are texts" in text
    assert "none: a text or an integer" in render_report(report)


def test_unknown_genders_are_named_and_stand_in_the_suggestion(fhir, tmp_path):
    odd = [fhir.patient(f"q{i}", gender="M") for i in range(3)]
    odd += [fhir.patient("w", gender="W"), fhir.patient("t", gender="Jane Doe, see letter")]
    contact = fhir.patient("c", contact=[{"gender": "K"}])
    report = check(fhir, tmp_path, [fhir.patient("p"), contact, *odd])
    assert report.unknown_genders == {"M": 3, "": 1, "W": 1}
    [item] = said(report, "5 Patients are rejected for a gender", "[genders]")
    assert (item.weight, "M (3)" in item.what) == ("must", True)
    assert all("[genders]" in reject.fix for reject in report.rejects)
    assert "Jane" not in json.dumps([item.what, item.fix])
    text = suggest({}, {}, PROGRAMME, genders=report.unknown_genders)
    assert '[genders]  # each is one of male, female, other, unknown\n# "M" = "?"  # 3 Patients' in text
    named = check(fhir, tmp_path, [fhir.patient("p"), *odd], '[genders]\n"M" = "male"\n"W" = "female"')
    assert named.unknown_genders == {"": 1}


def test_a_line_of_a_bundle_that_the_models_refuse_is_named_by_its_entry(fhir, tmp_path):
    bundle = {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [{"resource": fhir.patient("p")}, {"resource": fhir.patient("q") | {"unheardOf": 1}}],
    }
    report = check(fhir, tmp_path, [bundle, b"", bundle], validate="full")
    assert [one.place for one in report.validation.examples] == ["1 entry[1]", "3 entry[1]"]
    assert "x.ndjson:3 entry[1]" in render_report(report)
    [item] = said(report, "R4B models")
    assert item.what.startswith("2 of the 4 lines that were put through")
    assert "(4 lines were read" in item.what


@pytest.mark.parametrize(("validate", "workers"), [("sample", 1), ("full", 1), ("full", 2)])
def test_an_export_of_r5_is_held_against_the_models_of_r5(fhir, tmp_path, validate, workers):
    visit = {
        "resourceType": "Encounter",
        "id": "v",
        "status": "completed",
        "class": [{"coding": [{"code": "AMB"}]}],
        "subject": {"reference": "Patient/p"},
        "actualPeriod": {"start": "2010-01-01", "end": "2010-01-02"},
    }
    lines = [fhir.patient("p"), visit, visit | {"id": "w", "unheardOf": 1}]
    report = check(fhir, tmp_path, lines, validate=validate, workers=workers)
    assert report.fhir_version == "R5"
    assert (report.validation.models, report.validation.checked, report.validation.failed) == ("R5", 3, 1)
    assert [one.line for one in report.validation.examples] == [3]
    assert "(FHIR R5)" in render_report(report)


def test_a_cdm_is_named_as_one_and_build_as_its_reader(tmp_path):
    (tmp_path / "PERSON.csv").write_text("person_id\n1\n")
    with pytest.raises(GemelError) as caught:
        check_export(tmp_path, PROGRAMME)
    assert (caught.value.code, "OMOP CDM" in caught.value.message) == ("GEM208", True)
    assert "gemel data build" in caught.value.hint


def test_the_concepts_of_these_tests_are_the_programmes():
    concepts: dict[str, Concept] = {concept.name: concept for concept in PROGRAMME.concepts}
    assert concepts["hdl_cholesterol"].unit == "mg/dL"
    assert "leukocytes" not in concepts
