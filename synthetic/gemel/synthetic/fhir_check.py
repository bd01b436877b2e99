"""Cheap checks of every resource that is written: what a schema library does not look at, and much faster.

`fhir.resources` accepts status "banana", dangling references and any unit; it is the oracle in the tests.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gemel.core.errors import GemelError
from gemel.synthetic.fhir import EARLIEST, HTEST, INDEX_DATE, TAG_SYSTEM, UCUM, Resource

REQUIRED: dict[str, tuple[str, ...]] = {
    "Patient": ("identifier", "gender", "birthDate"),
    "Encounter": ("status", "class", "subject", "period"),
    "Condition": ("clinicalStatus", "verificationStatus", "code", "subject", "onsetDateTime"),
    "Observation": ("status", "code", "subject", "encounter", "effectiveDateTime", "valueQuantity"),
    "MedicationRequest": ("status", "intent", "medicationCodeableConcept", "subject", "authoredOn"),
    "Provenance": ("target", "recorded", "agent", "entity"),
}
# Required bindings of R4 (4.0.1), narrowed to what a virtual cohort may say.
ALLOWED: dict[tuple[str, str], frozenset[str]] = {
    ("Patient", "gender"): frozenset({"male", "female", "unknown"}),
    ("Encounter", "status"): frozenset({"finished"}),
    ("Observation", "status"): frozenset({"final"}),
    ("MedicationRequest", "status"): frozenset({"completed"}),
    ("MedicationRequest", "intent"): frozenset({"order"}),
}
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})")


def check_resources(resources: Iterable[Resource]) -> Iterator[Resource]:
    """Pass resources on, checked one by one, and all references at the end. Raises GEM703 at the first fault."""
    known: set[str] = set()
    wanted: set[str] = set()
    for resource in resources:
        fault = fault_of(resource)
        name = f"{resource.get('resourceType')}/{resource.get('id')}"
        if fault is None and name in known:
            fault = "the id is used twice"
        if fault is not None:
            raise GemelError("GEM703", f"{name}: {fault}.")
        known.add(name)
        wanted.update(references(resource))
        yield resource
    if missing := sorted(wanted - known):
        raise GemelError("GEM703", f"{len(missing)} references lead nowhere, the first to {missing[0]}.")


def references(value: Any) -> Iterator[str]:
    """Every literal reference within a resource."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "reference":
                yield inner
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def fault_of(resource: Resource) -> str | None:
    """What is wrong with one resource taken alone, or None."""
    return next((fault for check in _CHECKS if (fault := check(resource)) is not None), None)


def _elements(resource: Resource) -> str | None:
    kind = str(resource.get("resourceType"))
    if kind not in REQUIRED:
        return f"the type {kind} is not written by virtual cohorts"
    missing = [element for element in ("id", "meta", *REQUIRED[kind]) if not resource.get(element)]
    return f"without {', '.join(missing)}" if missing else None


def _id(resource: Resource) -> str | None:
    return None if _ID.fullmatch(resource["id"]) else "the id has characters that FHIR does not allow"


def _marks(resource: Resource) -> str | None:
    meta = resource["meta"]
    tags = {(tag["system"], tag["code"]) for tag in meta.get("tag", ())}
    if HTEST in meta.get("security", ()) and (TAG_SYSTEM, "synthetic") in tags:
        return None
    return "not marked HTEST and synthetic"


def _bindings(resource: Resource) -> str | None:
    for (kind, element), allowed in ALLOWED.items():
        if resource["resourceType"] == kind and resource[element] not in allowed:
            return f"{element} may not be {resource[element]!r}"
    return None


def _dates(resource: Resource) -> str | None:
    period = resource.get("period", {})
    said = [resource.get(element) for element in ("onsetDateTime", "effectiveDateTime", "authoredOn")]
    died = resource.get("deceasedDateTime")
    for day in (resource.get("birthDate"), died, *said, period.get("start"), period.get("end")):
        if day is not None and not _is_date(day):
            return f"{day!r} is no date"
    if died is not None and died < INDEX_DATE.isoformat():
        return "the death is before the index date"
    if any(day is not None and day < EARLIEST.isoformat() for day in (*said, period.get("start"))):
        return "something happened before any virtual record starts"
    if period and period["end"] < period["start"]:
        return "the encounter ends before it starts"
    if "recorded" in resource and not _INSTANT.fullmatch(resource["recorded"]):
        return "recorded is no instant"
    return None


def _quantity(resource: Resource) -> str | None:
    quantity = resource.get("valueQuantity")
    if quantity is None:
        return None
    complete = (
        quantity.get("system") == UCUM and quantity.get("code") and quantity["value"] == quantity["value"]
    )
    return None if complete else "the quantity lacks a number or a UCUM unit"


def _is_date(text: str) -> bool:
    if not _DATE.fullmatch(text):
        return False
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


_CHECKS: tuple[Callable[[Resource], str | None], ...] = (_elements, _id, _marks, _bindings, _dates, _quantity)
