"""A small programme with every kind of endpoint, and a twin of it whose predictions are known: for tests of evaluation and uncertainty."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from cardiometabolic import CONCEPTS, FEATURES, OUTCOMES

from gemel.core.dataset import Dataset
from gemel.core.programme import CohortDefinition, Endpoint, Programme, Target, TargetKind
from gemel.twins.hazard import HazardTwin
from gemel.twins.prediction import ExpectedCourse, SimulatedCourse
from gemel.twins.treatment_plan import NOTHING_CHANGED

PROGRAMME = Programme(
    name="three_kinds",
    version="1",
    title="A test of every kind of endpoint",
    question="What does a test need?",
    cohort=CohortDefinition(minimum_age_years=18, maximum_age_years=100, minimum_follow_up_days=1),
    concepts=CONCEPTS,
    features=FEATURES,
    outcomes=OUTCOMES[:2],
    horizon_years=10,
    targets=(
        Target(
            name="pressure",
            title="Systolic blood pressure after a year",
            kind=TargetKind.VALUE_AT,
            unit="mm[Hg]",
            concepts=("systolic_blood_pressure",),
            at_days=365,
            tolerance_days=60,
        ),
        Target(
            name="grade",
            title="Grade of blood pressure after a year",
            kind=TargetKind.ORDINAL,
            concepts=("systolic_blood_pressure",),
            at_days=365,
            tolerance_days=60,
            levels=(130.0, 150.0),
        ),
    ),
    endpoints=(
        Endpoint(name="death", title="Death", outcome="death", horizons_days=(1826, 3652)),
        Endpoint(
            name="pressure", title="Systolic blood pressure", target="pressure", value_edges=(80, 130, 220)
        ),
        Endpoint(name="grade", title="Grade or death", target="grade", at_least=2, with_death=True),
    ),
)
_AGE, _MALE, _WEIGHT, _PRESSURE = range(4)
NOISE_MMHG = 12.0
LEVELS = np.array([130.0, 150.0])


class ThreeKindsTwin(HazardTwin):
    """Knows how pressures come about: 100 + 0.3 · age + 0.5 · body mass index, give or take 12; missing ones at the reference."""

    def expected(self, values, plan=NOTHING_CHANGED):
        """See HazardTwin."""
        mean = mean_pressure(values)
        return (
            {"pressure": np.stack([mean, np.full(len(mean), NOISE_MMHG)], axis=1), "grade": grades(mean)},
            {
                "pressure": ExpectedCourse(
                    "mm[Hg]",
                    np.repeat(mean[:, None], len(self.programme.times_years), axis=1),
                    np.zeros((len(mean), len(self.programme.times_years))),
                )
            },
        )

    def simulate(self, values, *, seed, plan=NOTHING_CHANGED, paths=1) -> SimulatedCourse:
        """See HazardTwin."""
        course = super().simulate(values, seed=seed, plan=plan, paths=paths)
        mean = np.repeat(mean_pressure(values), paths)
        measured = mean + NOISE_MMHG * np.random.default_rng([seed, 1]).standard_normal(len(mean))
        alive = ~((course.event[:, 0] == 1) & (course.time_years[:, 0] <= 1))
        return replace(
            course,
            targets={
                "pressure": np.where(alive, measured, np.nan).astype(np.float32),
                "grade": np.where(alive, np.searchsorted(LEVELS, measured, "right"), np.nan).astype(
                    np.float32
                ),
            },
        )


def mean_pressure(values):
    """The expected pressure (n,) from raw values."""
    age = np.where(np.isnan(values[:, _AGE]), 55.0, values[:, _AGE])
    weight = np.where(np.isnan(values[:, _WEIGHT]), 28.0, values[:, _WEIGHT])
    return np.asarray(100.0 + 0.3 * age + 0.5 * weight, np.float64)


def grades(mean):
    """(n, 3): probabilities of the grades."""
    from scipy.stats import norm

    below = norm.cdf((LEVELS - mean[:, None]) / NOISE_MMHG)
    return np.diff(np.concatenate([np.zeros((len(mean), 1)), below, np.ones((len(mean), 1))], axis=1), axis=1)


def three_kinds_twin() -> ThreeKindsTwin:
    """The twin with hand-set parameters: age kills."""
    twin = ThreeKindsTwin(PROGRAMME)
    arrays = twin.to_arrays()
    arrays["level"][:] = np.log([0.03, 0.02])
    arrays["weights"][:, _AGE] = [1.0, 0.8]
    arrays["weights"][:, _MALE] = [0.4, 0.0]
    arrays["weights"][:, _WEIGHT] = [0.5, 0.3]
    twin.load_arrays(arrays)
    return twin


def people(patients: int, *, seed: int, missing: float = 0.0):
    """Raw values (n, d) of made-up people."""
    random = np.random.default_rng(seed)
    values = np.zeros((patients, len(PROGRAMME.columns)))
    values[:, _AGE] = random.uniform(30, 90, patients)
    values[:, _MALE] = random.random(patients) < 0.5
    values[:, _WEIGHT] = random.normal(29, 5, patients)
    values[:, _PRESSURE] = random.normal(132, 18, patients)
    values[:, 4] = random.normal(50, 14, patients)
    values[:, 2:5][random.random((patients, 3)) < missing] = np.nan
    return values


def dataset(twin: HazardTwin, values, *, seed: int, leaving: bool = True) -> Dataset:
    """What the twin itself draws for these people, as a data set; with `leaving` they are followed for 0.5 to 12 years."""
    course = twin.simulate(values, seed=seed)
    random = np.random.default_rng([seed, 7])
    ends = random.uniform(0.5, 12, len(values))[:, None] if leaving else np.full((len(values), 1), 99.0)
    gone = (course.event != -1) & (course.time_years > ends)
    seen = ends[:, 0] >= 1
    return Dataset(
        PROGRAMME.name,
        PROGRAMME.version,
        PROGRAMME.feature_names,
        PROGRAMME.outcome_names,
        tuple(f"{i:064x}" for i in range(len(values))),
        values.astype(np.float32),
        np.where(gone, ends, course.time_years).astype(np.float32),
        np.where(gone, 0, course.event).astype(np.int8),
        PROGRAMME.target_names,
        np.stack(
            [np.where(seen, course.targets[name], np.nan) for name in PROGRAMME.target_names], axis=1
        ).astype(np.float32),
    )
