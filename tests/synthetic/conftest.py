"""A toy population with known associations, a stand-in twin, and a complete provenance."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from cardiometabolic import PROGRAMME

from gemel.core.dataset import Dataset
from gemel.privacy.noise import NoiseSource
from gemel.synthetic.anchored_tree import PrivateFit, TreeModel, fit_private
from gemel.synthetic.cohort import VirtualCohort, sample
from gemel.synthetic.domain import domain_of

EPSILON, DELTA = 20.0, 1e-5


@dataclass(frozen=True)
class Course:
    time_years: np.ndarray
    event: np.ndarray
    targets: dict[str, np.ndarray] = field(default_factory=dict)


class StandInTwin:
    """Competing exponential clocks that go faster with age; a disease already there is prevalent."""

    def simulate(self, values: np.ndarray, *, seed: int) -> Course:
        random = np.random.default_rng(seed)
        rate = 0.02 * np.exp((values[:, :1].astype(float) - 55) / 15) * np.array([1.0, 1.2, 0.8])
        prevalent = np.stack([np.zeros(len(values)), values[:, 10], values[:, 8]], axis=1) == 1
        clock = random.standard_exponential((len(values), 3)) / rate
        end = np.minimum(clock[:, :1], 15.0)
        event = np.where(prevalent, -1, (clock <= end).astype(int))
        time = np.where(prevalent, 0.0, np.minimum(clock, end))
        return Course(time.astype(np.float32), event.astype(np.int8))


def population(patients: int, seed: int = 0) -> Dataset:
    random = np.random.default_rng(seed)
    age = np.clip(random.normal(55, 16, patients), 18, 99.9)
    male = random.random(patients) < 0.48
    bmi = np.clip(random.normal(27 + 2 * male, 5), 15, 59)
    hdl = np.clip(random.normal(58 - 12 * male - 0.5 * (bmi - 28), 11), 15, 119)
    systolic = np.clip(random.normal(120 + 0.4 * (age - 50), 15), 80, 219)

    def disease(score: np.ndarray) -> np.ndarray:
        return random.random(patients) < 1 / (1 + np.exp(-score))

    fatty_liver = disease(-1.5 + 0.25 * (bmi - 28))
    hypertension = disease(-1 + 0.08 * (systolic - 130))
    dyslipidaemia = disease(-0.5 - 0.08 * (hdl - 50))
    diabetes = disease(-2.5 + 1.5 * fatty_liver + 0.03 * (age - 55))
    ischaemic = disease(-3 + 0.06 * (age - 55))
    cardiovascular = disease(-3 + 2 * ischaemic + 0.05 * (age - 55))
    unmeasured = random.random(patients) < 0.3
    columns = [age, male, bmi, systolic, hdl, fatty_liver, hypertension, dyslipidaemia, diabetes, ischaemic]
    values = np.stack([*columns, cardiovascular], axis=1).astype(np.float32)
    values[unmeasured, 2] = np.nan
    values[unmeasured & (random.random(patients) < 0.8), 3] = np.nan
    course = StandInTwin().simulate(values, seed=seed + 1)
    ids = tuple(f"{seed:04x}{i:08x}" for i in range(patients))
    names = PROGRAMME.feature_names, PROGRAMME.outcome_names
    return Dataset(PROGRAMME.name, PROGRAMME.version, *names, ids, values, course.time_years, course.event)


def provenance_document(**changes: Any) -> dict[str, Any]:
    def statement(
        epsilon: float, noise_multiplier: float, count: int, kind: str = "gaussian"
    ) -> dict[str, Any]:
        mechanism = {"kind": kind, "noise_multiplier": noise_multiplier, "sample_rate": 1.0, "count": count}
        return {
            "epsilon": epsilon,
            "delta": 1e-5,
            "mechanisms": [mechanism],
            "unit": "patient",
            "neighbouring": "add or remove one patient",
            "noise": "secure",
        }

    document: dict[str, Any] = {
        "study": "toy study",
        "study_sha256": "ab" * 32,
        "programme": PROGRAMME.name,
        "programme_version": PROGRAMME.version,
        "sites": 3,
        "created": "2026-11-22T09:00:00Z",
        "synthesis": statement(1.0, 0.2, 1),
        "twin": statement(2.5, 12.0, 50),
        "whole": statement(3.0, 12.0, 50),
        "sites_of_a_person": 2,
    }
    return document | changes


@pytest.fixture(scope="session")
def real() -> Dataset:
    return population(6_137)


@pytest.fixture(scope="session")
def fitted(real: Dataset) -> PrivateFit:
    domain = domain_of(PROGRAMME)
    return fit_private(
        domain, domain.encode(real), epsilon=EPSILON, delta=DELTA, noise=NoiseSource.for_tests(5)
    )


@pytest.fixture(scope="session")
def model(fitted: PrivateFit) -> TreeModel:
    return fitted.model


@pytest.fixture(scope="session")
def cohort(model: TreeModel) -> VirtualCohort:
    return sample(model, patients=400, seed=7, provenance=provenance_document())


@pytest.fixture
def provenance() -> dict[str, Any]:
    return provenance_document()
