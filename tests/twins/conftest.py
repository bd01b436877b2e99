"""The Olmsted County fatty-liver cohort (R package survival, nafld1-3) as a Dataset, for claims tests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cardiometabolic import PROGRAMME

from gemel.core.dataset import Dataset
from gemel.twins.hazard import HazardTwin

_FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "clinical" / "nafld"
_DAYS_PER_YEAR = 365.25
_WINDOW_DAYS = 1826
# `chol` is a copy of `hdl`, `dbp` a copy of `sbp`, and `fib4` is left-truncated: only these two are used.
_LABORATORY = {"hdl": "hdl_cholesterol_mg_dl", "sbp": "systolic_blood_pressure_mmhg"}
_PLAUSIBLE = {"hdl": (5, 200), "sbp": (50, 270)}
_HISTORY = {
    "fatty_liver": ["nafld"],
    "hypertension": ["htn"],
    "dyslipidaemia": ["dyslipidemia"],
    "diabetes_history": ["diabetes"],
    "ischaemic_heart_disease": ["ang/isc"],
    "cardiovascular_history": ["heart failure", "afib", "MI", "stroke"],
}
_INCIDENT = {"cardiovascular": _HISTORY["cardiovascular_history"], "diabetes": ["diabetes"]}


def read_nafld(folder: Path = _FOLDER) -> Dataset:
    """All 17,549 people, sorted by a stable pseudonym."""
    people = pd.read_csv(folder / "nafld1.csv.gz").set_index("id").sort_index()
    labs = pd.read_csv(folder / "nafld2.csv.gz")
    events = pd.read_csv(folder / "nafld3.csv.gz")
    columns = {"age_years": people["age"], "male": people["male"], "body_mass_index_kg_m2": people["bmi"]}
    for test, name in _LABORATORY.items():
        low, high = _PLAUSIBLE[test]
        usable = labs[(labs["test"] == test) & labs["days"].between(-_WINDOW_DAYS, 0)]
        usable = usable[usable["value"].between(low, high)].sort_values("days")
        columns[name] = usable.groupby("id")["value"].last().reindex(people.index)
    for name, kinds in _HISTORY.items():
        before = events[events["event"].isin(kinds) & (events["days"] <= 0)]
        columns[name] = pd.Series(people.index.isin(before["id"]), index=people.index, dtype=float)
    follow_up = np.maximum(people["futime"].to_numpy(float), 1.0)
    time, event = [follow_up], [people["status"].to_numpy(int)]
    for kinds in _INCIDENT.values():
        mine = events[events["event"].isin(kinds)]
        prevalent = people.index.isin(mine.loc[mine["days"] <= 0, "id"])
        first = mine[mine["days"] > 0].groupby("id")["days"].min().reindex(people.index).to_numpy(float)
        occurred = ~prevalent & (first <= follow_up)
        time.append(np.where(prevalent, 0.0, np.where(occurred, first, follow_up)))
        event.append(np.where(prevalent, -1, occurred.astype(int)))
    pseudonyms = np.array([hashlib.sha256(f"nafld:{i}".encode()).hexdigest() for i in people.index])
    order = np.argsort(pseudonyms)
    values = np.column_stack([columns[name].to_numpy(float) for name in PROGRAMME.feature_names])
    return Dataset(
        PROGRAMME.name,
        PROGRAMME.version,
        PROGRAMME.feature_names,
        PROGRAMME.outcome_names,
        tuple(pseudonyms[order].tolist()),
        values[order].astype(np.float32),
        (np.column_stack(time)[order] / _DAYS_PER_YEAR).astype(np.float32),
        np.column_stack(event)[order].astype(np.int8),
    )


@pytest.fixture(scope="session")
def nafld() -> Dataset:
    """The real cohort; skips where the open data are absent."""
    if not _FOLDER.is_dir():
        pytest.skip("the open data of ../shared/data are not on this machine")
    return read_nafld()


@pytest.fixture(scope="session")
def sick_twin() -> HazardTwin:
    """A twin with plausible, hand-set parameters: age matters, diseases beget each other and death."""
    twin = HazardTwin(PROGRAMME)
    arrays = twin.to_arrays()
    arrays["level"][:] = np.log([0.015, 0.02, 0.012])
    arrays["slopes"][:] = [[0.3, 0.3, 0.05], [0.2, 0.1, 0.0], [0.1, 0.0, -0.05]]
    arrays["weights"][:, 0] = [1.3, 1.0, 0.3]
    arrays["weights"][:, 1] = [0.2, 0.3, 0.1]
    arrays["weights"][:, 2] = [0.1, 0.2, 0.4]
    arrays["couplings"][:] = [[0.9, 0.4], [0.0, 0.5], [0.3, 0.0]]
    twin.load_arrays(arrays)
    return twin


@pytest.fixture(scope="session")
def make_cohort(sick_twin: HazardTwin) -> Callable[..., Dataset]:
    """make_cohort(patients, seed=…, censored=True): virtual patients whose courses `sick_twin` drew."""

    def make(patients: int, *, seed: int, censored: bool = True) -> Dataset:
        random = np.random.default_rng(seed)
        values = np.zeros((patients, len(PROGRAMME.features)))
        values[:, 0] = random.uniform(25, 90, patients)
        values[:, 1] = random.random(patients) < 0.5
        values[:, 2] = np.where(random.random(patients) < 0.3, np.nan, random.normal(29, 5, patients))
        values[:, 3] = np.where(random.random(patients) < 0.6, np.nan, random.normal(132, 18, patients))
        values[:, 4] = np.where(random.random(patients) < 0.3, np.nan, random.normal(50, 14, patients))
        values[:, 5:] = random.random((patients, values.shape[1] - 5)) < 0.15
        course = sick_twin.simulate(values, seed=seed + 1_000)  # a stream of its own
        ends = random.uniform(0.2, 18, patients)[:, None] if censored else np.full((patients, 1), 99.0)
        gone = (course.event != -1) & (course.time_years > ends)
        return Dataset(
            PROGRAMME.name,
            PROGRAMME.version,
            PROGRAMME.feature_names,
            PROGRAMME.outcome_names,
            tuple(f"{i:064x}" for i in range(patients)),
            values.astype(np.float32),
            np.where(gone, ends, course.time_years).astype(np.float32),
            np.where(gone, 0, course.event).astype(np.int8),
        )

    return make
