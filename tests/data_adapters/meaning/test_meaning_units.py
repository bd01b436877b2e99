import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.core.concepts import Concept, load_concepts
from gemel.data_adapters.meaning.units import (
    COMMON_ALIASES,
    IDENTITY,
    find_conversion,
    is_ucum,
    recorded_unit,
)

HDL = Concept(name="hdl", title="HDL", codes=(), unit="mg/dL", molar_mass_g_mol=386.65)
HDL_MOLAR = Concept(name="hdl", title="HDL", codes=(), unit="mmol/L", molar_mass_g_mol=386.65)
PRESSURE = Concept(name="bp", title="BP", codes=(), unit="mm[Hg]")
TEMPERATURE = Concept(name="t", title="Temperature", codes=(), unit="Cel")
CELLS = Concept(name="c", title="Cells", codes=(), unit="10*9/L")
NO_MASS = Concept(name="x", title="X", codes=(), unit="mg/dL")
SCORE = Concept(name="s", title="Score", codes=(), unit="1")


@pytest.mark.parametrize(
    ("concept", "unit", "value", "expected"),
    [
        (HDL, "mmol/L", 1.0, 38.665),
        (HDL, "mmol/l", 1.3, 50.2645),
        (HDL, "umol/L", 1000.0, 38.665),
        (HDL, "mg/dL", 47.0, 47.0),
        (HDL, "g/L", 0.5, 50.0),
        (HDL_MOLAR, "mg/dL", 38.665, 1.0),
        (PRESSURE, "mmHg", 120.0, 120.0),
        (PRESSURE, "kPa", 13.3322387415, 100.0),
        (TEMPERATURE, "[degF]", 100.4, 38.0),
        (CELLS, "10*3/uL", 5.0, 5.0),
        (SCORE, "{score}", 3.0, 3.0),
    ],
)
def test_a_value_is_converted_to_the_concepts_unit(concept, unit, value, expected):
    conversion = find_conversion(unit, concept)
    assert conversion is not None
    assert conversion(value) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("concept", "unit"),
    [
        (NO_MASS, "mmol/L"),  # no molar mass: no guess
        (HDL, "mm[Hg]"),
        (HDL, "furlong"),
        (HDL, ""),
        (HDL, "{"),
        (PRESSURE, "mg/dL"),
        (Concept(name="d", title="Diagnosis", codes=()), "mg/dL"),
    ],
)
def test_what_cannot_be_converted_is_refused_not_guessed(concept, unit):
    assert find_conversion(unit, concept) is None


def test_a_site_alias_makes_a_local_spelling_known():
    assert find_conversion("MG%", HDL) is None
    assert find_conversion("MG%", HDL, aliases={"MG%": "mg/dL"}) == IDENTITY


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=12))
def test_no_text_breaks_the_unit_parser(unit):
    conversion = find_conversion(unit, HDL)
    assert conversion is None or conversion.factor > 0


@given(st.floats(0.1, 10))
def test_mass_and_amount_of_substance_convert_there_and_back(value):
    there, back = find_conversion("mmol/L", HDL), find_conversion("mg/dL", HDL_MOLAR)
    assert back(there(value)) == pytest.approx(value, rel=1e-9)


LIBRARY = load_concepts()


@pytest.mark.parametrize(
    ("name", "unit", "value", "expected"),
    [
        ("hba1c", "mmol/mol", 53.0, 7.0),  # the pair that NGSP prints: 53 mmol/mol is 7.0 %
        ("hba1c", "mmol/mol{Hb}", 42.0, 6.0),
        ("hba1c", "%", 7.0, 7.0),
        ("hba1c", "%{Hb}", 7.0, 7.0),
        ("glucose", "mmol/L", 5.551, 100.0),  # labunits: 0.05551
        ("creatinine", "µmol/L", 88.4, 1.0),  # labunits: 88.4
        ("urea_nitrogen", "mmol/L", 0.357, 1.0),  # labunits: 0.357
        ("triglycerides", "mmol/L", 1.129, 100.0),  # labunits: 0.01129
        ("total_bilirubin", "umol/L", 17.1, 1.0),
        ("urine_albumin_creatinine_ratio", "mg/mmol", 1.0, 8.84),
        ("leukocytes", "10*3/uL", 5.0, 5.0),
        ("leukocytes", "K/uL", 5.0, 5.0),
        ("leukocytes", "G/l", 5.0, 5.0),
        ("leukocytes", "/uL", 5000.0, 5.0),
        ("haemoglobin", "G/L", 140.0, 14.0),
        ("alanine_aminotransferase", "IU/L", 30.0, 30.0),
        ("alanine_aminotransferase", "ukat/L", 0.5, 30.0),
        ("egfr", "mL/min/1.73_m2", 90.0, 90.0),
        ("egfr", "mL/min/{1.73_m2}", 90.0, 90.0),
        ("heart_rate", "bpm", 70.0, 70.0),
        ("heart_rate", "Hz", 1.0, 60.0),
        ("body_temperature", "[degF]", 98.6, 37.0),
        ("body_temperature", "°F", 98.6, 37.0),
        ("body_temperature", "K", 310.15, 37.0),
        ("body_weight", "lbs", 100.0, 45.359237),
        ("body_height", "[in_i]", 70.0, 177.8),
        ("systolic_blood_pressure", "kPa", 16.0, 120.0),
        ("oxygen_saturation", "1", 0.97, 97.0),
        ("ferritin", "ug/L", 100.0, 100.0),
        ("ferritin", "MCG/L", 100.0, 100.0),
        ("steps_per_day", "{steps}", 4000.0, 4000.0),
        ("steps_per_day", "1", 4000.0, 4000.0),
        ("steps_per_day", "{steps}/d", 4000.0, 4000.0),
        ("nihss", "{score}", 4.0, 4.0),
        ("nihss", "1", 4.0, 4.0),
        ("inr", "{INR}", 2.5, 2.5),
    ],
)
def test_the_librarys_concepts_convert_as_laboratories_do(name, unit, value, expected):
    conversion = find_conversion(unit, LIBRARY[name])
    assert conversion is not None
    assert conversion(value) == pytest.approx(expected, rel=3e-3)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("hba1c", "1"),  # a fraction: of which of the two?
        ("hba1c", "mol/mol"),
        ("hba1c", "mmol/L"),
        ("haemoglobin", "mmol/L"),  # of the tetramer or the monomer?
        ("insulin", "pmol/L"),
        ("haemoglobin", "10*9/L"),
        ("leukocytes", "g/L"),
        ("leukocytes", "G"),
        ("glucose", "meq/L"),  # a valence that no unit states
        ("glucose", "mg"),
        ("nihss", ""),
        ("systolic_blood_pressure", "{"),
        ("body_height", "{cm"),
        ("inr", "%/"),
    ],
)
def test_what_two_conventions_measure_differently_is_refused(name, unit):
    assert find_conversion(unit, LIBRARY[name]) is None


@pytest.mark.parametrize("concept", [c for c in LIBRARY.values() if c.unit], ids=lambda c: c.name)
def test_each_unit_of_the_library_is_ucum(concept):
    assert is_ucum(concept.unit)
    assert all(is_ucum(equation.unit) for equation in concept.equations)


@pytest.mark.parametrize("unit", sorted(set(COMMON_ALIASES.values())))
def test_each_alias_leads_to_a_ucum_unit(unit):
    assert is_ucum(unit)
    assert unit not in COMMON_ALIASES


@pytest.mark.parametrize(
    ("code", "system", "text", "expected"),
    [
        ("mg/dL", "http://unitsofmeasure.org", "milligrams", "mg/dL"),
        ("mg/dL", None, "milligrams", "mg/dL"),
        ("258797006", "http://snomed.info/sct", "mg/dL", "mg/dL"),
        ("258797006", "http://snomed.info/sct", None, "258797006"),
        (None, None, None, ""),
    ],
)
def test_a_code_counts_as_unit_only_when_its_system_is_ucum(code, system, text, expected):
    assert recorded_unit(code=code, system=system, text=text) == expected


def test_common_units_need_no_registry():
    program = (
        "import sys; from gemel.core.concepts import load_concepts as l;"
        "from gemel.data_adapters.meaning.units import find_conversion as f; c = l();"
        "assert all(f(u, c[n]) is not None for n, u in [('glucose','mg/dl'),('egfr','mL/min/1.73m2'),"
        "('nihss','{score}'),('hba1c','mmol/mol'),('leukocytes','10^9/L'),('platelets','G/l')]);"
        "assert 'pint' not in sys.modules and 'ucumvert' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([c for c in LIBRARY.values() if c.unit]),
    st.sampled_from(sorted({c.unit for c in LIBRARY.values() if c.unit})),
)
def test_whatever_converts_keeps_the_order_of_values(concept, unit):
    conversion = find_conversion(unit, concept)
    assert conversion is None or conversion(2.0) > conversion(1.0)
