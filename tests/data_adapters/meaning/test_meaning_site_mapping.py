import json
import tomllib
from pathlib import Path

import pytest
from fhir.resources.conceptmap import ConceptMap as ConceptMapR5
from fhir.resources.R4B.conceptmap import ConceptMap
from hypothesis import given
from hypothesis import strategies as st

import gemel.data_adapters.meaning.site_mapping as site_mapping
from gemel.core.concepts import ICD_10_GM, LOINC, load_concepts
from gemel.core.errors import GemelError
from gemel.core.programme import CohortDefinition, Programme
from gemel.data_adapters.meaning.concepts import ConceptIndex
from gemel.data_adapters.meaning.mapping_suggestion import suggest
from gemel.data_adapters.meaning.site_mapping import NO_MAPPING, load_mapping
from gemel.data_adapters.meaning.units import find_conversion

LAB = "https://lab.example/codes"
EXAMPLE = """\
title = "St. Elsewhere, laboratory and patient administration, 2026"
time_zone = "Europe/Berlin"
preliminary = false
dates_shifted = false
require = "consent"

[codes]
"https://lab.example/codes|HDLC" = "http://loinc.org|2085-9"
"https://lab.example/codes|BPSYS" = "systolic_blood_pressure"
"BMI" = "body_mass_index"
"https://lab.example/codes|PANEL" = ["systolic_blood_pressure", "LN|39156-5"]

[texts]
"Fettleber" = "ICD-10-GM|k76.0"

[systems]
"https://lab.example/loinc" = "LOINC"

[units]
"MG%" = "mg/dL"

[units_of.leukocytes]
"TSD" = "10*3/uL"

[default_units]
body_mass_index = "kg/m2"
"https://lab.example/codes|HDLC" = "mmol/L"

[genders]
"W" = "female"

[encounters]
finished_statuses = ["discharged"]
finished_classes = ["AMB"]
"""


def write(folder: Path, text: str, name: str = "site.toml") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def programme_of(*names: str) -> Programme:
    return Programme(
        name="p",
        version="1",
        title="t",
        question="q",
        cohort=CohortDefinition(minimum_age_years=18, maximum_age_years=100, minimum_follow_up_days=1),
        concepts=tuple(load_concepts()[name] for name in names),
        features=(),
        outcomes=(),
        horizon_years=1,
    )


PROGRAMME = programme_of(
    "hdl_cholesterol", "body_mass_index", "systolic_blood_pressure", "fatty_liver", "leukocytes"
)


def test_a_whole_mapping_is_read(tmp_path):
    mapping = load_mapping(write(tmp_path, EXAMPLE))
    assert mapping.codes[LAB, "HDLC"] == (f"{LOINC}|2085-9",)
    assert mapping.codes["", "BMI"] == ("body_mass_index",)
    assert mapping.codes[LAB, "PANEL"] == ("systolic_blood_pressure", f"{LOINC}|39156-5")
    assert mapping.texts["Fettleber"] == (f"{ICD_10_GM}|K76.0",)
    assert mapping.systems["https://lab.example/loinc"] == LOINC
    assert mapping.aliases("hdl_cholesterol")["MG%"] == "mg/dL"
    assert "TSD" not in mapping.aliases("hdl_cholesterol")
    assert (
        find_conversion("TSD", load_concepts()["leukocytes"], aliases=mapping.aliases("leukocytes"))(5) == 5
    )
    assert mapping.default_unit("body_mass_index") == "kg/m2"
    assert mapping.default_unit("hdl_cholesterol", LAB, "HDLC") == "mmol/L"
    assert mapping.default_unit("hdl_cholesterol", LOINC, "2085-9") is None
    assert mapping.time_zone == "Europe/Berlin"
    assert mapping.genders == {"W": "female"}
    assert mapping.require_consent
    assert not mapping.preliminary
    assert not mapping.dates_shifted
    index = ConceptIndex(PROGRAMME, mapping)
    assert [c.name for c in index.find(LAB, "PANEL")] == ["body_mass_index", "systolic_blood_pressure"]
    assert [c.name for c in index.find_text("Fettleber")] == ["fatty_liver"]
    assert [c.name for c in index.find("https://lab.example/loinc", "2085-9")] == ["hdl_cholesterol"]


def test_the_example_in_the_documentation_is_a_mapping(tmp_path):
    example = site_mapping.__doc__.partition("\n\n    title")[2]
    text = "title" + "\n".join(line.removeprefix("    ") for line in example.splitlines())
    documented = load_mapping(write(tmp_path, text))
    assert set(documented.codes) == {(LAB, "HDLC"), (LAB, "BPSYS"), ("", "BMI")}
    assert set(tomllib.loads(text)) == set(tomllib.loads(EXAMPLE))


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [
        ("finished", None, True),
        ("discharged", None, True),
        (None, "AMB", True),
        ("unknown", "AMB", True),
        ("in-progress", "AMB", False),
        ("cancelled", "AMB", False),
        (None, "IMP", False),
    ],
)
def test_local_statuses_and_classes_finish_an_encounter(tmp_path, status, kind, expected):
    assert load_mapping(write(tmp_path, EXAMPLE)).is_finished(status, kind) is expected


def test_no_file_is_no_mapping():
    assert load_mapping() == NO_MAPPING
    assert not NO_MAPPING.is_finished("discharged", "AMB")


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("title = ", "GEM240", "not TOML"),
        ("colour = 'red'", "GEM240", "colour"),
        ("[units]\n'mg' = 10.0", "GEM240", "no factor"),
        ("[encounters]\nfinished = true", "GEM240", "finished"),
        ("[codes]\n\n'A' = 'HDL Cholesterol'", "GEM241", r"site\.toml:3.*neither a concept"),
        ("[codes]\n'A' = 'LOINC|2085-8'", "GEM241", r"site\.toml:2.*check digit would be 9"),
        ("[codes]\n'A' = 'LOINC|HDL'", "GEM241", "no LOINC code"),
        ("[codes]\n'A' = 'LAB|2085-9'", "GEM241", "no code system"),
        ("[codes]\n'A' = []", "GEM241", "maps to nothing"),
        ("[codes]\n'https://x|' = 'fatty_liver'", "GEM241", "local code is empty"),
        ("[units]\n'MG%' = 'mcg/dL'", "GEM241", r"site\.toml:2.*is 'ug/dL' meant"),
        ("[units]\n'MG%' = ''", "GEM241", "no UCUM"),
        ("[units]\n'x' = '* 10'", "GEM241", "no UCUM"),
        ("[units_of.fatty_liver]\n'x' = 'g'", "GEM241", r"site\.toml:1.*not measured"),
        ("[units_of.leukocytes]\n'x' = 'furlong'", "GEM241", r"site\.toml:2.*no UCUM"),
        ("[default_units]\n'HDL C' = 'g'", "GEM241", "neither a concept"),
        ("time_zone = 'Berlin'", "GEM241", r"site\.toml:1.*IANA"),
        ("time_zone = '../../etc/passwd'", "GEM241", "IANA"),
        ("[genders]\n'W' = 'woman'", "GEM241", "male, female"),
        ("require = 'nothing'", "GEM241", "only 'consent'"),
        ("[codes]\n'A' = 'fatty_liver'\n'|A' = 'stroke'", "GEM242", "twice"),
    ],
)
def test_an_entry_that_cannot_hold_is_refused_where_it_stands(tmp_path, text, code, reason):
    with pytest.raises(GemelError, match=reason) as caught:
        load_mapping(write(tmp_path, text))
    assert caught.value.code == code


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path):
    (tmp_path / "latin.toml").write_bytes(b"title = 'Stra\xdfe'")
    for path in (tmp_path / "none.toml", tmp_path / "latin.toml", tmp_path):
        with pytest.raises(GemelError) as caught:
            load_mapping(path)
        assert caught.value.code == "GEM240"


def test_files_are_joined_and_may_not_contradict_each_other(tmp_path):
    one = write(tmp_path, "[codes]\n'A' = 'fatty_liver'\n[units]\n'x' = 'g'", "one.toml")
    two = write(
        tmp_path,
        "[codes]\n'A' = 'fatty_liver'\n'B' = 'stroke'\n[units_of.leukocytes]\n'y' = 'g/L'",
        "two.toml",
    )
    joined = load_mapping(one, two)
    assert set(joined.codes) == {("", "A"), ("", "B")}
    assert joined.units == {"x": "g"}
    assert joined.concept_units == {"leukocytes": {"y": "g/L"}}
    for text in ("[codes]\n\n'A' = 'stroke'", "[units]\n\n'x' = 'mg'"):
        three = write(tmp_path, text, "three.toml")
        with pytest.raises(GemelError, match=r"three\.toml:3.*one\.toml:\d") as caught:
            load_mapping(one, three)
        assert caught.value.code == "GEM242"
    zones = [
        write(tmp_path, f"time_zone = '{zone}'", f"{i}.toml")
        for i, zone in enumerate(("UTC", "Europe/Paris"))
    ]
    with pytest.raises(GemelError, match="time zones"):
        load_mapping(*zones)


def concept_map(*targets: dict, **more) -> dict:
    return {
        "resourceType": "ConceptMap",
        "status": "active",
        "group": [
            {
                "source": LAB,
                "target": "http://loinc.org",
                "element": [{"code": f"L{i}", "target": [target]} for i, target in enumerate(targets)],
            }
        ],
        **more,
    }


def test_a_concept_map_maps_what_means_the_same_or_less_than_its_target(tmp_path):
    kinds = [
        "equal",
        "equivalent",
        "wider",
        "subsumes",
        "narrower",
        "specializes",
        "inexact",
        "relatedto",
        "disjoint",
    ]
    resource = concept_map(*({"code": "2085-9", "equivalence": kind} for kind in kinds))
    ConceptMap.model_validate(resource)
    mapping = load_mapping(write(tmp_path, json.dumps(resource), "map.json"))
    assert {code for _, code in mapping.codes} == {"L0", "L1", "L2", "L3"}
    assert mapping.codes[LAB, "L0"] == (f"{LOINC}|2085-9",)
    # Disjoint is an answer; the others are told.
    assert [reason.partition("'L")[2][0] for reason in mapping.skipped] == ["4", "5", "6", "7"]
    assert "narrower" in mapping.skipped[0]


def test_a_concept_map_of_r5_says_it_the_other_way_round(tmp_path):
    kinds = ["equivalent", "source-is-narrower-than-target", "source-is-broader-than-target", "related-to"]
    kinds.append("not-related-to")
    resource = concept_map(*({"code": "2085-9", "relationship": kind} for kind in kinds))
    ConceptMapR5.model_validate(resource)
    mapping = load_mapping(write(tmp_path, json.dumps(resource), "map.json"))
    assert {code for _, code in mapping.codes} == {"L0", "L1"}
    assert len(mapping.skipped) == 2


def test_what_a_concept_map_makes_depend_on_something_is_not_taken(tmp_path):
    target = {"code": "2085-9", "equivalence": "equal", "dependsOn": [{"property": "http://x", "value": "y"}]}
    resource = concept_map(target)
    resource["group"][0]["unmapped"] = {"mode": "fixed", "code": "2085-9"}
    ConceptMap.model_validate(resource)
    mapping = load_mapping(write(tmp_path, json.dumps(resource), "map.json"))
    assert not mapping.codes
    assert [part in " ".join(mapping.skipped) for part in ("depends", "unmapped")] == [True, True]


@pytest.mark.parametrize(
    ("content", "code", "reason"),
    [
        ("{", "GEM240", "no FHIR ConceptMap"),
        ('{"resourceType": "ValueSet"}', "GEM240", "is a ValueSet"),
        (json.dumps(concept_map(status="retired")), "GEM240", "retired"),
        (json.dumps(concept_map(implicitRules="http://x")), "GEM240", "rules"),
        (
            json.dumps(concept_map({"code": "2085-8", "equivalence": "equal"})),
            "GEM241",
            r"map\.json \$\.group\[0\]\.element\[0\].*check digit",
        ),
    ],
)
def test_a_concept_map_that_cannot_hold_is_refused_with_its_path(tmp_path, content, code, reason):
    with pytest.raises(GemelError, match=reason) as caught:
        load_mapping(write(tmp_path, content, "map.json"))
    assert caught.value.code == code


UNMAPPED = {
    ("LN", "2085-9"): 40,
    (LAB, "HDLC"): 900,
    ("", "39156-5 v2.68"): 7,
    ("2.16.840.1.113883.6.1", "8480-6^SYS"): 8,
    (LAB, 'odd"\\\n# code = "x"'): 3,
    ("", "text only"): 99,
}
PROBLEMS = {
    ("GEM203", "hdl_cholesterol", "MG%", "r"): 5,
    ("GEM203", "leukocytes", "10 ^ 9 / L", "r"): 6,
    ("GEM202", "body_mass_index", "", "r"): 4,
    ("GEM202", "", "", "r"): 2,
}


def test_a_suggestion_is_a_mapping_in_which_nothing_holds_yet(tmp_path):
    text = suggest(UNMAPPED, PROBLEMS, PROGRAMME, displays={(LAB, "HDLC"): "HDL cholesterol"})
    mapping = load_mapping(write(tmp_path, text))
    assert not mapping.codes
    assert not mapping.default_units
    lines = text.splitlines()
    listed = [line for line in lines if line.endswith("times") or "times (" in line]
    assert f'# "{LAB}|HDLC" = "hdl_cholesterol"  # 900 times (HDL cholesterol)' == listed[0]
    assert f'# "LN|2085-9" = "{LOINC}|2085-9"  # 40 times' in lines
    assert f'# "39156-5 v2.68" = "{LOINC}|39156-5"  # 7 times' in lines
    assert f'# "2.16.840.1.113883.6.1|8480-6^SYS" = "{LOINC}|8480-6"  # 8 times' in lines
    assert '# "MG%" = "?"  # 5 times' in lines
    assert '# "10 ^ 9 / L" = "10*9/L"  # 6 times' in lines
    assert any(line.startswith('# body_mass_index = "?"  # 4 times') for line in lines)
    assert "text only" not in text


def test_a_suggestion_becomes_a_mapping_when_its_candidates_are_taken(tmp_path):
    unmapped = {key: number for key, number in UNMAPPED.items() if "odd" not in key[1] and key[1] != "HDLC"}
    text = suggest(unmapped, PROBLEMS, PROGRAMME)
    taken = [
        line[2:] if line.startswith("# ") and '" = "' in line and '"?"' not in line else line
        for line in text.splitlines()
    ]
    index = ConceptIndex(PROGRAMME, load_mapping(write(tmp_path, "\n".join(taken))))
    assert [c.name for c in index.find("LN", "2085-9")] == ["hdl_cholesterol"]
    assert [c.name for c in index.find("", "39156-5 v2.68")] == ["body_mass_index"]


@given(st.dictionaries(st.tuples(st.text(max_size=20), st.text(max_size=20)), st.integers(1, 9), max_size=5))
def test_whatever_codes_an_export_holds_the_suggestion_is_toml(unmapped):
    text = suggest(unmapped, {}, PROGRAMME, displays={key: "d\n[x" for key in unmapped})
    assert tomllib.loads(text) == {"codes": {}}
