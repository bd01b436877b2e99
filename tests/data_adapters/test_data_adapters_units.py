import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.core.concepts import Concept
from gemel.data_adapters.meaning.units import IDENTITY, find_conversion

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
