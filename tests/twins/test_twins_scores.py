"""Exact scores, against sklearn, lifelines and sums by hand."""

from __future__ import annotations

import lifelines
import numpy as np
import pytest
from cardiometabolic import PROGRAMME
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from gemel.core.dataset import Dataset
from gemel.twins import scores


def dataset(time, event):
    n = len(time)
    return Dataset(
        PROGRAMME.name,
        PROGRAMME.version,
        PROGRAMME.feature_names,
        PROGRAMME.outcome_names,
        tuple(f"{i:064x}" for i in range(n)),
        np.zeros((n, 11), np.float32),
        np.asarray(time, np.float32),
        np.asarray(event, np.int8),
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_without_censoring_the_auc_is_that_of_sklearn(seed, ties):
    random = np.random.default_rng(seed)
    time = np.repeat(random.uniform(0, 9, (60, 1)), 3, axis=1)
    risk = random.integers(0, 5, 60) / 5 if ties else random.random(60)
    data = dataset(time, np.ones((60, 3)))
    case = time[:, 0] <= 4
    if 0 < case.sum() < 60:
        assert scores.auc(data, 0, risk, years=4) == pytest.approx(roc_auc_score(case, risk))


def test_weighted_incidence_is_aalen_johansen(make_cohort):
    data = make_cohort(1500, seed=4)
    mine = scores.at_risk(data, 1)
    time, event = data.time_years[mine, 1], data.event[mine, 1]
    kind = np.where(event == 1, 1, np.where(data.event[mine, 0] == 1, 2, 0))
    oracle = lifelines.AalenJohansenFitter(calculate_variance=False).fit(time, kind, event_of_interest=1)
    for years in (5, 10):
        group = scores.followed(data, 1, years=years)
        incidence = (group.weight * group.case).sum() / mine.sum()
        curve = oracle.cumulative_density_
        assert incidence == pytest.approx(float(curve[curve.index <= years].iloc[-1, 0]), rel=1e-6)


def test_censoring_moves_the_auc_no_further_than_chance(make_cohort, sick_twin):
    whole, censored = (make_cohort(8000, seed=6, censored=c) for c in (False, True))
    risk = sick_twin.predict(whole.values).cumulative_incidence
    for outcome in (0, 1):
        full, some = (scores.auc(d, outcome, risk[:, 10, outcome], years=10) for d in (whole, censored))
        assert some == pytest.approx(full, abs=0.02)


def test_a_true_twin_is_calibrated(make_cohort, sick_twin):
    data = make_cohort(8000, seed=6)
    risk = sick_twin.predict(data.values).cumulative_incidence
    for outcome in (0, 1, 2):
        ratio = scores.observed_over_expected(data, outcome, risk[:, 10, outcome], years=10)
        assert ratio == pytest.approx(1, abs=0.08)


def test_who_dies_of_something_else_is_a_control():
    time = [[1, 1, 9], [2, 2, 9], [9, 9, 9]]
    event = [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert scores.auc(dataset(time, event), 1, np.array([0.9, 0.1, 0.2]), years=5) == 1.0
    assert scores.followed(dataset(time, event), 1, years=5).weight[1] > 0


def test_the_brier_score_is_the_one_worked_out_by_hand():
    # One leaves at 1 year: the two at risk after it stand for three, with weight 3/2 each... but one died before.
    time = np.repeat([[0.5], [1.0], [6.0], [7.0]], 3, axis=1)
    event = [[1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    risk = np.array([0.6, 0.9, 0.2, 0.1])
    # At 1 year 3 are followed and 1 leaves: the survivors weigh 1 / (2/3).
    expected = ((1 - 0.6) ** 2 + 1.5 * 0.2**2 + 1.5 * 0.1**2) / 4
    assert scores.brier(dataset(time, event), 0, risk, years=5) == pytest.approx(expected)


def test_the_prevalent_are_in_no_score():
    time = [[9, 0, 9], [9, 3, 9], [9, 9, 9]]
    event = [[0, -1, 0], [0, 1, 0], [0, 0, 0]]
    assert scores.followed(dataset(time, event), 1, years=5).weight.tolist() == [0, 1, 1]
    assert scores.brier(dataset(time, event), 1, np.array([0.9, 1.0, 0.0]), years=5) == 0


def test_a_score_without_cases_is_not_a_number():
    data = dataset(np.full((4, 3), 9.0), np.zeros((4, 3)))
    assert np.isnan(scores.auc(data, 0, np.arange(4.0), years=5))


def test_the_integrated_score_is_the_mean_over_ten_years(make_cohort, sick_twin):
    data = make_cohort(400, seed=1)
    risk = sick_twin.predict(data.values).cumulative_incidence[:, :, 0]
    yearly = [scores.brier(data, 0, risk[:, t], years=t) for t in range(1, 11)]
    assert scores.integrated_brier(data, 0, risk) == pytest.approx(np.mean(yearly))
