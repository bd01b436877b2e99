"""What an entry of a site mapping may say: targets, systems, units, zones and genders, each checked."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Callable
from typing import Any

from gemel.core.concepts import load_concepts
from gemel.core.errors import GemelError
from gemel.data_adapters.meaning.code_systems import (
    code_problem,
    named_system,
    standard_code,
    standard_system,
)
from gemel.data_adapters.meaning.site_mapping import split_token
from gemel.data_adapters.meaning.units import COMMON_ALIASES, is_ucum

GENDERS = ("male", "female", "other", "unknown")
_URI = re.compile(r"(https?://|urn:)\S+", re.ASCII)
_CONCEPT_NAME = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
_KNOWN_UNITS = frozenset(COMMON_ALIASES.values())


class EntryError(ValueError):
    """Why an entry cannot hold."""


def checked(place: str, key: str, value: Any, check: Callable[[str, Any], Any]) -> Any:
    """The value as `check` gives it; GEM241 with the place when it refuses."""
    try:
        return check(key, value)
    except EntryError as error:
        raise GemelError("GEM241", f"{place}: {key!r}: {error}.") from error


def local_code(key: str) -> tuple[str, str]:
    """A local code may hold a bar itself; a system does not."""
    system, bar, code = key.partition("|")
    return (system.strip(), code.strip()) if bar else ("", key.strip())


def targets_of(key: str, value: str | list[str]) -> tuple[str, ...]:
    """The targets of a local code or text."""
    if not local_code(key)[1]:
        raise EntryError("the local code is empty")
    targets = [value] if isinstance(value, str) else value
    if not targets:
        raise EntryError("it maps to nothing")
    return tuple(target_of(target) for target in targets)


def target_of(target: str) -> str:
    """A concept's name, or "system|code" with both as their terminology writes them."""
    target = target.strip()
    if "|" not in target:
        if _CONCEPT_NAME.fullmatch(target) is None:
            raise EntryError(f"{target!r} is neither a concept's name nor 'system|code'")
        return target
    name, code = split_token(target)
    system = system_of("", name)
    code = standard_code(system, code)
    problem = code_problem(system, code)
    if problem is not None:
        raise EntryError(problem)
    return f"{system}|{code}"


def system_of(_: str, name: str) -> str:
    """The URI of a code system."""
    system = named_system(name) or standard_system(name)
    if _URI.fullmatch(system) is None:
        raise EntryError(
            f"{name!r} is no code system: give its URI, or LOINC, SNOMED-CT, ICD-10, ICD-10-CM, ATC"
        )
    return system


def unit_of(_: str, unit: str) -> str:
    """A unit that is UCUM."""
    if unit not in _KNOWN_UNITS and (not unit or not is_ucum(unit)):
        hint = f" (is {COMMON_ALIASES[unit]!r} meant?)" if unit in COMMON_ALIASES else ""
        raise EntryError(f"{unit!r} is no UCUM unit{hint}")
    return unit


def default_unit_of(key: str, unit: str) -> str:
    """The unit of quantities without one, for a concept or a local code."""
    if "|" not in key and _CONCEPT_NAME.fullmatch(key) is None:
        raise EntryError("neither a concept's name nor 'system|code' ('|code' without a system)")
    return unit_of(key, unit)


def units_of_concept(name: str, units: dict[str, str]) -> dict[str, str]:
    """The table of a concept that is measured, or not known here (a programme may have its own)."""
    if _CONCEPT_NAME.fullmatch(name) is None:
        raise EntryError("no concept's name")
    concept = load_concepts().get(name)
    if concept is not None and concept.unit is None:
        raise EntryError("the concept is not measured: it has no unit")
    return units


def time_zone_of(_: str, name: str) -> str:
    """A time zone of the IANA database."""
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise EntryError(f"{name!r} is no time zone of the IANA database, like 'Europe/Berlin'") from error
    return name


def gender_of(_: str, gender: str) -> str:
    """One of FHIR's administrative genders."""
    if gender not in GENDERS:
        raise EntryError(f"{gender!r} is not one of {', '.join(GENDERS)}")
    return gender


def consent_required(_: str, requirement: str) -> bool:
    """True for "consent", which is all that can be required."""
    if requirement != "consent":
        raise EntryError(f"{requirement!r} cannot be required; only 'consent' can")
    return True
