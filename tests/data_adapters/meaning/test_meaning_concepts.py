import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemel.core.concepts import ATC, ICD_10, ICD_10_CM, ICD_10_GM, LOINC, SNOMED_CT, load_concepts
from gemel.core.errors import GemelError
from gemel.core.programme import CohortDefinition, Programme
from gemel.data_adapters.meaning.code_systems import code_problem, standard_code, standard_system
from gemel.data_adapters.meaning.concepts import ConceptIndex
from gemel.data_adapters.meaning.site_mapping import SiteMapping


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
    "hdl_cholesterol",
    "fatty_liver",
    "atrial_fibrillation",
    "atrial_flutter",
    "insulins",
    "stroke",
    "body_mass_index",
)
INDEX = ConceptIndex(PROGRAMME)


def names(concepts) -> list[str]:
    return [concept.name for concept in concepts]


@pytest.mark.parametrize(
    ("system", "code", "expected"),
    [
        (LOINC, "2085-9", ["hdl_cholesterol"]),
        ("https://loinc.org/", " 2085-9 ", ["hdl_cholesterol"]),
        ("http://loinc.org|2.76", "2085-9", ["hdl_cholesterol"]),
        ("urn:oid:2.16.840.1.113883.6.1", "2085-9", ["hdl_cholesterol"]),
        ("http://snomed.info/sct/11000274103/version/20260515", "197321007", ["fatty_liver"]),
        (ICD_10, "K76.0", ["fatty_liver"]),
        (ICD_10, "k760", ["fatty_liver"]),
        ("urn:oid:2.16.840.1.113883.6.90", "I4891", ["atrial_fibrillation"]),
        ("http://fhir.de/CodeSystem/dimdi/icd-10-gm", "I48.3", ["atrial_fibrillation", "atrial_flutter"]),
        (ICD_10_GM, "I63.4†", ["stroke"]),
        (ICD_10_GM, "I48.-", ["atrial_fibrillation"]),
        ("http://www.whocc.no/atc/", "a10ab01", ["insulins"]),
        ("http://fhir.de/CodeSystem/bfarm/atc", "A10AB01", ["insulins"]),
        (ICD_10_CM, "I63.411", ["stroke"]),
        # not the same
        ("LN", "2085-9", []),
        ("http://lab.example", "2085-9", []),
        ("", "2085-9", []),
        (LOINC, "2085-90", []),
        (LOINC, "2085", []),
        (ICD_10_CM, "I64", []),
        (ICD_10_CM, "K76.0!", []),  # the American modification has no such marks
        (ICD_10_GM, "I48.0V", []),  # suspected
        (ICD_10_GM, "I480A", []),  # excluded
        (SNOMED_CT, "19732100", []),
        (ICD_10, "", []),
        (ICD_10, "K7", []),
    ],
)
def test_a_code_is_found_under_every_name_of_its_system(system, code, expected):
    assert names(INDEX.find(system, code)) == expected


def test_what_the_mapping_says_of_a_code_holds_alone():
    mapping = SiteMapping(
        codes={
            ("http://lab.example", "HDLC"): (f"{LOINC}|2085-9",),
            ("", "BMI"): ("body_mass_index",),
            (LOINC, "2085-9"): ("body_mass_index",),  # a code that the site misuses
            ("http://lab.example", "BOTH"): ("stroke", "fatty_liver"),
            ("http://lab.example", "OTHER"): ("nihss",),  # a concept of another programme
        },
        texts={"Fettleber": (f"{ICD_10_GM}|K76.0",)},
        systems={"LAB-LOINC": LOINC},
    )
    index = ConceptIndex(PROGRAMME, mapping)
    assert names(index.find("http://lab.example", "HDLC")) == ["hdl_cholesterol"]
    assert names(index.find("", "BMI")) == ["body_mass_index"]
    assert names(index.find("http://elsewhere.example", "BMI")) == []
    assert names(index.find(LOINC, "2085-9")) == ["body_mass_index"]
    assert names(index.find("http://lab.example", "BOTH")) == [
        "fatty_liver",
        "stroke",
    ]  # the programme's order
    assert index.find("http://lab.example", "OTHER") == ()
    assert names(index.find("LAB-LOINC", "14646-4")) == ["hdl_cholesterol"]
    assert names(index.find_text("Fettleber")) == ["fatty_liver"]
    assert index.find_text("fettleber") == ()


def test_a_mapping_to_a_concept_that_nobody_has_is_refused_with_its_place():
    mapping = SiteMapping(codes={("", "X"): ("hdl_colesterol",)}, places={("codes", "|X"): "lab.toml:7"})
    with pytest.raises(GemelError, match=r"lab\.toml:7.*hdl_colesterol") as caught:
        ConceptIndex(PROGRAMME, mapping)
    assert caught.value.code == "GEM241"


@given(st.text(max_size=30), st.text(max_size=12))
def test_no_text_breaks_the_lookup(system, code):
    assert isinstance(INDEX.find(system, code), tuple)
    assert standard_system(standard_system(system)) == standard_system(system)


@given(st.sampled_from([ICD_10, ICD_10_CM, ICD_10_GM, ATC, LOINC]), st.text(max_size=10))
def test_writing_a_code_as_its_system_does_changes_nothing_twice(system, code):
    once = standard_code(system, code)
    assert standard_code(system, once) == once


@given(st.integers(1, 999_999))
def test_exactly_one_check_digit_is_right(number):
    assert [code_problem(LOINC, f"{number}-{digit}") for digit in range(10)].count(None) == 1
