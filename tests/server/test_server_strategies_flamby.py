"""The FLamby benchmark's ground: its splits, no test patient in any choice, losses that are right and one patient's."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lifelines import CoxPHFitter, ExponentialFitter
from sklearn.linear_model import LogisticRegression

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT.parent / "shared" / "data" / "clinical"


@pytest.fixture(scope="module")
def benchmark() -> Iterator[dict[str, ModuleType]]:
    """The benchmark's modules by their short names."""
    if not (FOLDER / "heart_disease").is_dir():
        pytest.skip("the open data of ../shared/data are not on this machine")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield {n: importlib.import_module(f"_flamby_{n}") for n in ("data", "models", "sides")}
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def test_hospitals_and_splits_are_flambys(benchmark: dict[str, Any]) -> None:
    heart, brca = benchmark["data"].heart(), benchmark["data"].brca()
    sizes = [
        [(int(h.trains.sum()), int((~h.trains).sum())) for h in hospitals] for hospitals in (heart, brca)
    ]
    assert sizes[0] == [(199, 104), (172, 89), (30, 16), (85, 45)]
    assert sizes[1] == [(248, 63), (156, 40), (164, 42), (129, 33), (129, 33), (40, 11)]
    assert {h.columns["x"].shape[1] for h in heart} == {13}
    assert {h.columns["x"].shape[1] for h in brca} == {39}


def test_no_patient_of_the_test_half_is_in_any_choice_of_hyper_parameters(benchmark: dict[str, Any]) -> None:
    data = benchmark["data"]
    for hospitals in (data.heart(), data.brca()):
        for fold in range(3):
            inner = data.nested(hospitals, fold=fold, folds=3)
            for outer, mine in zip(hospitals, inner, strict=True):
                assert np.array_equal(mine.columns["x"], outer.part(True)["x"])
        held = [data.nested(hospitals, fold=f, folds=3)[0] for f in range(3)]
        assert np.array_equal(sum(~h.trains for h in held), np.ones(len(held[0].trains))), (
            "each is held out once"
        )


def test_scaling_looks_at_no_other_patient(benchmark: dict[str, Any]) -> None:
    scaled = benchmark["data"]._scaled
    values = np.array([0.0, 150.0, 250.0, np.nan, 5000.0])
    together = scaled(values, *benchmark["data"].HEART_RANGES["chol"])
    assert together.tolist() == [0.0, -1.0, 1.0, 0.0, 0.0], "not measured, or impossible: the reference"
    alone = [float(scaled(values[i : i + 1], *benchmark["data"].HEART_RANGES["chol"])[0]) for i in range(5)]
    assert alone == together.tolist()


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # lifelines calls pandas as its next version will not take
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_survival_likelihood_is_the_exponential_one_and_nearly_coxs(benchmark: dict[str, Any]) -> None:
    """Fitted to many virtual patients: lifelines' rate without columns, and Cox' coefficients with them."""
    models = benchmark["models"]
    random = np.random.default_rng(0)
    x = random.standard_normal((3000, 2)).astype(np.float32)
    time = random.exponential(1 / (0.2 * np.exp(x @ [0.7, -0.4]))).astype(np.float32)
    event = (time < 6).astype(np.float32)
    time = np.minimum(time, 6).astype(np.float32)
    model = models.PiecewiseExponential(2)
    batch = {n: torch.from_numpy(a) for n, a in {"x": x, "time": time, "event": event}.items()}
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=200)

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        total = model(batch).mean()
        total.backward()
        return total

    optimiser.step(loss)
    cox = CoxPHFitter().fit(
        pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "time": time, "event": event}), "time", "event"
    )
    np.testing.assert_allclose(model.weight.detach().numpy(), cox.params_.to_numpy(), atol=0.03)
    flat = models.PiecewiseExponential(2)
    with torch.no_grad():
        flat.level.fill_(float(np.log(1 / ExponentialFitter().fit(time, event).lambda_)))
        best = float(flat(batch).sum())
        for shift in (-0.05, 0.05):
            flat.level += shift
            assert float(flat(batch).sum()) > best, "lifelines' rate is the most likely one"
            flat.level -= shift


def test_pooled_training_without_privacy_is_logistic_regression(benchmark: dict[str, Any]) -> None:
    data, sides = benchmark["data"], benchmark["sides"]
    hospitals = data.heart()
    side = sides.Side("pooled", rounds=15, local_steps=50, learning_rate=2.0, sample_rate=1.0)
    [model, *_] = sides.pooled("heart", side, hospitals, seed=0)
    parts = [h.part(True) for h in hospitals]
    x, y = (np.concatenate([p[n] for p in parts]) for n in ("x", "y"))
    oracle = LogisticRegression(C=np.inf, max_iter=10_000).fit(x, y)
    np.testing.assert_allclose(model.weight.detach().numpy(), oracle.coef_[0], atol=0.1)
    assert float(model.bias.detach()) == pytest.approx(float(oracle.intercept_[0]), abs=0.1)


def test_a_private_side_costs_its_epsilon_with_everything_in_it(benchmark: dict[str, Any]) -> None:
    sides = benchmark["sides"]
    side = sides.Side("dp", rounds=30, local_steps=1, epsilon=1.0, max_grad_norm=1.0, sample_rate=1.0)
    assert 0.999 <= sides.priced(side, ["a", "b"]) <= 1.0
