"""Clinical concepts: one idea, the codes by which hospitals record it, its unit and its public bounds."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from gemel.core.errors import GemelError

LOINC = "http://loinc.org"
SNOMED_CT = "http://snomed.info/sct"
ICD_10 = "http://hl7.org/fhir/sid/icd-10"
ICD_10_CM = "http://hl7.org/fhir/sid/icd-10-cm"
ICD_10_GM = "http://fhir.de/CodeSystem/bfarm/icd-10-gm"
ATC = "http://www.whocc.no/atc"
RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"

# Code systems by the names that the files of the library use.
CODE_SYSTEMS: Mapping[str, str] = MappingProxyType(
    {
        "loinc": LOINC,
        "snomed_ct": SNOMED_CT,
        "icd_10": ICD_10,
        "icd_10_cm": ICD_10_CM,
        "icd_10_gm": ICD_10_GM,
        "atc": ATC,
    }
)

_LIBRARY = Path(__file__).with_name("concept_library")
_SOURCES = "sources.toml"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)


class Code(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One code of a terminology.

    `system` is the FHIR URI. `prefix` makes the code match its children too ("I48" takes "I48.0").
    `verified` says whether the code was checked against a source; an unverified one supports no claim alone.
    """

    system: str
    code: str
    verified: bool
    source: str
    prefix: bool = False


class UnitEquation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What no unit says: a value in `unit` (exactly so written) is factor * value + offset in the concept's unit.

    For quantities that two conventions measure differently (HbA1c by IFCC and by NGSP), with a source.
    """

    unit: str
    factor: float
    offset: float
    source: str


class Concept(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One clinical idea and the codes by which hospitals record it.

    A measured concept has a UCUM `unit` and public clinical bounds `low` and `high` in that unit; a diagnosis has none.
    `molar_mass_g_mol` allows mass/molar conversion (mg/dL to mmol/L). A unit of one of the `equations` is converted
    by that equation; other units of its dimension are then refused.
    """

    name: str
    title: str
    codes: tuple[Code, ...]
    unit: str | None = None
    low: float | None = None
    high: float | None = None
    molar_mass_g_mol: float | None = None
    source: str = ""
    equations: tuple[UnitEquation, ...] = ()


@functools.cache
def load_concepts() -> Mapping[str, Concept]:
    """The concept library that this installation ships, by name (`concept_library/*.toml`).

    Raises:
        GemelError: GEM243 when a file of the library is missing, unreadable or inconsistent.
    """
    return read_library(_LIBRARY)


def read_library(folder: Path) -> Mapping[str, Concept]:
    """The concepts of a folder of TOML files, checked; `sources.toml` there spells the short names of sources out.

    Raises:
        GemelError: GEM243, with the file and the concept.
    """
    sources = _read(folder / _SOURCES)
    concepts: dict[str, Concept] = {}
    for path in sorted(folder.glob("*.toml")):
        if path.name == _SOURCES:
            continue
        for name, table in _read(path).items():
            place = f"{path.name} [{name}]"
            if name in concepts:
                raise GemelError("GEM243", f"{place}: the concept stands twice in the library.")
            concepts[name] = _concept(name, table, sources, place=place)
    return MappingProxyType(concepts)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise GemelError("GEM243", f"{path.name} cannot be read: {error}.") from error


def _concept(name: str, table: Any, sources: Mapping[str, str], *, place: str) -> Concept:
    try:
        plain = {
            **table,
            "name": name,
            "codes": [{**code, "system": CODE_SYSTEMS[code["system"]]} for code in table["codes"]],
        }
        for entry in (plain, *plain["codes"], *plain.get("equations", ())):
            if "source" in entry:
                entry["source"] = "; ".join(sources[key] for key in entry["source"].split(", "))
        concept = msgspec.convert(plain, Concept)
    except KeyError as error:
        raise GemelError("GEM243", f"{place}: {error} is missing, or not known.") from error
    except (TypeError, AttributeError, msgspec.ValidationError) as error:
        raise GemelError("GEM243", f"{place}: {error}.") from error
    problem = concept_problem(concept)
    if problem is not None:
        raise GemelError("GEM243", f"{place}: {problem}.")
    return concept


def concept_problem(concept: Concept) -> str | None:
    """What is inconsistent in a concept, or None."""
    if _NAME.fullmatch(concept.name) is None:
        return "the name is no slug (lower case letters, digits and _)"
    if not concept.codes or len({(code.system, code.code) for code in concept.codes}) < len(concept.codes):
        return "there is no code, or one stands twice"
    for code in concept.codes:
        if code.system not in CODE_SYSTEMS.values():
            return f"{code.system} is no known code system"
        if not code.source or not code.code:
            return f"the code {code.code!r} has no source"
    if concept.unit is None:
        measures = (concept.low, concept.high, concept.molar_mass_g_mol)
        if concept.equations or any(number is not None for number in measures):
            return "bounds, a molar mass or equations stand there, and no unit"
        return None
    if concept.low is None or concept.high is None or not concept.low < concept.high:
        return "a measured concept needs bounds, low below high"
    if not concept.source:
        return "the bounds have no source"
    if concept.molar_mass_g_mol is not None and not concept.molar_mass_g_mol > 0:
        return "a molar mass is positive"
    if any(not equation.source or not equation.factor > 0 for equation in concept.equations):
        return "an equation needs a source and a positive factor"
    return None
