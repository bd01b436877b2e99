"""Units of measurement: UCUM to UCUM as a linear map, mass to amount of substance by the concept's molar mass."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from gemel.core.concepts import Concept


class Conversion(NamedTuple):
    """value in the concept's unit = factor * value + offset."""

    factor: float
    offset: float

    def __call__(self, value: float) -> float:
        """Convert one value."""
        return self.factor * value + self.offset


IDENTITY = Conversion(1.0, 0.0)

UCUM_SYSTEMS = ("http://unitsofmeasure.org", "urn:oid:2.16.840.1.113883.6.8")

# Spellings that hospitals write where UCUM belongs and that can mean only one thing. A site adds its own.
COMMON_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "mmHg": "mm[Hg]",
        "mm Hg": "mm[Hg]",
        "mmhg": "mm[Hg]",
        "MMHG": "mm[Hg]",
        "MM[HG]": "mm[Hg]",
        "kg/m²": "kg/m2",
        "kg/m^2": "kg/m2",
        "Kg/m2": "kg/m2",
        "Kg/m²": "kg/m2",
        "KG/M2": "kg/m2",
        "mg/dl": "mg/dL",
        "MG/DL": "mg/dL",
        "mmol/l": "mmol/L",
        "MMOL/L": "mmol/L",
        "µmol/l": "umol/L",  # micro sign
        "µmol/L": "umol/L",
        "μmol/l": "umol/L",  # Greek mu
        "μmol/L": "umol/L",
        "UMOL/L": "umol/L",
        "g/l": "g/L",
        "G/L": "g/L",
        "g/dl": "g/dL",
        "G/DL": "g/dL",
        "bpm": "/min",
        "years": "a",
        "°C": "Cel",
    }
)


def find_conversion(
    unit: str, concept: Concept, *, aliases: Mapping[str, str] = COMMON_ALIASES
) -> Conversion | None:
    """How to convert a recorded unit to the concept's; None when it cannot be (GEM203), never a guess.

    Args:
        unit: The unit as recorded: a UCUM code or one of the aliases.
        concept: A measured concept; with `molar_mass_g_mol`, mass and amount of substance convert.
        aliases: Site table from recorded spellings to UCUM.
    """
    if concept.unit is None:
        return None
    unit = unit.strip()
    return _convert(aliases.get(unit, unit), concept.unit, concept.molar_mass_g_mol)


@functools.lru_cache(maxsize=4096)
def _convert(unit: str, target: str, molar_mass_g_mol: float | None) -> Conversion | None:
    if unit == target:
        return IDENTITY
    parsed, parsed_target = _parse(unit), _parse(target)
    if parsed is None or parsed_target is None:
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
    if unit.startswith("{") and unit.endswith("}"):
        unit = "1"  # UCUM: an annotation alone stands for the unity.
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
