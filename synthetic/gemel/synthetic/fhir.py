"""Virtual patients as FHIR R4 resources: plain dicts, marked synthetic, with ids that depend on the seed alone.

What it writes is what the platform's readers read: the index date is the start of the first finished
Encounter, follow-up ends with the last one or with death, histories are Conditions on the index date.
"""

from __future__ import annotations

import datetime
import math
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np

from gemel.core.concepts import Code
from gemel.core.programme import Feature, FeatureKind, OutcomeKind, Programme
from gemel.synthetic.cohort import DAYS_PER_YEAR, VirtualCohort
from gemel.synthetic.provenance import posterior_from_even_odds

Resource = dict[str, Any]

FHIR_VERSION = "4.0.1"
# Everybody's first encounter: a public date that belongs to nobody.
INDEX_DATE = datetime.date(2000, 1, 1)
HTEST = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason",
    "code": "HTEST",
    "display": "test health data",
}
TAG_SYSTEM = "urn:gemel:tag"
RELEASE_SYSTEM = "urn:gemel:release"
PATIENT_SYSTEM = "urn:gemel:virtual-patient"
STUDY_SYSTEM = "urn:gemel:study-sha256"
UCUM = "http://unitsofmeasure.org"

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:gemel:virtual-cohort")
_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
# Bodily measurements; every other unit is a laboratory's.
_DIAGNOSED = (OutcomeKind.FIRST_DIAGNOSIS, OutcomeKind.NEXT_DIAGNOSIS)
_VITAL_UNITS = frozenset({"mm[Hg]", "kg/m2", "/min", "Cel", "kg", "cm"})


def patient_ids(cohort: VirtualCohort) -> list[str]:
    """The id of every virtual patient, in order: UUIDv5 of release and row."""
    release = cohort.release
    return [_identify(release, "Patient", row) for row in range(len(cohort))]


def resources(cohort: VirtualCohort) -> Iterator[Resource]:
    """Every resource of the cohort, patient by patient, and one Provenance at the end."""
    release = cohort.release
    ids = patient_ids(cohort)
    days = np.rint(cohort.time_years.astype(np.float64) * DAYS_PER_YEAR).astype(np.int64)
    for row, patient in enumerate(ids):
        writer = _PatientWriter(cohort, release, row, patient)
        yield from writer.write(days[row])
    yield _provenance(cohort, release, ids)


class _PatientWriter:
    """Builds the resources of one virtual patient."""

    def __init__(self, cohort: VirtualCohort, release: str, row: int, patient: str) -> None:
        self.programme = cohort.programme
        self.values = cohort.values[row]
        self.event = cohort.event[row]
        self.release, self.row, self.patient = release, row, patient
        self.subject = {"reference": f"Patient/{patient}"}

    def write(self, days: np.ndarray[Any, np.dtype[np.int64]]) -> Iterator[Resource]:
        """All resources; `days` (k,) are the outcomes' times since the index date."""
        end = _date(int(days[0]))
        yield self._patient(death=end if self.event[0] == 1 else None)
        first = self._encounter("first", _date(0))
        yield first
        yield self._encounter("last", end)
        encounter = {"reference": f"Encounter/{first['id']}"}
        for feature, value in zip(self.programme.features, self.values, strict=True):
            if feature.kind is FeatureKind.LAST and not math.isnan(value):
                yield self._observation(feature, float(value), encounter)
            elif feature.kind is FeatureKind.PRESENT and value == 1:
                concept = own_concept(self.programme, feature)
                yield self._condition(f"history/{feature.name}", concept, feature.title, _date(0))
        for j, outcome in enumerate(self.programme.outcomes):
            if outcome.kind in _DIAGNOSED and self.event[j] == 1:
                onset = _date(int(days[j]))
                yield self._condition(f"outcome/{outcome.name}", outcome.concepts[0], outcome.title, onset)

    def _base(self, kind: str, part: str = "") -> Resource:
        number = self.patient if kind == "Patient" else _identify(self.release, kind, self.row, part)
        return {"resourceType": kind, "id": number, "meta": _meta(self.release)}

    def _patient(self, *, death: str | None) -> Resource:
        age, male = 0.0, math.nan
        for feature, value in zip(self.programme.features, self.values, strict=True):
            if feature.kind is FeatureKind.AGE:
                age = float(value)
            elif feature.kind is FeatureKind.MALE:
                male = float(value)
        # Up to whole days, so that nobody is born too late to meet the cohort's minimum age.
        born = INDEX_DATE - datetime.timedelta(days=math.ceil(age * DAYS_PER_YEAR - 0.01))
        resource = self._base("Patient") | {
            "identifier": [{"system": PATIENT_SYSTEM, "value": f"{self.release}-{self.row}"}],
            "name": [{"family": f"Synthetic-{self.patient[:8]}"}],
            "gender": "unknown" if math.isnan(male) else "male" if male == 1 else "female",
            "birthDate": born.isoformat(),
        }
        return resource | ({"deceasedDateTime": death} if death else {})

    def _encounter(self, part: str, day: str) -> Resource:
        return self._base("Encounter", part) | {
            "status": "finished",
            "class": {"system": f"{_TERMINOLOGY}/v3-ActCode", "code": "AMB", "display": "ambulatory"},
            "subject": self.subject,
            "period": {"start": day, "end": day},
        }

    def _observation(self, feature: Feature, value: float, encounter: Resource) -> Resource:
        category = "vital-signs" if feature.unit in _VITAL_UNITS else "laboratory"
        code = first_verified_code(self.programme, feature.concepts[0])
        coding = {"system": f"{_TERMINOLOGY}/observation-category", "code": category}
        return self._base("Observation", feature.name) | {
            "status": "final",
            "category": [{"coding": [coding]}],
            "code": _codeable(code, feature.title),
            "subject": self.subject,
            "encounter": encounter,
            "effectiveDateTime": INDEX_DATE.isoformat(),
            "valueQuantity": {
                # Six digits say what a float32 holds; more would print its binary tail.
                "value": float(f"{value:.6g}"),
                "unit": feature.unit,
                "system": UCUM,
                "code": feature.unit,
            },
        }

    def _condition(self, part: str, concept: str, title: str, onset: str) -> Resource:
        return self._base("Condition", part) | {
            "clinicalStatus": {
                "coding": [{"system": f"{_TERMINOLOGY}/condition-clinical", "code": "active"}]
            },
            "verificationStatus": {
                "coding": [{"system": f"{_TERMINOLOGY}/condition-ver-status", "code": "confirmed"}]
            },
            "code": _codeable(first_verified_code(self.programme, concept), title),
            "subject": self.subject,
            "onsetDateTime": onset,
            "recordedDate": onset,
        }


def own_concept(programme: Programme, feature: Feature) -> str:
    """The concept by which a history is recorded: the first that means no other feature, else the first.

    A history of several diagnoses does not say which one it was; nothing finer is modelled.
    """
    others = {c for f in programme.features if f.name != feature.name for c in f.concepts}
    return next((c for c in feature.concepts if c not in others), feature.concepts[0])


def first_verified_code(programme: Programme, concept: str) -> Code:
    """The code that a virtual record carries for a concept; its first where none is verified."""
    codes = programme.concept(concept).codes
    return next((code for code in codes if code.verified), codes[0])


def _codeable(code: Code, title: str) -> Resource:
    return {"coding": [{"system": code.system, "code": code.code}], "text": title}


def _identify(release: str, kind: str, row: int, part: str = "") -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{release}/{kind}/{row}/{part}"))


def _date(days: int) -> str:
    return (INDEX_DATE + datetime.timedelta(days=days)).isoformat()


def _meta(release: str) -> Resource:
    tags = [{"system": TAG_SYSTEM, "code": "synthetic"}, {"system": RELEASE_SYSTEM, "code": release}]
    return {"security": [HTEST], "tag": tags}


def _provenance(cohort: VirtualCohort, release: str, ids: list[str]) -> Resource:
    provenance = cohort.provenance
    whole = provenance.whole
    role = {"coding": [{"system": f"{_TERMINOLOGY}/provenance-participant-type", "code": "assembler"}]}
    return {
        "resourceType": "Provenance",
        "id": _identify(release, "Provenance", 0),
        "meta": _meta(release),
        "target": [{"reference": f"Patient/{number}"} for number in ids],
        "recorded": provenance.created,
        "reason": [
            {
                "text": f"Virtual patients, simulated. Unit {whole.unit}, {whole.neighbouring}: ε = "
                f"{whole.epsilon:g}, δ = {whole.delta:g} for each hospital; an even suspicion can rise to "
                f"{posterior_from_even_odds(whole.epsilon):.1%} at most."
            }
        ],
        "agent": [{"type": role, "who": {"display": "Gemel virtual cohort generator"}}],
        "entity": [
            {
                "role": "source",
                "what": {
                    "identifier": {"system": STUDY_SYSTEM, "value": provenance.study_sha256},
                    "display": f"{provenance.study}: noisy marginals and a differentially private twin",
                },
            }
        ],
    }
