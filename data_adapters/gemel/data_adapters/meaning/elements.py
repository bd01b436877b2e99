"""The elements of each resource type that facts are made of, as FHIR R4 and R4B name them, and R5 where it renamed.

Elements that only STU3 or R5 has are read too: they show of which version a line is. (A view cannot name them: a
ViewDefinition is written in the words of one version.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemel.data_adapters.reading.shape import Shape

# element -> type, or (type, children); "element*" repeats. A complex element without children is read as its JSON text.
Elements = Mapping[str, Any]

_CODING: Elements = {"system": "uri", "code": "code"}
_CONCEPT: Elements = {"coding*": ("Coding", _CODING), "text": "string"}
_CONCEPT_WITH_DISPLAY: Elements = {"coding*": ("Coding", {**_CODING, "display": "string"}), "text": "string"}
_QUANTITY: Elements = {
    "value": "decimal",
    "unit": "string",
    "system": "uri",
    "code": "code",
    "comparator": "code",
}
_PERIOD: Elements = {"start": "dateTime", "end": "dateTime"}
_REFERENCE: Elements = {"reference": "string"}
_SUBJECT: Elements = {
    "reference": "string",
    "identifier": ("Identifier", {"system": "uri", "value": "string"}),
}

# What a German coding says of its certainty.
_CERTAINTY: Elements = {
    "extension*": (
        "Extension",
        {"url": "uri", "valueCoding": ("Coding", {"code": "code"}), "valueCode": "code"},
    )
}
_STATUS: Elements = {"coding*": ("Coding", {"code": "code"})}
_DOSE: Elements = {"doseAndRate*": ("DosageDoseAndRate", {"doseQuantity": ("Quantity", _QUANTITY)})}

# Of every resource: its security labels, and what may turn its meaning.
_COMMON: Elements = {
    "meta": ("Meta", {"security*": ("Coding", {"code": "code"})}),
    "modifierExtension*": "Extension",
}


_PEOPLE: dict[str, Elements] = {
    "Patient": {
        "gender": "code",
        "birthDate": "date",
        "deceasedBoolean": "boolean",
        "deceasedDateTime": "dateTime",
        "identifier*": ("Identifier", {"system": "uri", "value": "string"}),
        "link*": ("PatientLink", {"type": "code", "other": ("Reference", _REFERENCE)}),
    },
    "Encounter": {
        "status": "code",
        "subject": ("Reference", _SUBJECT),
        "period": ("Period", _PERIOD),
        "actualPeriod": ("Period", _PERIOD),  # R5
    },
}


_REQUEST_DATES: Elements = {
    "authoredOn": "dateTime",
    "encounter": ("Reference", _REFERENCE),
    "dispenseRequest": (
        "MedicationRequestDispenseRequest",
        {"validityPeriod": ("Period", _PERIOD)},
    ),
    "dosageInstruction*": ("Dosage", _DOSE),
    "intent": "code",
    "doNotPerform": "boolean",
    "context": "Reference",  # STU3
}


def _medication(concept: Elements, *, subject: str = "subject", dates: Elements) -> Elements:
    return {
        "status": "code",
        subject: ("Reference", _SUBJECT),
        "medicationCodeableConcept": ("CodeableConcept", concept),
        "medicationReference": ("Reference", _REFERENCE),
        # R5 writes both in one element.
        "medication": (
            "CodeableReference",
            {"concept": ("CodeableConcept", concept), "reference": ("Reference", _REFERENCE)},
        ),
        "contained*": ("Medication", {"id": "id", "code": ("CodeableConcept", concept)}),
        **dates,
    }


def _medications(concept: Elements) -> dict[str, Elements]:
    taken_dates: Elements = {"effectiveDateTime": "dateTime", "effectivePeriod": ("Period", _PERIOD)}
    return {
        "MedicationRequest": _medication(concept, dates=_REQUEST_DATES),
        "MedicationStatement": _medication(concept, dates={**taken_dates, "dosage*": ("Dosage", _DOSE)}),
        "MedicationAdministration": _medication(
            concept,
            dates={
                **taken_dates,
                # So spelt in R5.
                "occurenceDateTime": "dateTime",
                "occurencePeriod": ("Period", _PERIOD),
                "dosage": ("MedicationAdministrationDosage", {"dose": ("Quantity", _QUANTITY)}),
            },
        ),
        "MedicationDispense": _medication(
            concept,
            dates={
                "whenPrepared": "dateTime",
                "whenHandedOver": "dateTime",
                "dosageInstruction*": ("Dosage", _DOSE),
            },
        ),
        "Medication": {"status": "code", "code": ("CodeableConcept", concept)},
    }


def fact_shapes(*, texts: bool = False, classes: bool = False) -> dict[str, Shape]:
    """What to read of each resource type.

    Args:
        texts: Read the displays of codings too, for a site whose mapping looks at texts.
        classes: Read the classes of encounters too.
    """
    shapes = {}
    for name, elements in _elements(_CONCEPT_WITH_DISPLAY if texts else _CONCEPT).items():
        shapes[name] = _grow(Shape.of_resource(name), {**_COMMON, **elements})
    if classes:
        _grow(shapes["Encounter"], {"class": ("Coding", {"code": "code"})})
    return shapes


def _elements(concept: Elements) -> dict[str, Elements]:
    diagnosis = {**concept, "coding*": ("Coding", {**concept["coding*"][1], **_CERTAINTY})}
    held: Elements = {
        "code": ("CodeableConcept", concept),
        "valueQuantity": ("Quantity", _QUANTITY),
        "valueInteger": "integer",
        "valueString": "string",
        "dataAbsentReason": "CodeableConcept",
        "valueSampledData": ("SampledData", {"dimensions": "positiveInt"}),  # that it is there
    }
    return {
        **_PEOPLE,
        "Observation": {
            "status": "code",
            "subject": ("Reference", _SUBJECT),
            "effectiveDateTime": "dateTime",
            "effectiveInstant": "instant",
            "effectivePeriod": ("Period", _PERIOD),
            **held,
            "component*": ("ObservationComponent", {**held, "modifierExtension*": "Extension"}),
            "context": "Reference",  # STU3
        },
        "Condition": {
            "clinicalStatus": ("CodeableConcept", _STATUS),
            "verificationStatus": ("CodeableConcept", _STATUS),
            "code": ("CodeableConcept", diagnosis),
            "subject": ("Reference", _SUBJECT),
            "encounter": ("Reference", _REFERENCE),
            "onsetDateTime": "dateTime",
            "onsetPeriod": ("Period", _PERIOD),
            "recordedDate": "dateTime",
            "abatementDateTime": "dateTime",
            "abatementPeriod": ("Period", _PERIOD),
            "assertedDate": "dateTime",  # STU3
        },
        "Procedure": {
            "status": "code",
            "code": ("CodeableConcept", concept),
            "subject": ("Reference", _SUBJECT),
            "encounter": ("Reference", _REFERENCE),
            **{f"{name}DateTime": "dateTime" for name in ("performed", "occurrence")},  # R4, R5
            **{f"{name}Period": ("Period", _PERIOD) for name in ("performed", "occurrence")},
            "notDone": "boolean",  # STU3
        },
        **_medications(concept),
        "Immunization": {
            "status": "code",
            "vaccineCode": ("CodeableConcept", concept),
            "patient": ("Reference", _SUBJECT),
            "encounter": ("Reference", _REFERENCE),
            "occurrenceDateTime": "dateTime",
        },
        "AllergyIntolerance": {
            "verificationStatus": ("CodeableConcept", _STATUS),
            "code": ("CodeableConcept", concept),
            "patient": ("Reference", _SUBJECT),
            "onsetDateTime": "dateTime",
            "recordedDate": "dateTime",
        },
    }


def _grow(shape: Shape, elements: Elements) -> Shape:
    for name, declared in elements.items():
        type_name, children = declared if isinstance(declared, tuple) else (declared, {})
        _grow(shape.child(name.rstrip("*"), type_name, repeats=name.endswith("*")), children)
    return shape
