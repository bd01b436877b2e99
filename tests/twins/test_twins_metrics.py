"""Released tables: sensitivity, agreement with the exact scores, honest standard errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cardiometabolic import PROGRAMME
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.core.arrays import ArraySpec
from gemel.core.errors import GemelError
from gemel.twins import scores
from gemel.twins.endpoint_tables import table_of
from gemel.twins.metrics import count_metric_tables, metric_tables, metrics_from_tables


@pytest.fixture(scope="module")
def counted(make_cohort, sick_twin):
    data = make_cohort(12_000, seed=21)
    prediction = sick_twin.predict(data.values)
    return data, prediction, count_metric_tables(PROGRAMME, prediction, data)


def test_the_tables_are_these_two():
    spec = ArraySpec((5, 7), "int64")
    assert metric_tables(PROGRAMME) == {"death": spec, "cardiovascular": spec}


def test_each_patient_at_risk_is_in_one_cell_and_nobody_else_in_any(counted):
    data, _, tables = counted
    for j, table in enumerate(tables.values()):
        assert table.dtype == np.int64
        assert table.sum() == scores.at_risk(data, j).sum()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 11_999))
def test_taking_one_patient_out_changes_each_table_by_at_most_one(counted, leaver):
    data, prediction, tables = counted
    stay = np.arange(len(data)) != leaver
    rest = replace(prediction, cumulative_incidence=prediction.cumulative_incidence[stay])
    fewer = count_metric_tables(PROGRAMME, rest, data.take(stay))
    for name, table in tables.items():
        difference = table - fewer[name]
        assert difference.min() >= 0
        assert difference.sum() <= 1


@pytest.mark.parametrize("odd", [np.nan, np.inf, -1.0, 2.0])
def test_a_risk_that_is_no_probability_still_counts_once(counted, odd):
    data, prediction, _ = counted
    changed = prediction.cumulative_incidence.copy()
    changed[0] = odd
    tables = count_metric_tables(PROGRAMME, replace(prediction, cumulative_incidence=changed), data)
    assert tables["death"].sum() == len(data)


def test_no_one_dies_before_death(counted):
    _, _, tables = counted
    impossible = [
        name.startswith("died_first") for name in table_of(PROGRAMME, PROGRAMME.endpoints[0]).columns
    ]
    assert tables["death"][:, impossible].sum() == 0
    assert tables["cardiovascular"][:, impossible].sum() > 0


def test_without_noise_the_tables_give_nearly_the_exact_scores(counted, sick_twin):
    data, prediction, tables = counted
    released = metrics_from_tables(sick_twin, tables, noise_sigma=0.0)
    for j, name in enumerate(tables):
        mine, of = released[name], prediction.cumulative_incidence[:, :, j]
        for years in (5, 10):
            auc = mine[f"auc_{years}y"].value
            assert auc == pytest.approx(scores.auc(data, j, of[:, years], years=years), abs=0.03)
            brier = mine[f"brier_{years}y"].value
            assert brier == pytest.approx(scores.brier(data, j, of[:, years], years=years), rel=0.08)
        exact = scores.integrated_brier(data, j, of)
        assert mine["integrated_brier"].value == pytest.approx(exact, rel=0.08)


def test_the_standard_error_covers_what_the_noise_does(counted, sick_twin):
    _, _, tables = counted
    sigma, errors = 8.0, []
    quiet = metrics_from_tables(sick_twin, tables, noise_sigma=0.0)["death"]["auc_10y"]
    for seed in range(12):
        random = np.random.default_rng(seed)
        noisy = {n: t + np.rint(random.normal(0, sigma, t.shape)).astype(np.int64) for n, t in tables.items()}
        score = metrics_from_tables(sick_twin, noisy, noise_sigma=sigma)["death"]["auc_10y"]
        assert score.standard_error > quiet.standard_error
        errors.append((score.value - quiet.value) / score.standard_error)
    assert np.abs(errors).max() < 3.5
    assert 0.2 < np.std(errors) < 1.6
    assert abs(np.mean(errors)) < 1


def test_the_order_of_the_tables_does_not_matter(counted, sick_twin):
    _, _, tables = counted
    turned = {name: tables[name] for name in sorted(tables)}
    assert list(turned) != list(tables)
    one, other = (metrics_from_tables(sick_twin, t, noise_sigma=1.0) for t in (tables, turned))
    assert one == other


def test_tables_of_nothing_but_noise_give_numbers_and_no_error(sick_twin):
    random = np.random.default_rng(0)
    noise = {n: np.rint(random.normal(0, 9, (5, 7))).astype(np.int64) for n in metric_tables(PROGRAMME)}
    for of in metrics_from_tables(sick_twin, noise, noise_sigma=9.0).values():
        assert all(np.isfinite([s.value, s.standard_error]).all() for s in of.values())


def test_tables_of_another_shape_are_refused(counted, sick_twin):
    _, _, tables = counted
    with pytest.raises(GemelError) as caught:
        metrics_from_tables(sick_twin, {**tables, "death": tables["death"][:, :-1]}, noise_sigma=1.0)
    assert caught.value.code == "GEM403"
