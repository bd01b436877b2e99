"""Reading site mappings: TOML and FHIR ConceptMap, each entry checked, several files joined without contradiction."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from gemel.core.errors import GemelError
from gemel.data_adapters.meaning.concept_map import parse_concept_map
from gemel.data_adapters.meaning.mapping_entries import (
    checked,
    consent_required,
    default_unit_of,
    gender_of,
    local_code,
    system_of,
    targets_of,
    time_zone_of,
    unit_of,
    units_of_concept,
)
from gemel.data_adapters.meaning.site_mapping import SiteMapping

_MAX_BYTES = 64 << 20
_HEADER = re.compile(r"\s*\[([^\[\]]+)\]")
_KEY = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+)\s*=""")


class _Encounters(msgspec.Struct, forbid_unknown_fields=True):
    finished_statuses: list[str] = []
    finished_classes: list[str] = []


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    """The TOML file as it is written."""

    title: str = ""
    time_zone: str | None = None
    preliminary: bool = False
    dates_shifted: bool = False
    require: str | None = None
    codes: dict[str, str | list[str]] = {}
    texts: dict[str, str | list[str]] = {}
    systems: dict[str, str] = {}
    units: dict[str, str] = {}
    units_of: dict[str, dict[str, str]] = {}
    default_units: dict[str, str] = {}
    genders: dict[str, str] = {}
    encounters: _Encounters = msgspec.field(default_factory=_Encounters)


def read_mappings(paths: Iterable[Path]) -> SiteMapping:
    """One mapping of several files. Raises GEM240, GEM241 and GEM242."""
    return _merge([_read(path) for path in paths])


def _read(path: Path) -> SiteMapping:
    text = _text(path)
    return parse_concept_map(path, text) if path.suffix.lower() == ".json" else _parse_toml(path, text)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise GemelError("GEM240", f"{path.name} is larger than {_MAX_BYTES} bytes: no mapping is.")
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise GemelError(
            "GEM240",
            f"The mapping {path} cannot be read: {error.strerror}.",
            hint="Check the path: a mapping is a TOML file, or a FHIR ConceptMap in JSON.",
        ) from error
    except UnicodeDecodeError as error:
        raise GemelError(
            "GEM240",
            f"The mapping {path} cannot be read: it is not UTF-8 at byte {error.start}.",
            hint="Save the file as UTF-8.",
        ) from error


class _Places:
    """Where each key of a TOML file stands, for messages."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._lines: dict[tuple[str, str], int] = {}
        section = ""
        for number, line in enumerate(text.splitlines(), 1):
            header, key = _HEADER.match(line), _KEY.match(line)
            if header is not None:
                section = header[1].replace('"', "").strip()
                parent, _, name_of_table = section.rpartition(".")
                self._lines.setdefault((parent, name_of_table), number)
            elif key is not None:
                # A concept's own table is found by its name.
                self._lines.setdefault((section.removeprefix("units_of."), _unquoted(key[1])), number)

    def of(self, section: str, key: str) -> str:
        """'file:line' of a key in a section ("" is the top); the file alone when the key is not found."""
        line = self._lines.get((section, key))
        return self._name if line is None else f"{self._name}:{line}"


def _unquoted(key: str) -> str:
    if key.startswith("'"):
        return key[1:-1]
    try:
        return str(msgspec.json.decode(key)) if key.startswith('"') else key
    except msgspec.DecodeError:
        return key


def _document(path: Path, text: str) -> _Document:
    try:
        return msgspec.convert(tomllib.loads(text), _Document)
    except tomllib.TOMLDecodeError as error:
        raise GemelError("GEM240", f"{path.name} is not TOML: {error}.") from error
    except msgspec.ValidationError as error:
        raise GemelError(
            "GEM240", f"{path.name}: {error}. Units and codes are texts; no factor is taken."
        ) from error


def _parse_toml(path: Path, text: str) -> SiteMapping:
    document = _document(path, text)
    places = _Places(path.name, text)
    found: dict[tuple[str, str], str] = {}

    def table(section: str, entries: Mapping[str, Any], check: Callable[[str, Any], Any]) -> dict[str, Any]:
        result = {}
        for key, value in entries.items():
            place = found[section, key] = places.of(section, key)
            result[key] = checked(place, key, value, check)
        return result

    def setting(key: str, value: str | None, check: Callable[[str, Any], Any]) -> Any:
        return None if value is None else checked(places.of("", key), key, value, check)

    codes = table("codes", document.codes, targets_of)
    twice = Counter(map(local_code, codes))
    for key in codes:
        if twice[local_code(key)] > 1:
            place = found["codes", key]
            raise GemelError("GEM242", f'{place}: {key!r} stands twice, also as "|code" or with blanks.')
    return SiteMapping(
        title=document.title,
        codes={local_code(key): targets for key, targets in codes.items()},
        texts=table("texts", document.texts, targets_of),
        systems=table("systems", document.systems, system_of),
        units=table("units", document.units, unit_of),
        concept_units={
            name: table(name, units, unit_of)
            for name, units in table("units_of", document.units_of, units_of_concept).items()
        },
        default_units={
            "|".join(local_code(key)) if "|" in key else key: unit
            for key, unit in table("default_units", document.default_units, default_unit_of).items()
        },
        time_zone=setting("time_zone", document.time_zone, time_zone_of),
        genders=table("genders", document.genders, gender_of),
        finished_statuses=frozenset(document.encounters.finished_statuses),
        finished_classes=frozenset(document.encounters.finished_classes),
        preliminary=document.preliminary,
        dates_shifted=document.dates_shifted,
        require_consent=setting("require", document.require, consent_required) or False,
        places={
            (section, "|".join(local_code(key)) if section == "codes" or "|" in key else key): place
            for (section, key), place in found.items()
        },
    )


def _merge(mappings: list[SiteMapping]) -> SiteMapping:
    """One mapping of several. Raises GEM242 where two say different things of one key."""
    if len(mappings) == 1:
        return mappings[0]
    places: dict[tuple[str, str], str] = {}
    joined: dict[str, dict[Any, Any]] = {}
    for mapping in mappings:
        for section in ("codes", "texts", "systems", "units", "default_units", "genders"):
            _join(joined.setdefault(section, {}), mapping, section, getattr(mapping, section), places)
        units_of = joined.setdefault("concept_units", {})
        for name, units in mapping.concept_units.items():
            _join(units_of.setdefault(name, {}), mapping, name, units, places)
        places |= mapping.places
    zones = {mapping.time_zone for mapping in mappings} - {None}
    if len(zones) > 1:
        raise GemelError(
            "GEM242", f"The mapping's files name {len(zones)} time zones: {', '.join(map(str, zones))}."
        )
    return SiteMapping(
        title="; ".join(dict.fromkeys(mapping.title for mapping in mappings if mapping.title)),
        **joined,
        time_zone=next(iter(zones), None),
        finished_statuses=frozenset().union(*(mapping.finished_statuses for mapping in mappings)),
        finished_classes=frozenset().union(*(mapping.finished_classes for mapping in mappings)),
        preliminary=any(mapping.preliminary for mapping in mappings),
        dates_shifted=any(mapping.dates_shifted for mapping in mappings),
        # The stricter rule holds.
        require_consent=any(mapping.require_consent for mapping in mappings),
        skipped=tuple(reason for mapping in mappings for reason in mapping.skipped),
        places=places,
    )


def _join(
    into: dict[Any, Any],
    mapping: SiteMapping,
    section: str,
    entries: Mapping[Any, Any],
    places: Mapping[tuple[str, str], str],
) -> None:
    for key, value in entries.items():
        if into.setdefault(key, value) != value:
            name = "|".join(key) if isinstance(key, tuple) else key
            first = places.get((section, name), "an earlier file")
            raise GemelError(
                "GEM242",
                f"{mapping.place(section, name)}: {name!r} means {value!r}, but {into[key]!r} at {first}.",
            )
