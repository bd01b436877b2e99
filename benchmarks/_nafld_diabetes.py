"""Olmsted County's people with diabetes, and those who may get it, as data sets (R package survival, nafld1-3)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gemel.core.dataset import Dataset
from gemel.core.programme import DAYS_PER_YEAR, IndexEvent, Outcome, OutcomeKind, Programme
from gemel.twins.programmes.type_2_diabetes import DRUG_CLASSES, PROGRAMME

_EVENTS = {"cardiovascular": ["MI", "stroke", "heart failure"], "diabetes": ["diabetes"]}
# `chol` is a copy of `hdl`, `dbp` a copy of `sbp`, and `fib4` is left-truncated: only these are read.
_TESTS = {
    "hdl": ("hdl_cholesterol_mg_dl", 5, 200),
    "sbp": ("systolic_blood_pressure_mmhg", 50, 270),
}
_HISTORIES = {
    "hypertension": ["htn"],
    "ischaemic_heart_disease": ["ang/isc"],
    "cardiovascular_history": _EVENTS["cardiovascular"],
}
_WINDOW_DAYS = 730

# The question before the disease: the same hazards, whose second outcome is diabetes itself. Not installed; measured here.
ONSET: Programme = msgspec.structs.replace(
    PROGRAMME,
    name="diabetes_onset",
    cohort=msgspec.structs.replace(PROGRAMME.cohort, index=IndexEvent(), required=()),
    features=tuple(
        feature
        for feature in PROGRAMME.features
        if feature.name in ("age_years", "male", "body_mass_index_kg_m2", *(n for n, _, _ in _TESTS.values()))
        or feature.name in _HISTORIES
    ),
    outcomes=(
        PROGRAMME.outcomes[0],
        Outcome(
            name="diabetes",
            title="Diabetes",
            kind=OutcomeKind.FIRST_DIAGNOSIS,
            concepts=("type_2_diabetes", "diabetes"),
        ),
    ),
    targets=(),
    treatments=(),
    endpoints=(
        msgspec.structs.replace(
            PROGRAMME.endpoints[1], name="diabetes", title="Diabetes", outcome="diabetes"
        ),
    ),
)


class Olmsted:
    """The three tables."""

    def __init__(self, folder: Path) -> None:
        self.people = pd.read_csv(folder / "nafld1.csv.gz").set_index("id").sort_index()
        self.tests = pd.read_csv(folder / "nafld2.csv.gz")
        self.events = pd.read_csv(folder / "nafld3.csv.gz")

    def first(self, names: list[str]) -> pd.Series:
        """Day of the first such event of each person; NaN for none."""
        mine = self.events[self.events["event"].isin(names)]
        return mine.groupby("id")["days"].min().reindex(self.people.index).astype(float)

    def with_diabetes(self) -> Dataset:
        """Everybody with diabetes who was followed for a day after it, from the later of it and the study's index day on."""
        onset = self.first(_EVENTS["diabetes"])
        start = np.maximum(onset, 0.0)
        return self._dataset(PROGRAMME, start[onset.notna() & (start < self.people["futime"])], onset)

    def without_diabetes(self) -> Dataset:
        """Everybody who had no diabetes on the study's index day."""
        onset = self.first(_EVENTS["diabetes"])
        free = self.people.index[~(onset <= 0)]
        return self._dataset(ONSET, pd.Series(0.0, index=free), onset)

    def _dataset(self, programme: Programme, start: pd.Series, onset: pd.Series) -> Dataset:
        people = self.people.loc[start.index]
        columns: dict[str, pd.Series] = {
            "age_years": people["age"] + start / DAYS_PER_YEAR,
            "male": people["male"],
            "body_mass_index_kg_m2": people["bmi"],
            "days_since_diabetes_was_recorded": start - onset.loc[start.index],
            **{name: self._last(test, low, high, start) for test, (name, low, high) in _TESTS.items()},
            **{
                name: (self.first(kinds).loc[start.index] <= start) * 1.0
                for name, kinds in _HISTORIES.items()
            },
        }
        nothing = {
            *DRUG_CLASSES,
            *(f"earlier_{name}" for name in DRUG_CLASSES),
            "thiazolidinedione",
            "insulin",
        }
        values = np.column_stack(
            [
                columns[n].to_numpy(float)
                if n in columns
                else np.full(len(start), 0.0 if n in nothing else np.nan)
                for n in programme.feature_names
            ]
        )
        end = (people["futime"] - start).to_numpy(float)
        time, event = [end], [people["status"].to_numpy(int)]
        for outcome in programme.outcomes[1:]:
            first = (self.first(_EVENTS[outcome.name]).loc[start.index] - start).to_numpy(float)
            prevalent, occurred = first <= 0, (first > 0) & (first <= end)
            time.append(np.where(prevalent, 0.0, np.where(occurred, first, end)))
            event.append(np.where(prevalent, -1, occurred.astype(int)))
        names = np.array([hashlib.sha256(f"nafld:{i}".encode()).hexdigest()[:32] for i in start.index])
        order = np.argsort(names)
        return Dataset(
            programme.name,
            programme.version,
            programme.feature_names,
            programme.outcome_names,
            tuple(names[order].tolist()),
            values[order].astype(np.float32),
            (np.maximum(np.column_stack(time), 0.0)[order] / DAYS_PER_YEAR).astype(np.float32),
            np.column_stack(event)[order].astype(np.int8),
            programme.target_names,
            np.full((len(start), len(programme.target_names)), np.nan, np.float32),
        )

    def _last(self, test: str, low: float, high: float, start: pd.Series) -> pd.Series:
        rows = self.tests[(self.tests["test"] == test) & self.tests["id"].isin(start.index)]
        before = rows["days"] - rows["id"].map(start)
        rows = rows[(before <= 0) & (before >= -_WINDOW_DAYS) & rows["value"].between(low, high)]
        return rows.sort_values("days").groupby("id")["value"].last().reindex(start.index)


def parts(dataset: Dataset, shares: Mapping[str, float], *, seed: int) -> dict[str, Dataset]:
    """The people divided at random among hospitals of these shares."""
    order: NDArray[np.intp] = np.random.default_rng(seed).permutation(len(dataset))
    bounds = np.rint(np.cumsum([0.0, *shares.values()]) * len(dataset)).astype(int)
    return {
        name: dataset.take(np.sort(order[low:high]))
        for name, low, high in zip(shares, bounds[:-1], bounds[1:], strict=True)
    }
