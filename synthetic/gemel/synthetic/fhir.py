"""Virtual patients as FHIR R4 resources: plain dicts, marked synthetic, with ids that depend on the seed alone.

What it writes is what the platform's readers read: the index date is the start of the first finished
Encounter (or what the cohort asks for on that day), follow-up ends with the last one or with death, histories stand on the
last day of their window, targets are measured on their day.
"""

from __future__ import annotations

import datetime
import math
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from gemel.core.concepts import ATC, Code, Concept
from gemel.core.programme import (
    DAYS_PER_YEAR,
    Comparison,
    Feature,
    FeatureKind,
    Programme,
    Target,
    TargetKind,
    Threshold,
)
from gemel.synthetic.cohort import VirtualCohort
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
_VITAL_UNITS = frozenset({"mm[Hg]", "kg/m2", "/min", "Cel", "kg", "cm"})
_PERSONAL = (FeatureKind.AGE, FeatureKind.MALE)
# What one value says as well as many.
_SINGLE = (FeatureKind.LAST, FeatureKind.FIRST, FeatureKind.MEAN, FeatureKind.MIN, FeatureKind.MAX)
# Where a window starts with the record: no virtual record says anything earlier.
_LONG_AGO = 3650
EARLIEST = INDEX_DATE - datetime.timedelta(days=_LONG_AGO)


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


class _Said(NamedTuple):
    """One statement of a virtual record: a concept, its day from the index date, and a value where it is measured."""

    concept: str
    title: str
    day: int
    value: float | None = None


# A name that makes the resource's id, and what it says.
_Part = tuple[str, _Said]


class _PatientWriter:
    """Builds the resources of one virtual patient."""

    def __init__(self, cohort: VirtualCohort, release: str, row: int, patient: str) -> None:
        self.programme = cohort.programme
        self.values = dict(zip(cohort.programme.feature_names, cohort.values[row].tolist(), strict=True))
        self.targets = dict(zip(cohort.programme.target_names, cohort.targets[row].tolist(), strict=True))
        self.event = cohort.event[row]
        self.release, self.row, self.patient = release, row, patient
        self.subject = {"reference": f"Patient/{patient}"}

    def write(self, days: np.ndarray[Any, np.dtype[np.int64]]) -> Iterator[Resource]:
        """All resources; `days` (k,) are the outcomes' times since the index date."""
        end = int(days[0])
        yield self._patient(death=_date(end) if self.event[0] == 1 else None)
        first, last = self._encounter("first", 0), self._encounter("last", end)
        earlier = _days_before(self.programme)
        if earlier:
            yield self._encounter("before", -earlier)
        yield first
        yield last
        for part, what in (*self._history(), *self._admission()):
            yield self._statement(part, what, first)
        for part, what in (*self._outcomes(days), *self._measured_later()):
            yield self._statement(part, what, last)

    def _history(self) -> Iterator[_Part]:
        """What the features say was recorded, each on the last day of its window. A slope and a series are not written."""
        for feature in self.programme.columns:
            value = self.values[feature.name]
            if feature.kind in _PERSONAL or math.isnan(value):
                continue
            concept = feature.concepts[0]
            if feature.kind in _SINGLE:
                yield feature.name, _Said(concept, feature.title, feature.to_days, value)
            elif feature.kind is FeatureKind.PRESENT and value == 1:
                concept = own_concept(self.programme, feature)
                yield f"history/{feature.name}", _Said(concept, feature.title, feature.to_days)
            elif feature.kind is FeatureKind.TIME_SINCE:
                day = max(-round(value), _from(None))
                yield f"history/{feature.name}", _Said(concept, feature.title, day)
            elif feature.kind is FeatureKind.COUNT:
                for number in range(round(value)):
                    day = max(feature.to_days - number, _from(feature.start_days))
                    yield f"history/{feature.name}/{number}", _Said(concept, feature.title, day)

    def _admission(self) -> Iterator[_Part]:
        """What puts the patient into the cohort, where no feature has said it yet."""
        cohort = self.programme.cohort
        said = {
            concept
            for feature in self.programme.columns
            if feature.kind is FeatureKind.PRESENT and self.values[feature.name] == 1 and not feature.to_days
            for concept in [own_concept(self.programme, feature)]
        }
        index = cohort.index
        if index.concepts and not said & set(index.concepts):
            concept = self.programme.concept(index.concepts[0])
            value = meeting(index.threshold, concept)
            yield "index", _Said(concept.name, concept.title, 0, value)
        for criterion in cohort.required:
            concept = self.programme.concept(criterion.concepts[0])
            value = meeting(criterion.threshold, concept)
            day = max(_from(criterion.from_days), min(criterion.to_days or 0, 0))
            for number in range(criterion.minimum_count):
                part = f"required/{criterion.name}/{number}"
                yield part, _Said(concept.name, concept.title, day, value)

    def _outcomes(self, days: np.ndarray[Any, np.dtype[np.int64]]) -> Iterator[_Part]:
        for j, outcome in enumerate(self.programme.outcomes):
            if outcome.concepts and self.event[j] == 1:
                concept = self.programme.concept(outcome.concepts[0])
                value = meeting(outcome.threshold, concept)
                yield f"outcome/{outcome.name}", _Said(concept.name, outcome.title, int(days[j]), value)

    def _measured_later(self) -> Iterator[_Part]:
        """The targets, each on its day."""
        for target in self.programme.targets:
            value = self.targets.get(target.name, math.nan)
            if math.isnan(value) or not target.concepts:
                continue
            concept, day = self.programme.concept(target.concepts[0]), target.at_days or 0
            if target.kind is TargetKind.BINARY:
                if value != 1:
                    continue
                value = meeting(target.threshold, concept)
            elif target.kind is TargetKind.ORDINAL:
                value = value_of_level(target, concept, round(value))
            yield f"target/{target.name}", _Said(concept.name, target.title, day, value)

    def _base(self, kind: str, part: str = "") -> Resource:
        number = self.patient if kind == "Patient" else _identify(self.release, kind, self.row, part)
        return {"resourceType": kind, "id": number, "meta": _meta(self.release)}

    def _patient(self, *, death: str | None) -> Resource:
        cohort = self.programme.cohort
        age, male = (cohort.minimum_age_years + cohort.maximum_age_years) / 2, math.nan
        for feature in self.programme.columns:
            if feature.kind is FeatureKind.AGE:
                age = self.values[feature.name]
            elif feature.kind is FeatureKind.MALE:
                male = self.values[feature.name]
        # Up to whole days, so that nobody is born too late to meet the cohort's minimum age.
        born = INDEX_DATE - datetime.timedelta(days=math.ceil(age * DAYS_PER_YEAR - 0.01))
        resource = self._base("Patient") | {
            "identifier": [{"system": PATIENT_SYSTEM, "value": f"{self.release}-{self.row}"}],
            "name": [{"family": f"Synthetic-{self.patient[:8]}"}],
            "gender": "unknown" if math.isnan(male) else "male" if male == 1 else "female",
            "birthDate": born.isoformat(),
        }
        return resource | ({"deceasedDateTime": death} if death else {})

    def _encounter(self, part: str, day: int) -> Resource:
        return self._base("Encounter", part) | {
            "status": "finished",
            "class": {"system": f"{_TERMINOLOGY}/v3-ActCode", "code": "AMB", "display": "ambulatory"},
            "subject": self.subject,
            "period": {"start": _date(day), "end": _date(day)},
        }

    def _statement(self, part: str, said: _Said, encounter: Resource) -> Resource:
        """As hospitals record it: a measurement, a prescription, or a diagnosis."""
        concept = self.programme.concept(said.concept)
        code = first_verified_code(self.programme, concept.name)
        if concept.unit is not None:
            value = said.value if said.value is not None else meeting(None, concept)
            return self._observation(part, said, concept.unit, float(value or 0.0), encounter)
        if code.system == ATC:
            return self._base("MedicationRequest", part) | {
                "status": "completed",
                "intent": "order",
                "medicationCodeableConcept": _codeable(code, said.title),
                "subject": self.subject,
                "authoredOn": _date(said.day),
            }
        return self._condition(part, code, said.title, _date(said.day))

    def _observation(self, part: str, said: _Said, unit: str, value: float, encounter: Resource) -> Resource:
        category = "vital-signs" if unit in _VITAL_UNITS else "survey" if unit[:1] == "{" else "laboratory"
        coding = {"system": f"{_TERMINOLOGY}/observation-category", "code": category}
        return self._base("Observation", part) | {
            "status": "final",
            "category": [{"coding": [coding]}],
            "code": _codeable(first_verified_code(self.programme, said.concept), said.title),
            "subject": self.subject,
            "encounter": {"reference": f"Encounter/{encounter['id']}"},
            "effectiveDateTime": _date(said.day),
            "valueQuantity": {
                # Six digits say what a float32 holds; more would print its binary tail.
                "value": float(f"{value:.6g}"),
                "unit": unit,
                "system": UCUM,
                "code": unit,
            },
        }

    def _condition(self, part: str, code: Code, title: str, onset: str) -> Resource:
        return self._base("Condition", part) | {
            "clinicalStatus": {
                "coding": [{"system": f"{_TERMINOLOGY}/condition-clinical", "code": "active"}]
            },
            "verificationStatus": {
                "coding": [{"system": f"{_TERMINOLOGY}/condition-ver-status", "code": "confirmed"}]
            },
            "code": _codeable(code, title),
            "subject": self.subject,
            "onsetDateTime": onset,
            "recordedDate": onset,
        }


def _days_before(programme: Programme) -> int:
    """How long before the index date the record starts: as the cohort asks, and as windows that end before it need."""
    windows = [feature.to_days for feature in programme.columns]
    windows += [criterion.to_days or 0 for criterion in programme.cohort.required]
    return max(programme.cohort.minimum_look_back_days, *(-day for day in windows), 0)


def _from(start_days: int | None) -> int:
    return -_LONG_AGO if start_days is None else start_days


def meeting(threshold: Threshold | None, concept: Concept) -> float | None:
    """A plausible value of a concept that meets a threshold: half-way to its bound; None for what is not measured."""
    if concept.unit is None:
        return None
    low, high = concept.low, concept.high
    if threshold is not None:
        upward = threshold.comparison in (Comparison.ABOVE, Comparison.AT_LEAST)
        low, high = (threshold.value, high) if upward else (low, threshold.value)
    bounds = [bound for bound in (low, high) if bound is not None]
    return sum(bounds) / len(bounds) if bounds else 0.0


def value_of_level(target: Target, concept: Concept, level: int) -> float:
    """The lowest value of a level of an ordinal target; of the lowest level the concept's bound, else one below the next."""
    if level > 0:
        return target.levels[level - 1]
    below = target.levels[0] - 1
    return concept.low if concept.low is not None and below < concept.low < target.levels[0] else below


def own_concept(programme: Programme, feature: Feature) -> str:
    """The concept by which a history is recorded: the first that means no other feature, else the first.

    A history of several diagnoses does not say which one it was; nothing finer is modelled.
    """
    others = {c for f in programme.columns if f.name != feature.name for c in f.concepts}
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
