"""The report's own statistics against those of others."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.statistics import logrank_test
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from gemel.synthetic.report.boosting import boost
from gemel.synthetic.report.cox import CoxFit, cox
from gemel.synthetic.report.logistic import logistic
from gemel.synthetic.report.marginals import rank_correlation
from gemel.synthetic.report.regression import interval_overlap
from gemel.synthetic.report.survival import kaplan_meier, log_rank


def patients_of(seed: int, people: int = 300, *, step: float = 1.0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(people, 3)) @ np.array([[1, 0.4, 0], [0, 1, 0.3], [0, 0, 1]])
    event_day = random.exponential(np.exp(-(x @ [0.5, -0.3, 0.0])) * 50)
    left = random.uniform(10, 80, people)
    days = np.maximum(np.ceil(np.minimum(event_day, left) / step) * step, step)
    return x, days, event_day <= left


@pytest.mark.parametrize("step", [0.001, 1.0, 20.0])
def test_cox_regression_agrees_with_lifelines_with_few_and_with_many_ties(step):
    x, days, occurred = patients_of(3, step=step)
    found = cox(x, days, occurred)
    table = pd.DataFrame(x, columns=["a", "b", "c"]).assign(days=days, event=occurred.astype(int))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = CoxPHFitter().fit(table, "days", "event")
    assert found.coefficients == pytest.approx(theirs.params_.to_numpy(), abs=1e-5)
    assert np.sqrt(np.diag(found.covariance)) == pytest.approx(theirs.standard_errors_.to_numpy(), abs=1e-5)
    assert found.intervals == pytest.approx(theirs.confidence_intervals_.to_numpy(), abs=1e-4)


@given(st.integers(0, 1000), st.floats(-5, 5), st.floats(0.1, 10))
@settings(max_examples=15)
def test_cox_coefficients_do_not_move_with_the_origin_of_a_covariate_and_shrink_with_its_unit(
    seed, shift, unit
):
    x, days, occurred = patients_of(seed, 120)
    plain, moved = cox(x, days, occurred), cox(x * unit + shift, days, occurred)
    assert moved.coefficients * unit == pytest.approx(plain.coefficients, abs=1e-5)


def test_cox_without_an_event_has_no_fit_and_with_twins_of_a_column_has_one_by_the_ridge():
    x, days, occurred = patients_of(1)
    assert np.isnan(cox(x, days, np.zeros(len(days), bool)).coefficients).all()
    twice = np.column_stack([x[:, 0], x[:, 0]])
    assert np.isnan(cox(twice, days, occurred).coefficients).all()
    single = cox(x[:, :1], days, occurred).coefficients[0]
    assert cox(twice, days, occurred, ridge=1e-3).coefficients.sum() == pytest.approx(single, abs=1e-3)


@pytest.mark.parametrize("ridge", [1.0, 10.0])
def test_logistic_regression_agrees_with_scikit_learn(ridge):
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 4))
    y = random.random(400) < 1 / (1 + np.exp(-(x @ [1.0, -0.5, 0.0, 2.0] - 0.7)))
    found = logistic(x, y, ridge=ridge)
    theirs = LogisticRegression(C=1 / ridge, tol=1e-10, max_iter=1000).fit(x, y)
    assert found.coefficients == pytest.approx(theirs.coef_[0], abs=1e-4)
    assert found.intercept == pytest.approx(theirs.intercept_[0], abs=1e-4)
    assert found.chance(x) == pytest.approx(theirs.predict_proba(x)[:, 1], abs=1e-5)


def test_a_column_that_parts_cases_from_others_has_a_finite_fit_and_only_cases_a_constant_one():
    x = np.linspace(-1, 1, 40)[:, None]
    assert 1 < logistic(x, x[:, 0] > 0).coefficients[0] < 20
    assert logistic(x, np.ones(40, bool)).chance(x) == pytest.approx(np.ones(40), abs=1e-6)


@given(st.integers(0, 1000), st.integers(5, 80))
@settings(max_examples=20)
def test_survival_and_the_log_rank_test_agree_with_lifelines(seed, people):
    _, days, occurred = patients_of(seed, people, step=5.0)
    grid = np.arange(0.0, 80.0, 3.0)
    share, present = kaplan_meier(days, occurred.astype(int), grid)
    theirs = KaplanMeierFitter().fit(days, occurred)
    assert share == pytest.approx(theirs.survival_function_at_times(grid).to_numpy(), abs=1e-9)
    assert present.tolist() == [int((days >= day).sum()) for day in grid]
    half = people // 2
    one, other = (days[:half], occurred[:half]), (days[half:], occurred[half:])
    if occurred.any():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            p = logrank_test(one[0], other[0], one[1], other[1]).p_value
        ours = log_rank(one, other)
        assert np.isnan(ours) == np.isnan(p)
        if not np.isnan(p):
            assert ours == pytest.approx(p, abs=1e-9)


def test_who_had_it_before_is_not_at_risk_of_it():
    days, event = np.array([0.0, 5.0, 8.0]), np.array([-1, 1, 0])
    share, present = kaplan_meier(days, event, np.array([0.0, 6.0]))
    assert share.tolist() == [1.0, 0.5]
    assert present.tolist() == [2.0, 1.0]


def test_boosted_trees_find_what_two_columns_do_together_about_as_well_as_scikit_learn():
    random = np.random.default_rng(0)
    levels = random.integers(0, 6, size=(3000, 8))
    odds = 1.5 * ((levels[:, 0] > 2) ^ (levels[:, 1] > 3)) + 0.3 * levels[:, 2] - 1.5
    y = random.random(3000) < 1 / (1 + np.exp(-odds))
    train, test = slice(0, 2000), slice(2000, None)
    ours = roc_auc_score(y[test], boost(levels[train], y[train]).log_odds(levels[test]))
    linear = LogisticRegression().fit(levels[train], y[train]).decision_function(levels[test])
    theirs = HistGradientBoostingClassifier(max_iter=100, random_state=0).fit(levels[train], y[train])
    best = roc_auc_score(y[test], theirs.decision_function(levels[test]))
    assert ours > best - 0.01
    assert ours > roc_auc_score(y[test], linear) + 0.05


def test_boosted_trees_of_too_few_people_to_split_give_the_share_of_cases():
    trees = boost(np.zeros((6, 2), int), np.array([True, False, False, False, True, False]))
    assert 1 / (1 + np.exp(-trees.log_odds(np.zeros((1, 2), int))[0])) == pytest.approx(1 / 3, abs=0.01)


def test_rank_correlations_are_spearmans(table, make_ward):
    people = table(make_ward(500, 3))
    found = rank_correlation(people)
    codes = [people.codes[name] for name in ("sex", "age", "albumin", "aspirin", "death", "relapse", "icu")]
    assert found == pytest.approx(stats.spearmanr(np.stack(codes, axis=1)).statistic, abs=1e-9)


def test_intervals_overlap_by_what_the_narrower_one_has_in_common_with_the_other():
    def fit(value: float, error: float) -> CoxFit:
        return CoxFit(np.array([value]), np.array([[error**2]]))

    assert interval_overlap(fit(0.0, 1.0), fit(0.0, 1.0)) == pytest.approx(1.0)
    assert interval_overlap(fit(0.0, 1.0), fit(0.0, 0.1)) == pytest.approx(1.0)
    assert interval_overlap(fit(0.0, 1.0), fit(1.96, 1.0)) == pytest.approx(0.5, abs=1e-3)
    assert interval_overlap(fit(0.0, 1.0), fit(9.0, 1.0)) == 0.0
