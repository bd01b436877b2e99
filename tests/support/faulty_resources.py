"""FHIR resources of a virtual patient, and every kind of fault that one can have."""

from __future__ import annotations

import json
from typing import Any

from gemel.synthetic.export.fhir import resources_of
from gemel.synthetic.export.records import records_of

Resource = dict[str, Any]


def patient_lines(drawn: Any) -> list[Resource]:
    """The resources of a dead patient who has a Condition and an Observation."""
    resources = resources_of(records_of(drawn))
    for place in range(len(drawn)):
        found = [json.loads(line) for line in resources.of_patient(place)]
        kinds = {r["resourceType"] for r in found}
        if "deceasedDateTime" in found[0] and {"Condition", "Observation"} <= kinds:
            return found
    raise AssertionError("no such patient")


def set_day(resource: Resource, day: str) -> None:
    for name in ("onsetDateTime", "recordedDate", "effectiveDateTime", "birthDate"):
        if name in resource:
            resource[name] = day
    if "period" in resource:
        resource["period"] = {"start": day, "end": day}


ANY = ("Patient", "Encounter", "Condition", "Observation")
FAULTS: dict[str, tuple[tuple[str, ...], Any]] = {
    "no mark": (ANY, lambda r: r["meta"].update(security=[])),
    "another mark": (ANY, lambda r: r["meta"]["security"][0].update(code="TEST")),
    "no meta": (ANY, lambda r: r.pop("meta")),
    "no id": (ANY, lambda r: r.pop("id")),
    "an id with a space": (ANY[1:], lambda r: r.update(id="a b")),
    "an id that is too long": (ANY[1:], lambda r: r.update(id="a" * 65)),
    "another type": (ANY, lambda r: r.update(resourceType="Immunization")),
    "an element that is not ours": (ANY, lambda r: r.update(extension=[])),
    "no date of the calendar": (ANY, lambda r: set_day(r, "2000-13-01")),
    "a dangling subject": (ANY[1:], lambda r: r.update(subject={"reference": "Patient/nobody"})),
    "no subject": (ANY[1:], lambda r: r.pop("subject")),
    "too early": (ANY[1:], lambda r: set_day(r, "1899-12-31")),
    "after the death": (ANY[1:], lambda r: set_day(r, "2090-01-01")),
    "status banana": (("Encounter", "Observation"), lambda r: r.update(status="banana")),
    "no code": (("Condition", "Observation"), lambda r: r.pop("code")),
    "a dangling encounter": (("Condition",), lambda r: r.update(encounter={"reference": "Encounter/none"})),
    "a code system of nobody": (
        ("Condition", "Observation"),
        lambda r: r["code"]["coding"][0].update(system="urn:own"),
    ),
    "an unknown clinical status": (
        ("Condition",),
        lambda r: r["clinicalStatus"]["coding"][0].update(code="gone"),
    ),
    "no unit": (("Observation",), lambda r: r["valueQuantity"].pop("code")),
    "a unit that UCUM lacks": (
        ("Observation",),
        lambda r: r["valueQuantity"].update(code="mgs", unit="mgs"),
    ),
    "a value that is text": (("Observation",), lambda r: r["valueQuantity"].update(value="1.5")),
    "a visit that ends before it starts": (
        ("Encounter",),
        lambda r: r.update(period={"start": "2000-01-01", "end": "1999-12-31"}),
    ),
    "an unknown sex": (("Patient",), lambda r: r.update(gender="robot")),
    "a birth after the index date": (("Patient",), lambda r: set_day(r, "2000-01-02")),
    "a death before the index date": (("Patient",), lambda r: r.update(deceasedDateTime="1999-12-31")),
    "a name that could be a person's": (("Patient",), lambda r: r["name"][0].update(family="Smith")),
}
