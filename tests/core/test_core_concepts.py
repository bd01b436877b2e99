import pytest

from gemel.core.concepts import (
    CODE_SYSTEMS,
    ICD_10,
    ICD_10_CM,
    LOINC,
    SNOMED_CT,
    Code,
    Concept,
    concept_problem,
    load_concepts,
    read_library,
)
from gemel.core.errors import GemelError

LIBRARY = load_concepts()


def verhoeff(digits: str) -> int:
    """The check sum of SNOMED CT identifiers; 0 when they are right (J. Verhoeff, 1969)."""
    times = [[0] * 10 for _ in range(10)]
    for a in range(10):
        for b in range(10):
            if a < 5:
                times[a][b] = (a + b) % 5 if b < 5 else 5 + (a + b - 5) % 5
            else:
                times[a][b] = 5 + (a - 5 - b) % 5 if b < 5 else (a - b) % 5
    first = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]
    powers = [list(range(10))]
    for _ in range(7):
        powers.append([first[digit] for digit in powers[-1]])
    total = 0
    for i, digit in enumerate(reversed(digits)):
        total = times[total][powers[i % 8][int(digit)]]
    return total


def loinc_check(code: str) -> bool:
    digits, _, check = code.partition("-")
    doubled = "".join(str(2 * int(d) if i % 2 == 0 else int(d)) for i, d in enumerate(reversed(digits)))
    return (10 - sum(map(int, doubled)) % 10) % 10 == int(check)


@pytest.mark.parametrize("concept", LIBRARY.values(), ids=lambda concept: concept.name)
def test_each_concept_of_the_library_is_consistent(concept):
    assert concept_problem(concept) is None
    assert concept.title


def test_the_library_covers_the_table_of_the_twins():
    assert len(LIBRARY) >= 130
    verified = [code for concept in LIBRARY.values() for code in concept.codes if code.verified]
    assert len(verified) > 150
    for name in ("nihss", "creatinine", "hba1c", "stroke", "metformin", "thrombectomy", "oxygen_saturation"):
        assert name in LIBRARY


def test_codes_carry_the_check_digits_of_their_terminologies():
    codes = {(code.system, code.code) for concept in LIBRARY.values() for code in concept.codes}
    assert [code for system, code in codes if system == LOINC and not loinc_check(code)] == []
    assert [code for system, code in codes if system == SNOMED_CT and verhoeff(code) != 0] == []


def test_known_traps_are_not_in_the_library():
    by_code = {
        (code.system, code.code): concept.name for concept in LIBRARY.values() for code in concept.codes
    }
    assert (LOINC, "72514-3") not in by_code  # pain severity, often taken for the modified Rankin Scale
    assert by_code[LOINC, "3151-8"] == "inhaled_oxygen_flow"
    assert by_code[LOINC, "3150-0"] == "inhaled_oxygen_concentration"
    assert (LOINC, "3150-6") not in by_code  # often written for it, and no LOINC code by its check digit
    assert by_code[LOINC, "48065-7"] != by_code[LOINC, "48066-5"]  # FEU is about twice DDU
    assert by_code[LOINC, "22664-7"] != by_code[LOINC, "3094-0"]  # urea, and the nitrogen in it


def test_codes_that_only_one_modification_has_stand_only_there():
    systems = {
        (concept.name, code.code): {c.system for c in concept.codes if c.code == code.code}
        for concept in LIBRARY.values()
        for code in concept.codes
    }
    assert systems["nonalcoholic_steatohepatitis", "K75.81"] == {ICD_10_CM}
    assert ICD_10_CM not in systems["stroke", "I64"]
    assert ICD_10 in systems["stroke", "I64"]


def test_what_was_not_checked_says_so():
    for concept in LIBRARY.values():
        for code in concept.codes:
            unchecked = "not checked" in code.source or "not looked up" in code.source
            assert code.verified != unchecked, (concept.name, code)


CODE = Code(LOINC, "1-8", verified=False, source="s")


@pytest.mark.parametrize(
    ("concept", "reason"),
    [
        (Concept(name="Bad Name", title="t", codes=(CODE,)), "slug"),
        (Concept(name="a", title="t", codes=()), "no code"),
        (Concept(name="a", title="t", codes=(CODE, CODE)), "twice"),
        (Concept(name="a", title="t", codes=(Code("http://x", "1", True, "s"),)), "no known code system"),
        (Concept(name="a", title="t", codes=(Code(LOINC, "1-8", True, ""),)), "no source"),
        (Concept(name="a", title="t", codes=(CODE,), low=1), "no unit"),
        (Concept(name="a", title="t", codes=(CODE,), unit="g", low=2, high=1, source="s"), "low below high"),
        (Concept(name="a", title="t", codes=(CODE,), unit="g", low=1, high=2), "no source"),
    ],
)
def test_an_inconsistent_concept_is_named(concept, reason):
    assert reason in concept_problem(concept)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[a", "cannot be read"),
        ('[a]\ntitle="t"\ncodes=[{system="loinc",code="1-8",verified=true,source="nobody"}]', "nobody"),
        ('[a]\ntitle="t"\ncodes=[{system="icd_9",code="1",verified=true,source="s"}]', "icd_9"),
        ('[a]\ntitle="t"\ncodes=[{system="loinc",code="1-8",source="s"}]', "verified"),
        (
            '[a]\ntitle="t"\ncolour="red"\ncodes=[{system="loinc",code="1-8",verified=true,source="s"}]',
            "colour",
        ),
        ("a = 1", "GEM243"),
    ],
)
def test_a_damaged_library_is_refused_with_its_place(tmp_path, text, reason):
    (tmp_path / "sources.toml").write_text('s = "a source"')
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(GemelError, match=reason) as caught:
        read_library(tmp_path)
    assert caught.value.code == "GEM243"
    assert "x.toml" in str(caught.value)


def test_a_concept_may_not_stand_in_two_files(tmp_path):
    (tmp_path / "sources.toml").write_text('s = "a source"')
    for name in ("x", "y"):
        (tmp_path / f"{name}.toml").write_text(
            '[a]\ntitle="t"\ncodes=[{system="loinc",code="1-8",verified=true,source="s"}]'
        )
    with pytest.raises(GemelError, match="twice"):
        read_library(tmp_path)


def test_code_systems_are_uris():
    assert all(uri.startswith("http://") for uri in CODE_SYSTEMS.values())
