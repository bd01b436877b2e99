"""Open-data people as FHIR R4 resources, in the dialect of a hospital and by the concepts of a programme.

A concept with a unit becomes an Observation, a drug a MedicationRequest or MedicationAdministration, what a treatment of the
programme names a Procedure, all else a Condition. A concept of the library that the programme lacks is written too: a
hospital records more than a programme reads, and what it reads of that must be counted as unknown, not vanish.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from types import MappingProxyType
from typing import Any

from gemel.cli.demo.dialects import Dialect
from gemel.core.concepts import ATC, ICD_10, LOINC, RXNORM, SNOMED_CT, Concept, load_concepts
from gemel.core.programme import IndexKind, OutcomeKind, Programme
from gemel.twins.definition import OpenPerson, Recorded

Resource = dict[str, Any]

UCUM = "http://unitsofmeasure.org"
KG_PER_LB = 0.45359237
_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
# What a coder takes for a concept when nothing more is known, instead of the category that the library lists.
USUAL_ICD_10 = {
    "dyslipidaemia": "E78.5",
    "diabetes": "E11.9",
    "type_2_diabetes": "E11.9",
    "ischaemic_heart_disease": "I25.9",
    "heart_failure": "I50.9",
    "atrial_fibrillation": "I48.9",
    "myocardial_infarction": "I21.9",
    "stroke": "I64",
    "cardiac_arrest": "I46.9",
}
# The code for a concept as amount of substance (or by IFCC), and the unit that goes with it.
MOLAR = {
    "hdl_cholesterol": ("14646-4", "mmol/L"),
    "glucose": ("14749-6", "mmol/L"),
    "fasting_glucose": ("14771-0", "mmol/L"),
    "creatinine": ("14682-9", "umol/L"),
    "hba1c": ("59261-8", "mmol/mol"),
}
_PER_LITRE = {"mmol/L": 10.0, "umol/L": 10_000.0}  # of 1 mg/dL, for a molar mass of 1 g/mol
_VITAL_SIGNS = frozenset({"mm[Hg]", "/min", "Cel", "kg", "cm", "m", "kg/m2"})


class Vocabulary:
    """The concepts that people of a programme may have recorded, and which of them are procedures."""

    def __init__(self, programme: Programme) -> None:
        own = {concept.name: concept for concept in programme.concepts}
        self.concepts: Mapping[str, Concept] = MappingProxyType({**load_concepts(), **own})
        self.done = _done(programme)

    def kind(self, concept: Concept) -> str:
        """The resource that says it: "Observation", "Medication" (of either kind), "Procedure" or "Condition"."""
        systems = {code.system for code in concept.codes}
        if concept.unit is not None or systems == {LOINC}:
            return "Observation"
        if systems & {ATC, RXNORM}:
            return "Medication"
        return "Procedure" if concept.name in self.done and ICD_10 not in systems else "Condition"


def resources(
    person: OpenPerson, patient: str, dialect: Dialect, vocabulary: Vocabulary
) -> Iterator[Resource]:
    """Every resource of one person, the Patient first; ids are unique within the hospital.

    Raises KeyError for a concept that neither the programme nor the library has.
    """
    yield _patient(person, patient)
    subject = {"reference": f"Patient/{patient}"}
    for number, (first, last) in enumerate(person.visits, start=1):
        yield _encounter(f"{patient}-e{number}", subject, first, last)
    numbers = dict.fromkeys(("Observation", "Medication", "Procedure", "Condition"), 0)
    diastolic = _diastolic(person) if dialect.pressure_panel else {}
    for recorded in person.recorded:
        concept = vocabulary.concepts[recorded.concept]
        if recorded.concept == "diastolic_blood_pressure" and recorded.day in diastolic:
            continue  # in the panel of its systolic value
        kind = vocabulary.kind(concept)
        numbers[kind] += 1
        identity = {"id": f"{patient}-{kind[0].lower()}{numbers[kind]}", "subject": subject}
        if kind == "Observation":
            yield _observation(identity, recorded, concept, dialect, diastolic)
        elif kind == "Medication":
            yield _medication(identity, recorded, concept, dialect)
        elif kind == "Procedure":
            yield _procedure(identity, recorded, concept)
        else:
            yield _condition(identity, recorded, concept, dialect)


def _done(programme: Programme) -> frozenset[str]:
    """The concepts that are done to a patient: of treatments, and of events that are treatments."""
    features = {feature.name: feature.concepts for feature in programme.features}
    named = {c for t in programme.treatments if t.feature for c in features[t.feature]}
    named |= {c for o in programme.outcomes if o.kind is OutcomeKind.FIRST_TREATMENT for c in o.concepts}
    if programme.cohort.index.kind is IndexKind.TREATMENT:
        named |= set(programme.cohort.index.concepts)
    return frozenset(named)


def _patient(person: OpenPerson, patient: str) -> Resource:
    resource: Resource = {
        "resourceType": "Patient",
        "id": patient,
        "gender": "male" if person.male else "female",
        "birthDate": person.birth.isoformat(),
    }
    if person.died is not None:
        resource["deceasedDateTime"] = person.died.isoformat()
    return resource


def _encounter(identity: str, subject: Resource, first: date, last: date) -> Resource:
    return {
        "resourceType": "Encounter",
        "id": identity,
        "status": "finished",
        "class": {"system": f"{_TERMINOLOGY}/v3-ActCode", "code": "AMB" if first == last else "IMP"},
        "subject": subject,
        "period": {"start": first.isoformat(), "end": last.isoformat()},
    }


def _observation(
    identity: Resource,
    recorded: Recorded,
    concept: Concept,
    dialect: Dialect,
    diastolic: Mapping[date, float],
) -> Resource:
    category = "vital-signs" if concept.unit in _VITAL_SIGNS else "laboratory"
    if concept.unit is not None and concept.unit.startswith("{score}"):
        category = "survey"
    return {
        "resourceType": "Observation",
        "status": "final",
        "category": [_coded(f"{_TERMINOLOGY}/observation-category", category)],
        **identity,
        **_content(recorded, concept, dialect, diastolic),
        "effectiveDateTime": recorded.day.isoformat(),
    }


def _content(
    recorded: Recorded, concept: Concept, dialect: Dialect, diastolic: Mapping[date, float]
) -> Resource:
    code = next(code.code for code in concept.codes if code.system == LOINC or concept.unit is not None)
    system = next(each.system for each in concept.codes if each.code == code)
    value, unit = recorded.value, concept.unit
    if value is None or unit is None:
        return {"code": _coded(system, code)}
    if dialect.pressure_panel and concept.name == "systolic_blood_pressure":
        return _pressure_panel(value, diastolic.get(recorded.day))
    if dialect.pounds and unit == "kg":
        value, unit = round(value / KG_PER_LB, 1), "[lb_av]"
    if dialect.molar_units and concept.name in MOLAR:
        code, unit = MOLAR[concept.name]
        value = _molar(value, concept, unit)
    return _value(system, code, value, unit)


def _molar(value: float, concept: Concept, unit: str) -> float:
    """The value in a unit of `MOLAR`, to two decimals as laboratories print it."""
    for equation in concept.equations:
        if equation.unit == unit:
            return round((value - equation.offset) / equation.factor, 2)
    if concept.molar_mass_g_mol is None or concept.unit != "mg/dL":
        raise ValueError(f"{concept.name} has no way from {concept.unit} to {unit}")
    return round(value * _PER_LITRE[unit] / concept.molar_mass_g_mol, 2)


def _pressure_panel(systolic: float, diastolic: float | None) -> Resource:
    if diastolic is None:
        unknown = _coded(f"{_TERMINOLOGY}/data-absent-reason", "unknown")
        second: Resource = {"code": _coded(LOINC, "8462-4"), "dataAbsentReason": unknown}
    else:
        second = _value(LOINC, "8462-4", diastolic, "mm[Hg]")
    return {
        "code": _coded(LOINC, "85354-9"),
        "component": [_value(LOINC, "8480-6", systolic, "mm[Hg]"), second],
    }


def _diastolic(person: OpenPerson) -> dict[date, float]:
    """Diastolic values by day, of days with a systolic one that they can stand beside."""
    systolic = {r.day for r in person.recorded if r.concept == "systolic_blood_pressure"}
    return {
        r.day: r.value
        for r in person.recorded
        if r.concept == "diastolic_blood_pressure" and r.value is not None and r.day in systolic
    }


def _medication(identity: Resource, recorded: Recorded, concept: Concept, dialect: Dialect) -> Resource:
    code = next(code for code in concept.codes if code.system in (ATC, RXNORM))
    drug = {"medicationCodeableConcept": {**_coded(code.system, code.code), "text": concept.title}}
    start, end = recorded.day.isoformat(), recorded.until.isoformat() if recorded.until else None
    if dialect.administrations:
        when: Resource = (
            {"effectivePeriod": {"start": start, "end": end}} if end else {"effectiveDateTime": start}
        )
        return {
            "resourceType": "MedicationAdministration",
            "status": "completed",
            **identity,
            **drug,
            **when,
        }
    ordered: Resource = {"resourceType": "MedicationRequest", "status": "completed", "intent": "order"}
    ordered |= {**identity, **drug, "authoredOn": start}
    if end:
        ordered["dispenseRequest"] = {"validityPeriod": {"start": start, "end": end}}
    return ordered


def _procedure(identity: Resource, recorded: Recorded, concept: Concept) -> Resource:
    code = concept.codes[0]
    return {
        "resourceType": "Procedure",
        "status": "completed",
        **identity,
        "code": _coded(code.system, code.code),
        "performedDateTime": recorded.day.isoformat(),
    }


def _condition(identity: Resource, recorded: Recorded, concept: Concept, dialect: Dialect) -> Resource:
    by_system = {code.system: code.code for code in reversed(concept.codes)}
    usual = USUAL_ICD_10.get(concept.name)
    if usual is not None:
        by_system[ICD_10] = usual
    first, second = (SNOMED_CT, ICD_10) if dialect.snomed else (ICD_10, SNOMED_CT)
    system = next((s for s in (first, second) if s in by_system), concept.codes[0].system)
    coded = _coded(system, by_system[system])
    return {
        "resourceType": "Condition",
        "verificationStatus": _coded(f"{_TERMINOLOGY}/condition-ver-status", "confirmed"),
        **identity,
        "code": {**coded, "text": concept.title} if dialect.diagnosis_text else coded,
        "onsetDateTime": recorded.day.isoformat(),
    }


def _value(system: str, code: str, value: float, unit: str) -> Resource:
    quantity = {"value": value, "unit": unit, "system": UCUM, "code": unit}
    return {"code": _coded(system, code), "valueQuantity": quantity}


def _coded(system: str, code: str) -> Resource:
    return {"coding": [{"system": system, "code": code}]}
