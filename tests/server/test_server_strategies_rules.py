"""Rules on released tables: when training ends, and how each hospital's model does at the others."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gemel.core.errors import GemelError
from gemel.core.strategy_plan import Pace
from gemel.server.cross_site import matrix
from gemel.server.early_stopping import stops, validated_loss
from gemel.twins.installed import make_twin
from gemel.twins.metrics import metric_tables
from gemel.twins.programmes.fatty_liver import PROGRAMME
from gemel.twins.recalibration import Flag

NOISE = 4.0


def _tables(seed: int) -> dict[str, np.ndarray]:
    """What a hospital of a few hundred held-out patients might release."""
    random = np.random.default_rng(seed)
    return {
        name: random.poisson(12, spec.shape) + np.rint(random.normal(0, NOISE, spec.shape)).astype(np.int64)
        for name, spec in metric_tables(PROGRAMME).items()
    }


def _model(level: float = 0.0) -> dict[str, np.ndarray]:
    twin = make_twin(PROGRAMME)
    with torch.no_grad():
        twin.level += level
    return dict(twin.to_arrays())


LOSSES = st.lists(st.floats(0, 1), max_size=12)


@given(history=LOSSES)
def test_without_patience_nothing_stops(history: list[float]) -> None:
    assert not stops(history, Pace(validate_every=1))


@given(patience=st.integers(1, 5), count=st.integers(0, 12))
def test_a_loss_that_falls_each_time_never_stops(patience: int, count: int) -> None:
    falling = [1 - 0.05 * i for i in range(count)]
    assert not stops(falling, Pace(validate_every=1, patience=patience, least_improvement=0.01))


@given(patience=st.integers(1, 5), count=st.integers(0, 12))
def test_a_loss_that_stands_stops_after_as_many_validations_as_patience(patience: int, count: int) -> None:
    pace = Pace(validate_every=1, patience=patience, least_improvement=0.0)
    assert stops([0.3] * count, pace) == (count > patience)


@given(history=LOSSES, patience=st.integers(1, 5), least=st.floats(0, 0.5), more=st.floats(0, 0.5))
def test_asking_for_more_improvement_stops_no_later(
    history: list[float], patience: int, least: float, more: float
) -> None:
    pace = Pace(validate_every=1, patience=patience, least_improvement=least)
    stricter = Pace(validate_every=1, patience=patience, least_improvement=least + more)
    assert stops(history, stricter) >= stops(history, pace)


def test_the_validated_loss_is_that_of_the_sum_whoever_added_it_up() -> None:
    tables = [_tables(seed) for seed in range(3)]
    summed = {name: np.sum([t[name] for t in tables], axis=0) for name in tables[0]}
    sigma = NOISE * math.sqrt(3)
    apart = validated_loss(tables, PROGRAMME, _model(), noise_sigma=sigma)
    assert apart == validated_loss([summed], PROGRAMME, _model(), noise_sigma=sigma)
    assert 0 < apart.value < 1
    assert (
        0
        < apart.standard_error
        < validated_loss(tables, PROGRAMME, _model(), noise_sigma=200.0).standard_error
    )


def test_a_twin_that_foresees_what_happened_loses_less() -> None:
    tables = [_tables(0)]  # nearly half have the outcome: the higher hazard is the better twin
    low, high = (validated_loss(tables, PROGRAMME, _model(x), noise_sigma=NOISE).value for x in (-2.0, 2.0))
    assert high < low


def test_local_parameters_that_did_not_travel_are_at_their_start() -> None:
    model = _model()
    shared = {name: array for name, array in model.items() if name != "level"}
    assert validated_loss([_tables(1)], PROGRAMME, shared, noise_sigma=NOISE) == validated_loss(
        [_tables(1)], PROGRAMME, model, noise_sigma=NOISE
    )


def test_the_matrix_has_every_model_at_every_hospital_with_its_error() -> None:
    sites = ("alpha", "beta")
    tables = {owner: {at: _tables(i + 2 * j) for j, at in enumerate(sites)} for i, owner in enumerate(sites)}
    rows = matrix(tables, {"alpha": _model(0.1), "beta": _model(-0.1)}, PROGRAMME, noise_sigma=NOISE)
    cells = {(r["model"], r["hospital"], r["outcome"], r["metric"]) for r in rows}
    assert len(cells) == len(rows) == 2 * 2 * 2 * 6
    scores = [r for r in rows if r["metric"] != "observed_over_expected"]
    assert all(r["standard_error"] > 0 and 0 <= r["value"] <= 1 for r in scores)
    fits = [r for r in rows if r not in scores]
    assert len(fits) == 2 * 2 * 2
    assert all(r["low"] <= r["value"] <= r["high"] and r["flag"] in set(Flag) for r in fits)
    assert [(r["model"], r["hospital"]) for r in rows] == sorted((r["model"], r["hospital"]) for r in rows)


def test_tables_that_were_not_declared_are_no_score() -> None:
    with pytest.raises(GemelError) as caught:
        matrix(
            {"a": {"a": {"death": np.zeros((5, 7), np.int64)}}}, {"a": _model()}, PROGRAMME, noise_sigma=1.0
        )
    assert caught.value.code == "GEM403"
