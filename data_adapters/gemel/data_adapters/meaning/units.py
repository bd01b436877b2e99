"""Units of measurement: UCUM to UCUM as a linear map, mass to amount of substance by the concept's molar mass."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from gemel.core.concepts import Concept, UnitEquation


class Conversion(NamedTuple):
    """value in the concept's unit = factor * value + offset."""

    factor: float
    offset: float

    def __call__(self, value: float) -> float:
        """Convert one value."""
        return self.factor * value + self.offset


IDENTITY = Conversion(1.0, 0.0)

UCUM_SYSTEMS = ("http://unitsofmeasure.org", "urn:oid:2.16.840.1.113883.6.8")

# Spellings that hospitals write where UCUM belongs, and what they mean; each can mean one thing only.
_SPELLINGS = {
    "mm[Hg]": "mmHg, mm Hg, mmhg, MMHG, MM[HG], mm(Hg)",
    "kg/m2": "kg/m², kg/m^2, kg/m*2, Kg/m2, Kg/m², KG/M2, kg/sqm",
    "mg/dL": "mg/dl, MG/DL, mg/100mL, mg/100 mL",
    "mmol/L": "mmol/l, MMOL/L, mM",
    "umol/L": "µmol/l, µmol/L, μmol/l, μmol/L, UMOL/L, mcmol/L",  # the micro sign, and the Greek mu
    "nmol/L": "NMOL/L",
    "pmol/L": "PMOL/L",
    "g/L": "g/l, G/L",
    "g/dL": "g/dl, G/DL, gm/dL, gm/dl, g/100mL",
    "mg/L": "mg/l, MG/L",
    "ug/L": "µg/l, µg/L, μg/l, μg/L, mcg/L, mcg/l, MCG/L, UG/L",
    "ug/dL": "µg/dl, µg/dL, μg/dl, μg/dL, mcg/dL, mcg/dl, MCG/DL, UG/DL",
    "ug/mL": "µg/ml, µg/mL, μg/ml, μg/mL, mcg/mL, mcg/ml, MCG/ML, UG/ML",
    "ng/mL": "ng/ml, NG/ML",
    "pg/mL": "pg/ml, PG/ML",
    "U/L": "u/l, u/L",
    "[IU]/L": "IU/L, IU/l, iu/L, iu/l, IE/L, IE/l",
    "m[IU]/L": "mIU/L, mIU/l",
    "u[IU]/mL": "uIU/mL, uIU/ml, µIU/mL, μIU/mL",
    "k[IU]/L": "kIU/L",
    "meq/L": "mEq/L, mEq/l, mval/l, mval/L, MEQ/L",
    "mmol/mol": "mmol/mol Hb, mmol/molHb, mmol/mol{Hb}",
    "%": "percent, Percent, pct, % Hb, %Hb, %HbA1c",
    "/min": "bpm, BPM, beats/min, beats/minute, {beats}/min, breaths/min, 1/min, min-1, min^-1, /minute",
    "a": "years, year, yrs, yr, Jahre",
    "d": "days, day",
    "s": "sec, seconds, second, secs, Sek",
    "ms": "msec, milliseconds",
    "Cel": "°C, degC, deg C, DegC, Celsius, celsius",
    "[degF]": "°F, degF, deg F, DegF, Fahrenheit, fahrenheit",
    "cm": "CM, centimeter, centimeters",
    "kg": "KG, Kg, kilogram, kilograms, kgs",
    "[lb_av]": "lb, lbs, LB, LBS, pounds",
    "[in_i]": "in, inch, inches, IN",
    "mL/min/{1.73_m2}": (
        "mL/min/1.73m2, mL/min/1.73_m2, mL/min/1.73 m2, mL/min/1.73m², mL/min/1.73 m², mL/min/1.73m^2,"
        " ml/min/1.73m2, ml/min/1.73_m2, ml/min/1.73 m2, ml/min/1.73m², ml/min/1.73 m²,"
        " mL/min/1.73sqm, mL/min/1.73 sq m, ml/min/1.73qm, mL/min/1.73.m2, mL/min/{1.73.m2}"
    ),
    "10*3/uL": "10^3/uL, 10E3/uL, x10^3/uL, 10*3/µL, 10^3/µL, 10*3/ul, 10^3/ul, K/uL, K/µL, K/UL, k/uL, thou/uL, Tsd/µl",
    "10*6/uL": "10^6/uL, 10E6/uL, x10^6/uL, 10*6/µL, 10*6/ul, 10^6/ul, M/uL, M/µL",
    "10*9/L": "10^9/L, 10E9/L, x10^9/L, 10*9/l, 10^9/l, 10e9/L, x10E9/L, Gpt/L, Gpt/l",
    "10*12/L": "10^12/L, 10E12/L, x10^12/L, 10*12/l, 10^12/l, Tpt/L, Tpt/l",
    "/uL": "/µL, /µl, /ul, cells/uL, cells/µL",
}
COMMON_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        spelling: ucum
        for ucum, spellings in _SPELLINGS.items()
        for spelling in map(str.strip, re.split(r",(?!\d)", spellings))
    }
)
# Tried only where a concept counts particles: elsewhere these are grams, gauss or tesla.
COUNT_ALIASES: Mapping[str, str] = MappingProxyType(
    {"G/L": "10*9/L", "G/l": "10*9/L", "Giga/L": "10*9/L", "T/L": "10*12/L", "T/l": "10*12/L"}
)

_ANNOTATION = re.compile(r"\{[^{}]*\}")
_EQUIVALENTS = re.compile(r"(?<![A-Za-z\[])[a-zA-Z]{0,2}eq(?![A-Za-z\]])")


def recorded_unit(*, code: str | None, system: str | None, text: str | None) -> str:
    """The unit of a FHIR Quantity that counts: the UCUM code, else the text, else a code of another system.

    >>> recorded_unit(code="266016", system="urn:iso:std:iso:11073:10101", text="mmHg")
    'mmHg'
    """
    if code and (not system or system in UCUM_SYSTEMS):
        return code
    return text or code or ""


def find_conversion(
    unit: str, concept: Concept, *, aliases: Mapping[str, str] = COMMON_ALIASES
) -> Conversion | None:
    """How to convert a recorded unit to the concept's; None when it cannot be (GEM203), never a guess.

    Args:
        unit: The unit as recorded: a UCUM code or one of the aliases.
        concept: A measured concept; with `molar_mass_g_mol`, mass and amount of substance convert.
        aliases: Site table from recorded spellings to UCUM (`SiteMapping.aliases`).
    """
    if concept.unit is None:
        return None
    unit = unit.strip()
    ucum = aliases.get(unit, unit)
    if concept.unit.startswith("10*") and ucum == COMMON_ALIASES.get(unit, unit):
        ucum = COUNT_ALIASES.get(unit, ucum)
    return _convert(ucum, concept.unit, concept.molar_mass_g_mol, concept.equations)


def is_ucum(unit: str) -> bool:
    """Whether a text is a UCUM unit that values can be converted from."""
    return _parse(unit) is not None


@functools.lru_cache(maxsize=4096)
def _convert(
    unit: str, target: str, molar_mass_g_mol: float | None, equations: tuple[UnitEquation, ...]
) -> Conversion | None:
    if not unit:
        return None
    # An annotation in braces means nothing to UCUM; so most units need no registry.
    if _plain(unit) == _plain(target):
        return IDENTITY
    for equation in equations:
        if _plain(unit) == equation.unit or unit == equation.unit:
            return Conversion(equation.factor, equation.offset)
    # An equivalent is an amount of substance times a valence that no unit states.
    if bool(_EQUIVALENTS.search(unit)) != bool(_EQUIVALENTS.search(target)):
        return None
    parsed, parsed_target = _parse(unit), _parse(target)
    if parsed is None or parsed_target is None:
        return None
    if any(_is_alike(parsed, equation.unit) for equation in equations):
        return None
    bridges = [None] if molar_mass_g_mol is None else [None, 1, -1]
    for power in bridges:
        try:
            zero, one = (
                _measure(value, parsed, parsed_target, molar_mass_g_mol, power) for value in (0.0, 1.0)
            )
        except _pint_errors():
            continue
        # Twelve digits: what lies below is the noise of repeated multiplication.
        return Conversion(float(f"{one - zero:.12g}"), float(f"{zero:.12g}"))
    return None


def _plain(unit: str) -> str:
    """The unit without annotations, the litre with its capital letter.

    >>> _plain("mL/min/{1.73_m2}"), _plain("{score}"), _plain("mg/dl")
    ('mL/min', '1', 'mg/dL')
    """
    plain = _ANNOTATION.sub("", unit)
    if plain != unit:
        plain = plain.rstrip("/.") if not plain.startswith("/") else plain
    return re.sub(r"(?<![A-Za-z\[_])([munpdc]?)l(?![A-Za-z_\]])", r"\1L", plain) or "1"


def _is_alike(parsed: Any, unit: str) -> bool:
    other = _parse(unit)
    return other is not None and bool(parsed.dimensionality == other.dimensionality)


def _measure(
    value: float, unit: Any, target: Any, molar_mass_g_mol: float | None, power: int | None
) -> float:
    registry = _registry()
    quantity = registry.Quantity(value, unit)
    if power is not None:
        quantity = quantity * registry.Quantity(molar_mass_g_mol, "g/mol") ** power
    return float(quantity.to(target).magnitude)


@functools.lru_cache(maxsize=4096)
def _parse(unit: str) -> Any:
    # The grammar does not take an annotation alone, which stands for the unity ("{score}", "{steps}/d").
    unit = _ANNOTATION.sub("", unit) if unit.startswith("{") else unit
    unit = unit or "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantity = _registry().from_ucum(unit)
    except Exception:  # A third-party grammar: whatever it raises, the unit is unknown.
        return None
    return quantity.units if getattr(quantity, "magnitude", None) == 1 else None


@functools.cache
def _registry() -> Any:
    """The UCUM registry: built once, when a unit first needs it (0.8 s)."""
    from ucumvert import PintUcumRegistry

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PintUcumRegistry()


@functools.cache
def _pint_errors() -> tuple[type[Exception], ...]:
    from pint.errors import DimensionalityError, OffsetUnitCalculusError

    return (DimensionalityError, OffsetUnitCalculusError)
