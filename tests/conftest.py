"""Fixtures that several rooms share: a small hospital's FHIR export, written as plain NDJSON."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from gemel.cli.demo.federation import Federation
    from gemel.core.study import Study

WriteExport = Callable[..., Path]

# A programme's folder that tests drop in: it can be imported only there.
collect_ignore = ["support/dropped"]


@pytest.fixture(scope="session")
def write_export() -> WriteExport:
    """A function that writes `patients` simulated people (not labelled as such: they stand in for real ones)."""

    def write(folder: Path, *, patients: int = 120, seed: int = 0) -> Path:
        rng = random.Random(seed)
        folder.mkdir(parents=True, exist_ok=True)
        lines: dict[str, list[dict[str, object]]] = {
            "Patient": [],
            "Encounter": [],
            "Condition": [],
            "Observation": [],
        }
        for number in range(patients):
            _person(lines, f"p{seed}-{number}", rng)
        for kind, resources in lines.items():
            content = "".join(json.dumps(resource) + "\n" for resource in resources)
            (folder / f"{kind}.ndjson").write_text(content)
        return folder

    return write


def _person(lines: dict[str, list[dict[str, object]]], name: str, rng: random.Random) -> None:
    index = date(2005, 1, 1) + timedelta(days=rng.randrange(1500))
    age = rng.uniform(25, 85)
    end = index + timedelta(days=rng.randrange(200, 5400))
    subject = {"reference": f"Patient/{name}"}
    patient: dict[str, object] = {
        "resourceType": "Patient",
        "id": name,
        "gender": rng.choice(["male", "female"]),
        "birthDate": str(index - timedelta(days=int(age * 365.25))),
    }
    if rng.random() < age / 200:
        patient["deceasedDateTime"] = str(end)
    lines["Patient"].append(patient)
    for kind, day in (("first", index), ("last", end)):
        lines["Encounter"].append(
            {
                "resourceType": "Encounter",
                "id": f"{name}-{kind}",
                "status": "finished",
                "class": {
                    "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode",
                    "code": "AMB",
                },
                "subject": subject,
                "period": {"start": str(day), "end": str(day)},
            }
        )
    _conditions(lines, name, rng, index, end)
    for code, unit, low, high in (
        ("39156-5", "kg/m2", 20, 45),
        ("2085-9", "mg/dL", 25, 80),
        ("8480-6", "mm[Hg]", 95, 180),
    ):
        if rng.random() < 0.8:
            lines["Observation"].append(
                {
                    "resourceType": "Observation",
                    "id": f"{name}-{code}",
                    "status": "final",
                    "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
                    "subject": subject,
                    "effectiveDateTime": str(index),
                    "valueQuantity": {
                        "value": round(rng.uniform(low, high), 1),
                        "system": "http://unitsofmeasure.org",
                        "code": unit,
                        "unit": unit,
                    },
                }
            )


def _conditions(
    lines: dict[str, list[dict[str, object]]], name: str, rng: random.Random, index: date, end: date
) -> None:
    for code, before, after in (
        ("K76.0", 0.4, 0.0),
        ("I10", 0.3, 0.1),
        ("E11", 0.1, 0.15),
        ("I50", 0.05, 0.2),
    ):
        draw = rng.random()
        if draw < before:
            onset = index - timedelta(days=rng.randrange(1, 900))
        elif draw < before + after:
            onset = index + timedelta(days=rng.randrange(1, max(2, (end - index).days)))
        else:
            continue
        lines["Condition"].append(
            {
                "resourceType": "Condition",
                "id": f"{name}-{code}",
                "code": {"coding": [{"system": "http://hl7.org/fhir/sid/icd-10", "code": code}]},
                "subject": {"reference": f"Patient/{name}"},
                "onsetDateTime": str(onset),
            }
        )


@pytest.fixture(scope="session")
def exports(write_export: WriteExport, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three small hospitals' exports, shared read-only by the tests of node and coordinator."""
    folder = tmp_path_factory.mktemp("exports")
    sizes = {"alpha": 160, "beta": 120, "gamma": 90}
    return {
        site: write_export(folder / site, patients=size, seed=number)
        for number, (site, size) in enumerate(sizes.items())
    }


@pytest.fixture
def federation(exports: dict[str, Path], tmp_path: Path) -> Federation:
    """A coordinator's and three nodes' homes with fresh keys; nothing runs."""
    from gemel.cli.demo.federation import create
    from gemel.twins.programmes.fatty_liver import PROGRAMME

    return create(
        tmp_path / "federation", exports, PROGRAMME, epsilon_cap=3.0, delta=1e-5, minimum_patients=50
    )


@pytest.fixture
def make_study(federation: Federation) -> Callable[..., Study]:
    """A function that writes a small study for the federation; keyword arguments replace its fields."""
    from small_study import small_study

    def make(**changes: object) -> Study:
        # 20 patients at least, far below the smallest: what is compared with it has noise.
        return small_study(changes.pop("sites", federation.site_keys), **changes)

    return make
