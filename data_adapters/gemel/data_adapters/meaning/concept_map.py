"""Local codes mapped by a FHIR ConceptMap, R4 or R5."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from gemel.core.errors import GemelError
from gemel.data_adapters.meaning.mapping_entries import checked, target_of
from gemel.data_adapters.meaning.site_mapping import SiteMapping

# Whatever has the local code then has the target: the same meaning, or a wider one. R4's `equivalence` says what the
# target is to the source, R5's `relationship` what the source is to the target.
_MAPPING_EQUIVALENCES = ("equal", "equivalent", "subsumes", "wider")
_MAPPING_RELATIONSHIPS = ("equivalent", "source-is-narrower-than-target")
_NO_MATCH = ("unmatched", "disjoint", "not-related-to")


class _Target(msgspec.Struct):
    code: str | None = None
    equivalence: str | None = None
    relationship: str | None = None
    dependsOn: list[msgspec.Raw] | None = None


class _Element(msgspec.Struct):
    code: str | None = None
    target: list[_Target] = []
    noMap: bool = False


class _Group(msgspec.Struct):
    source: str | None = None
    target: str | None = None
    element: list[_Element] = []
    unmapped: Any = None


class _ConceptMap(msgspec.Struct):
    """FHIR ConceptMap, R4 or R5, as far as it is used."""

    resourceType: str
    status: str | None = None
    title: str = ""
    group: list[_Group] = []
    modifierExtension: list[msgspec.Raw] | None = None
    implicitRules: str | None = None


def parse_concept_map(path: Path, text: str) -> SiteMapping:
    """The codes that a ConceptMap maps; what it does not map, or only nearly, is in `skipped`.

    Raises:
        GemelError: GEM240 when it is no ConceptMap, is retired or has rules of its own; GEM241 for a target that is none.
    """
    try:
        document = msgspec.json.decode(text, type=_ConceptMap)
    except msgspec.DecodeError as error:
        raise GemelError("GEM240", f"{path.name} is no FHIR ConceptMap: {error}.") from error
    if document.resourceType != "ConceptMap":
        raise GemelError("GEM240", f"{path.name} is a {document.resourceType}, not a ConceptMap.")
    if document.status == "retired" or document.modifierExtension or document.implicitRules:
        reason = "is retired" if document.status == "retired" else "has rules that may turn its meaning"
        raise GemelError("GEM240", f"{path.name} {reason}: it is not used.")
    codes: dict[tuple[str, str], tuple[str, ...]] = {}
    places: dict[tuple[str, str], str] = {}
    skipped: list[str] = []
    for g, group in enumerate(document.group):
        if group.unmapped is not None:
            skipped.append(f"{path.name} $.group[{g}].unmapped: a rule for all other codes is not taken")
        source = (group.source or "").partition("|")[0]
        for e, element in enumerate(group.element):
            place = f"{path.name} $.group[{g}].element[{e}]"
            targets, reasons = _element_targets(group, element, place)
            skipped += reasons
            key = (source, (element.code or "").strip())
            if targets:
                codes[key] = tuple(dict.fromkeys((*codes.get(key, ()), *targets)))
                places["codes", "|".join(key)] = place
    return SiteMapping(
        title=document.title,
        codes=MappingProxyType(codes),
        skipped=tuple(skipped),
        places=MappingProxyType(places),
    )


def _element_targets(group: _Group, element: _Element, place: str) -> tuple[list[str], list[str]]:
    """The targets that an element maps to, and why others do not count."""
    targets, skipped = [], []
    if not (element.code or "").strip():
        return [], [f"{place}: no code"]
    for target in element.target:
        kind = target.relationship or target.equivalence or ""
        if kind in _NO_MATCH:
            continue
        maps = _MAPPING_RELATIONSHIPS if target.relationship is not None else _MAPPING_EQUIVALENCES
        if kind not in maps:
            skipped.append(
                f"{place}: {element.code!r} is not mapped: {kind or 'no relationship'} is not the same or wider"
            )
        elif target.dependsOn:
            skipped.append(f"{place}: {element.code!r} is not mapped: it depends on other elements")
        elif not target.code or not group.target:
            skipped.append(f"{place}: {element.code!r} is not mapped: the target has no system or no code")
        else:
            token = f"{group.target.partition('|')[0]}|{target.code}"
            targets.append(checked(place, element.code or "", token, lambda _, value: target_of(value)))
    return targets, skipped
