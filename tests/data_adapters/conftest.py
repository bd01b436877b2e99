"""FHIR resources by hand, for the tests of this room."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

Json = dict[str, Any]
ICD_10 = "http://hl7.org/fhir/sid/icd-10"
SNOMED_CT = "http://snomed.info/sct"
LOINC = "http://loinc.org"


class Fhir:
    """Makes small resources and writes them as exports."""

    ICD_10, SNOMED_CT, LOINC = ICD_10, SNOMED_CT, LOINC

    def __init__(self) -> None:
        self._count = 0

    def _id(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}-{self._count}"

    def patient(self, key: str, birth: str | None = "1960-01-01", gender: str = "male", **more: Any) -> Json:
        resource: Json = {"resourceType": "Patient", "id": key, "gender": gender, **more}
        return resource | ({"birthDate": birth} if birth else {})

    def encounter(
        self, patient: str, start: str, end: str | None = None, status: str = "finished", **more: Any
    ) -> Json:
        return {
            "resourceType": "Encounter",
            "id": self._id("enc"),
            "status": status,
            "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
            "subject": {"reference": f"Patient/{patient}"},
            "period": {"start": start} | ({"end": end} if end else {}),
            **more,
        }

    def quantity(self, value: float | None, unit: str | None, **more: Any) -> Json:
        parts = {"value": value, "unit": unit, "code": unit, **more}
        return {key: part for key, part in parts.items() if part is not None}

    def observation(
        self, patient: str, code: str, value: float | None, unit: str | None, day: str, **more: Any
    ) -> Json:
        resource: Json = {
            "resourceType": "Observation",
            "id": self._id("obs"),
            "status": "final",
            "code": {"coding": [{"system": LOINC, "code": code}]},
            "subject": {"reference": f"Patient/{patient}"},
            "effectiveDateTime": day,
        }
        if value is not None:
            resource["valueQuantity"] = self.quantity(value, unit)
        return resource | more

    def pressure_panel(self, patient: str, systolic: float, diastolic: float, day: str) -> Json:
        parts = [("8480-6", systolic), ("8462-4", diastolic)]
        components = [
            {
                "code": {"coding": [{"system": LOINC, "code": code}]},
                "valueQuantity": self.quantity(value, "mm[Hg]"),
            }
            for code, value in parts
        ]
        return self.observation(patient, "85354-9", None, None, day, component=components)

    def condition(self, patient: str, system: str, code: str, onset: str | None, **more: Any) -> Json:
        resource: Json = {
            "resourceType": "Condition",
            "id": self._id("con"),
            "code": {"coding": [{"system": system, "code": code}]},
            "subject": {"reference": f"Patient/{patient}"},
        }
        return resource | ({"onsetDateTime": onset} if onset else {}) | more

    def write(self, folder: Path, files: dict[str, list[Any]]) -> Path:
        """Write each file's items: resources, or bytes as they are."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, items in files.items():
            lines = [item if isinstance(item, bytes) else json.dumps(item).encode() for item in items]
            content = b"".join(line + b"\n" for line in lines)
            (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return folder


@pytest.fixture(scope="session")
def fhir() -> Fhir:
    return Fhir()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    return Path(__file__).resolve().parents[2].parent / "shared" / "data"
