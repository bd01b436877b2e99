"""Made-up patients, drawn from a programme's public bounds alone: as arrays, and as the FHIR export of a hospital."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from gemel.core.concepts import ATC, Concept
from gemel.core.dataset import CENSORED, OCCURRED, PREVALENT, Dataset
from gemel.core.programme import DAYS_PER_YEAR, Feature, FeatureKind, Programme, Target, TargetKind
from gemel.core.series import Series
from gemel.synthetic.export.records import meeting

_FLAGS = (FeatureKind.MALE, FeatureKind.PRESENT)
_START = date(2004, 1, 1)
_UCUM = "http://unitsofmeasure.org"

Resource = dict[str, Any]


def made_up_dataset(programme: Programme, *, patients: int, seed: int) -> Dataset:
    """Patients whose features are uniform within the public bounds; nobody's, so that nothing is spent on them."""
    draw = np.random.default_rng(seed)
    columns = programme.columns
    values = np.stack([_column(feature, patients, draw) for feature in columns], axis=1)
    shape = (patients, len(programme.outcomes))
    kinds = draw.choice([CENSORED, OCCURRED], p=[0.6, 0.4], size=shape).astype(np.int8)
    horizon = programme.times_years[-1]
    times = draw.uniform(horizon / 100, horizon, size=shape).astype(np.float32)
    # Death is the first outcome, nobody has died before the start, and nothing follows it.
    times = np.minimum(times, times[:, :1])
    before = draw.random(shape) < 0.1
    before[:, 0] = False
    kinds[before], times[before] = PREVALENT, 0.0
    wanted = [target for target in programme.targets if target.kind is not TargetKind.SERIES]
    targets = np.zeros((patients, len(wanted)), np.float32)
    for j, target in enumerate(wanted):
        targets[:, j] = _target(target, programme, times[:, 0], kinds[:, 0], draw)
    names = tuple(f"{number:08x}" for number in range(patients))
    return Dataset(
        programme.name,
        programme.version,
        programme.feature_names,
        programme.outcome_names,
        names,
        values.astype(np.float32),
        times,
        kinds,
        programme.target_names,
        targets,
        {name: _series(programme, name, patients, draw) for name in programme.series_names},
    )


def _target(
    target: Target,
    programme: Programme,
    follow_up: np.ndarray,
    death: np.ndarray,
    draw: np.random.Generator,
) -> np.ndarray:
    """A target's column (n,), known of most who reached its day, and of nobody after death."""
    followed = np.rint(follow_up * DAYS_PER_YEAR) >= (target.at_days or 0)
    died = (death == OCCURRED) & ~followed
    if target.kind is TargetKind.DEATH:
        return np.where(died, 1.0, np.where(followed, 0.0, np.nan))
    if target.kind is TargetKind.BINARY:
        event = draw.random(len(death)) < 0.3
        return np.where(event, 1.0, np.where(followed | died, 0.0, np.nan))
    if target.kind is TargetKind.ORDINAL:
        value = draw.integers(0, len(target.levels) + 1, len(death)).astype(np.float64)
    else:
        concept = programme.concept(target.concepts[0])
        value = draw.uniform(concept.low or 0.0, concept.high or 1.0, len(death))
    return np.where(followed & (draw.random(len(death)) < 0.9), value, np.nan)


def _series(programme: Programme, name: str, patients: int, draw: np.random.Generator) -> Series:
    """None to four values for each patient, before the index date for a feature and after it for a target."""
    concepts = {feature.name: feature.concepts for feature in programme.features}
    before = name in concepts
    concepts |= {target.name: target.concepts for target in programme.targets}
    concept = programme.concept(concepts[name][0])
    offsets = np.concatenate([[0], np.cumsum(draw.integers(0, 5, patients))])
    low, high = (-365, 0) if before else (1, round(programme.times_years[-1] * DAYS_PER_YEAR))
    days = draw.integers(low, high + 1, offsets[-1])
    days = days[np.lexsort((days, np.repeat(np.arange(patients), np.diff(offsets))))]
    values = draw.uniform(concept.low or 0.0, concept.high or 1.0, offsets[-1])
    return Series(offsets.astype(np.int64), days.astype(np.float32), values.astype(np.float32))


def _column(feature: Feature, patients: int, draw: np.random.Generator) -> np.ndarray:
    if feature.kind in _FLAGS:
        return (draw.random(patients) < 0.5).astype(np.float64)
    drawn = np.clip(
        feature.reference_mean + feature.scale * draw.standard_normal(patients), feature.low, feature.high
    )
    missing = (draw.random(patients) < 0.1) & (feature.kind is not FeatureKind.AGE)
    return np.where(missing, np.nan, drawn)


def write_export(folder: Path, programme: Programme, *, patients: int, seed: int) -> Path:
    """Write the export of a made-up hospital: every concept of the programme is recorded for some of its patients."""
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    files: dict[str, list[str]] = {"Patient": [], "Encounter": []}
    for number in range(patients):
        for resource in _resources(f"audit-{number}", programme, draw):
            files.setdefault(resource["resourceType"], []).append(json.dumps(resource))
    for kind, lines in files.items():
        (folder / f"{kind}.ndjson").write_text("".join(line + "\n" for line in lines), "utf-8")
    return folder


def _resources(name: str, programme: Programme, draw: np.random.Generator) -> Iterator[Resource]:
    excluded = {name for criterion in programme.cohort.exclusions for name in criterion.concepts}
    youngest, oldest = programme.cohort.minimum_age_years, programme.cohort.maximum_age_years
    start = _START + timedelta(int(draw.integers(1500)))
    index = start + timedelta(programme.cohort.minimum_look_back_days + 1)
    # Some way inside the bounds, so that the later index of some programmes keeps them too.
    age = draw.uniform(youngest + 5, min(oldest - 10, 80))
    end = index + timedelta(int(draw.integers(400, 4000)) + programme.cohort.minimum_follow_up_days)
    patient: Resource = {
        "resourceType": "Patient",
        "id": name,
        "gender": str(draw.choice(["male", "female"])),
        "birthDate": str(index - timedelta(int(age * DAYS_PER_YEAR))),
    }
    if draw.random() < 0.3:
        patient["deceasedDateTime"] = str(end)
    yield patient
    for number, day in enumerate((start, index, end)):
        yield {
            "resourceType": "Encounter",
            "id": f"{name}-visit-{number}",
            "status": "finished",
            "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
            "subject": {"reference": f"Patient/{name}"},
            "period": {"start": str(day), "end": str(day)},
        }
    for position, concept in enumerate(programme.concepts):
        if concept.name in excluded:
            continue
        for number, day in enumerate((start, index, index + (end - index) / 2)):
            if draw.random() < 0.3:
                yield _statement(f"{name}-{position}-{number}", name, concept, day, draw)
    for position, (concept, value) in enumerate(_asked_for(programme)):
        yield _statement(f"{name}-asked-{position}", name, concept, index, draw, value=value)


def _asked_for(programme: Programme) -> Iterator[tuple[Concept, float | None]]:
    """What the cohort asks for: its index event, and what it requires, each with a value that meets its threshold."""
    index = programme.cohort.index
    asked = [(index.concepts, index.threshold)]
    asked += [(criterion.concepts, criterion.threshold) for criterion in programme.cohort.required]
    for concepts, threshold in asked:
        if concepts:
            concept = programme.concept(concepts[0])
            yield concept, meeting(threshold, concept)


def _statement(
    key: str,
    patient: str,
    concept: Concept,
    day: date,
    draw: np.random.Generator,
    *,
    value: float | None = None,
) -> Resource:
    code = {"coding": [{"system": concept.codes[0].system, "code": concept.codes[0].code}]}
    said: Resource = {"id": key, "subject": {"reference": f"Patient/{patient}"}}
    if concept.unit is not None and concept.low is not None and concept.high is not None:
        value = draw.uniform(concept.low, concept.high) if value is None else value
        quantity = {"value": round(value, 2), "unit": concept.unit, "system": _UCUM, "code": concept.unit}
        said |= {"resourceType": "Observation", "status": "final", "code": code}
        return said | {"effectiveDateTime": str(day), "valueQuantity": quantity}
    if concept.codes[0].system == ATC:
        said |= {"resourceType": "MedicationRequest", "status": "completed", "intent": "order"}
        return said | {"medicationCodeableConcept": code, "authoredOn": str(day)}
    return said | {"resourceType": "Condition", "code": code, "onsetDateTime": str(day)}
