"""The numbers of an evaluation, against scikit-learn, lifelines, sums by hand, the bootstrap and simulations whose truth is known."""

from __future__ import annotations

import math

import lifelines.utils
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, mean_absolute_error, roc_auc_score

from gemel.core.dataset import Dataset
from gemel.twins import scores
from gemel.twins.evaluation.accuracy import (
    brier,
    brier_difference,
    crps,
    ranked_probability,
    rmse_difference,
    scaled_brier,
    value_scores,
)
from gemel.twins.evaluation.calibration import calibration, logistic, observed_over_expected
from gemel.twins.evaluation.decision_curve import decision_curve, net_benefit_difference
from gemel.twins.evaluation.discrimination import auc, auc_and_influence, auc_difference, concordance
from gemel.twins.evaluation.estimate import Estimate, effective_number, wilson
from gemel.twins.evaluation.observed import Observed


def everybody(case, weight=None):
    case = np.asarray(case, bool)
    weights = np.ones(len(case)) if weight is None else np.asarray(weight, float)
    return Observed(case, weights, np.ones(len(case), bool))


def simulated(patients, seed, *, intercept=-1.0, slope=1.0):
    """Risks that a twin says, and events by logit(risk) = intercept + slope · logit(said)... shifted by `intercept` + 1."""
    random = np.random.default_rng(seed)
    logit = -1.0 + 1.2 * random.normal(size=patients)
    said = 1 / (1 + np.exp(-logit))
    true = 1 / (1 + np.exp(-(intercept + 1.0 + slope * logit)))
    return everybody(random.random(patients) < true), said


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_the_auc_is_that_of_sklearn(seed, ties):
    random = np.random.default_rng(seed)
    case = random.random(80) < 0.4
    score = random.integers(0, 6, 80) * 1.0 if ties else random.random(80)
    if 2 <= case.sum() <= 78:
        assert auc(everybody(case), score).value == pytest.approx(roc_auc_score(case, score))


def test_the_variance_of_the_auc_is_delongs():
    random = np.random.default_rng(1)
    case = random.random(60) < 0.4
    score = random.normal(size=60) + case
    cases, controls = score[case], score[~case]
    kernel = (cases[:, None] > controls) + 0.5 * (cases[:, None] == controls)
    by_hand = kernel.mean(axis=1).var(ddof=1) / len(cases) + kernel.mean(axis=0).var(ddof=1) / len(controls)
    _, influence = auc_and_influence(everybody(case), score)
    assert (influence**2).sum() == pytest.approx(by_hand)


def test_the_variance_of_the_auc_is_that_of_the_bootstrap():
    observed, said = simulated(600, 3)
    found = auc(observed, said)
    random = np.random.default_rng(0)
    draws = [random.integers(0, 600, 600) for _ in range(600)]
    spread = np.std([roc_auc_score(observed.case[d], said[d]) for d in draws])
    error = (found.high - found.low) / (2 * 1.96)
    assert error == pytest.approx(spread, rel=0.12)


def test_the_paired_difference_is_narrower_than_the_two_apart():
    observed, said = simulated(800, 4)
    other = np.clip(said + np.random.default_rng(1).normal(0, 0.05, 800), 0.001, 0.999)
    difference = auc_difference(observed, said, other)
    assert difference.value == pytest.approx(auc(observed, said).value - auc(observed, other).value)
    assert difference.high - difference.low < auc(observed, said).high - auc(observed, said).low
    same = auc_difference(observed, said, said)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_intervals_of_the_auc_hold_95_of_100_times():
    truth, _ = auc_and_influence(*simulated(200_000, 99))
    held = [auc(*simulated(150, seed)) for seed in range(400)]
    share = np.mean([e.low <= truth <= e.high for e in held])
    assert 0.92 <= share <= 0.98


@pytest.mark.parametrize("cases", [0, 1, 59, 60])
def test_without_two_cases_and_two_controls_there_is_no_auc(cases):
    case = np.arange(60) < cases
    found = auc(everybody(case), np.arange(60.0))
    assert math.isnan(found.value)
    assert math.isnan(found.low)


def test_a_perfect_order_has_no_interval():
    found = auc(everybody(np.arange(20) >= 10), np.arange(20.0))
    assert found.value == 1
    assert math.isnan(found.low)


def dataset(time, event):
    from cardiometabolic import PROGRAMME

    n = len(time)
    return Dataset(
        PROGRAMME.name,
        PROGRAMME.version,
        PROGRAMME.feature_names,
        PROGRAMME.outcome_names,
        tuple(f"{i:064x}" for i in range(n)),
        np.zeros((n, len(PROGRAMME.columns)), np.float32),
        np.asarray(time, np.float32),
        np.asarray(event, np.int8),
    )


def test_concordance_of_complete_follow_up_is_that_of_lifelines():
    random = np.random.default_rng(2)
    time = random.integers(1, 40, 300) / 4
    score = -time + random.normal(0, 3, 300)
    data = dataset(np.repeat(time[:, None], 3, axis=1), np.ones((300, 3)))
    found = concordance(data, 0, score, years=99)
    assert found.value == pytest.approx(lifelines.utils.concordance_index(time, -score))


def test_concordance_under_censoring_is_that_without():
    random = np.random.default_rng(3)
    rate = np.exp(random.normal(-2, 1, 6000))
    time, leaves = random.exponential(1 / rate), random.uniform(0, 15, 6000)
    # Not those after 10 years: nobody is followed for long enough to order them.
    truth = concordance(dataset(np.repeat(time[:, None], 3, 1), np.ones((6000, 3))), 0, rate, years=10)
    seen, event = np.minimum(time, leaves), (time <= leaves) * 1
    data = dataset(np.repeat(seen[:, None], 3, 1), np.repeat(event[:, None], 3, 1))
    found = concordance(data, 0, rate, years=10)
    assert found.value == pytest.approx(truth.value, abs=0.012)
    assert found.low < truth.value < found.high
    naive = lifelines.utils.concordance_index(seen, -rate, event)
    assert abs(naive - truth.value) > abs(found.value - truth.value)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_concordance_is_the_sum_over_all_pairs(seed):
    random = np.random.default_rng(seed)
    # Whole years: ties of every kind, deaths first, and people who had it before.
    time = np.repeat(random.integers(1, 9, (50, 1)), 3, axis=1).astype(float)
    fate = random.integers(0, 4, 50)
    event = np.stack([fate == 1, fate == 2, np.zeros(50)], axis=1).astype(int)
    event[fate == 3, 1], time[fate == 3, 1] = np.where(random.random((fate == 3).sum()) < 0.5, -1, 0), 4
    time[event == -1] = 0
    data, score = dataset(time, event), random.integers(0, 6, 50) / 5
    weight = scores.followed(data, 1, years=np.inf).weight
    right = pairs = 0.0
    for i in np.flatnonzero((event[:, 1] == 1) & (time[:, 1] <= 6)):
        for j in range(50):
            died_first = event[j, 1] == 0 and event[j, 0] == 1
            if event[j, 1] < 0:
                continue
            if died_first and time[j, 1] <= time[i, 1]:
                pair = weight[i] * weight[j]
            elif time[j, 1] > time[i, 1] or (time[j, 1] == time[i, 1] and event[j, 1] == 0):
                pair = weight[i] ** 2
            else:
                continue
            pairs += pair
            right += pair * ((score[i] > score[j]) + 0.5 * (score[i] == score[j]))
    found = concordance(data, 1, score, years=6)
    if np.count_nonzero((event[:, 1] == 1) & (time[:, 1] <= 6)) >= 2:
        assert found.value == pytest.approx(right / pairs)


def test_the_error_of_concordance_is_that_of_the_bootstrap():
    random = np.random.default_rng(4)
    rate = np.exp(random.normal(-2, 0.8, 300))
    time, leaves = random.exponential(1 / rate), random.uniform(0, 15, 300)
    seen, event = np.minimum(time, leaves), (time <= leaves) * 1
    data = dataset(np.repeat(seen[:, None], 3, 1), np.repeat(event[:, None], 3, 1))
    found = concordance(data, 0, rate, years=10)
    draws = [random.integers(0, 300, 300) for _ in range(200)]
    spread = np.std([concordance(data.take(d), 0, rate[d], years=10).value for d in draws])
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(spread, rel=0.2)


def test_who_died_of_something_else_is_set_against_later_cases():
    time = [[1, 1, 9], [2, 2, 9], [9, 9, 9]]
    event = [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    # The case of outcome 1 comes at 2 years; one died first, one never had it. Its score is above one of the two.
    found = concordance(dataset([*time, *time], [*event, *event]), 1, np.array([0.9, 0.5, 0.1] * 2), years=5)
    assert found.value == pytest.approx(0.5)


def test_logistic_regression_is_that_of_sklearn():
    random = np.random.default_rng(5)
    x = random.normal(size=(700, 2))
    case = random.random(700) < 1 / (1 + np.exp(-(0.3 + x @ [1.0, -0.5])))
    weight = random.uniform(0.5, 3, 700)
    fit = logistic(everybody(case, weight), np.column_stack([np.ones(700), x]))
    oracle = LogisticRegression(C=np.inf, tol=1e-10).fit(x, case, sample_weight=weight)
    assert fit.coefficients == pytest.approx([*oracle.intercept_, *oracle.coef_[0]], abs=1e-5)


def test_a_fit_that_runs_off_is_none():
    case = np.arange(60) >= 30
    assert np.isnan(logistic(everybody(case), np.stack([np.ones(60), case * 1.0], axis=1)).coefficients).all()


@pytest.mark.parametrize(("intercept", "slope"), [(-1.0, 1.0), (-0.4, 1.0), (-1.0, 0.6)])
def test_a_known_miscalibration_is_found(intercept, slope):
    observed, said = simulated(30_000, 8, intercept=intercept, slope=slope)
    found = calibration(observed, said)
    assert found.slope.low < slope < found.slope.high
    if slope == 1:
        assert found.intercept.low < intercept + 1 < found.intercept.high
    true = 1 / (1 + np.exp(-(intercept + 1 + slope * np.log(said / (1 - said)))))
    assert found.ici == pytest.approx(np.abs(true - said).mean(), abs=0.006)
    assert found.observed_over_expected.low < true.sum() / said.sum() < found.observed_over_expected.high
    for point, smooth in found.curve:
        expected = 1 / (1 + np.exp(-(intercept + 1 + slope * np.log(point / (1 - point)))))
        assert smooth == pytest.approx(expected, abs=0.03)


def test_tenths_hold_everybody_once():
    observed, said = simulated(1003, 9)
    groups = calibration(observed, said).groups
    assert sum(group.patients for group in groups) == 1003
    assert sum(group.patients * group.predicted for group in groups) == pytest.approx(said.sum())
    assert sum(group.patients * group.observed.value for group in groups) == pytest.approx(
        observed.case.sum()
    )


def test_intervals_of_observed_over_expected_hold_95_of_100_times():
    held = [observed_over_expected(*simulated(300, seed)) for seed in range(400)]
    assert 0.92 <= np.mean([e.low <= 1 <= e.high for e in held]) <= 0.98


def test_where_no_case_was_seen_the_upper_end_is_poissons():
    found = observed_over_expected(everybody(np.zeros(100)), np.full(100, 0.05))
    assert (found.value, found.low) == (0, 0)
    assert found.high == pytest.approx(-math.log(0.025) / 5)


def test_the_brier_score_is_that_of_sklearn():
    observed, said = simulated(400, 10)
    assert brier(observed, said).value == pytest.approx(brier_score_loss(observed.case, said))
    share = observed.case.mean()
    expected = 1 - brier_score_loss(observed.case, said) / (share * (1 - share))
    assert scaled_brier(observed, said).value == pytest.approx(expected)


@pytest.mark.parametrize("score", [brier, scaled_brier, observed_over_expected])
def test_errors_are_those_of_the_bootstrap(score):
    observed, said = simulated(500, 11)
    found, random = score(observed, said), np.random.default_rng(0)
    draws = [random.integers(0, 500, 500) for _ in range(500)]
    spread = np.std([score(everybody(observed.case[d]), said[d]).value for d in draws])
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(spread, rel=0.15)


def test_the_mean_incidence_has_no_skill():
    observed, said = simulated(400, 10)
    assert scaled_brier(observed, np.full(400, observed.incidence)).value == pytest.approx(0)
    same = brier_difference(observed, said, said)
    assert (same.value, same.low) == (0, 0)


def test_net_benefit_is_the_one_worked_out_by_hand():
    case = np.array([1, 1, 0, 0, 0, 0, 0, 0, 0, 0], bool)
    risk = np.array([0.9, 0.1, 0.8, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    (at,) = decision_curve(everybody(case), risk, thresholds=[0.2])
    # 1 of 10 treated rightly, 1 in vain at odds 1:4. Everybody: 2 rightly, 8 in vain.
    assert at.net_benefit == pytest.approx(0.1 - 0.1 / 4)
    assert at.treat_all == pytest.approx(0.2 - 0.8 / 4)
    assert at.gain.value == pytest.approx(at.net_benefit)
    assert at.treated == pytest.approx(0.2)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0.02, 0.8))
def test_a_score_that_treats_all_or_nobody_gains_nothing(seed, threshold):
    observed, said = simulated(200, seed)
    for risk in (np.zeros(200), np.ones(200)):
        (at,) = decision_curve(observed, risk, thresholds=[threshold])
        assert at.gain.value <= 1e-12
    assert net_benefit_difference(observed, said, said, threshold).value == 0


def test_weights_count_patients_as_if_they_were_there_so_often():
    observed, said = simulated(300, 12)
    times = np.random.default_rng(0).integers(0, 4, 300)
    weighted = everybody(observed.case, times)
    repeated = everybody(np.repeat(observed.case, times))
    again = np.repeat(said, times)
    assert auc(weighted, said).value == pytest.approx(auc(repeated, again).value)
    assert brier(weighted, said).value == pytest.approx(brier(repeated, again).value)
    one, other = (decision_curve(o, r, thresholds=[0.3])[0] for o, r in ((weighted, said), (repeated, again)))
    assert one.net_benefit == pytest.approx(other.net_benefit)


def test_errors_of_values_are_those_of_sklearn():
    random = np.random.default_rng(6)
    mean, spread = random.normal(50, 10, 400), np.full(400, 8.0)
    measured = mean + random.normal(2, 8, 400)
    found = value_scores(measured, mean, spread)
    assert found.mae.value == pytest.approx(mean_absolute_error(measured, mean))
    assert found.rmse.value == pytest.approx(np.sqrt(np.mean((measured - mean) ** 2)))
    assert found.bias.value == pytest.approx(np.mean(mean - measured))
    assert found.slope == pytest.approx(np.polyfit(mean, measured, 1)[0])
    assert found.normal_80 == pytest.approx(0.78, abs=0.05)


def test_crps_is_the_integral_it_is():
    for measured, mean, spread in ((1.0, 0.0, 2.0), (-3.0, 1.0, 0.5)):
        x = np.linspace(-30, 30, 120_001)
        from scipy.stats import norm

        integral = np.trapezoid((norm.cdf(x, mean, spread) - (x >= measured)) ** 2, x)
        assert crps(np.array([measured]), np.array([mean]), np.array([spread]))[0] == pytest.approx(
            integral, abs=1e-3
        )
    assert crps(np.array([1.0]), np.array([4.0]), np.array([0.0]))[0] == pytest.approx(3.0)


def test_the_paired_difference_of_errors_is_that_of_the_bootstrap():
    random = np.random.default_rng(7)
    measured = random.normal(size=400)
    first, second = measured + random.normal(0, 1, 400), measured + random.normal(0, 1.2, 400)
    found = rmse_difference(measured, first, second)

    def root(error):
        return np.sqrt(np.mean(error**2))

    assert found.value == pytest.approx(root(first - measured) - root(second - measured))
    draws = [random.integers(0, 400, 400) for _ in range(500)]
    spread = np.std([root((first - measured)[d]) - root((second - measured)[d]) for d in draws])
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(spread, rel=0.12)


def test_the_ranked_probability_score_of_two_levels_is_the_brier_score():
    observed, said = simulated(200, 13)
    probabilities = np.stack([1 - said, said], axis=1)
    found = ranked_probability(observed.case.astype(float), probabilities, np.ones(200))
    assert found.value == pytest.approx(brier(observed, said).value)


def test_the_ranked_probability_score_is_the_one_worked_out_by_hand():
    probabilities = np.array([[0.5, 0.3, 0.2], [0.0, 0.0, 1.0]])
    # The first is in level 1: (0.5 - 0)² + (0.8 - 1)² over 2; the second is sure, and right.
    found = ranked_probability(np.array([1.0, 2.0]), probabilities, np.array([1.0, 1.0]))
    assert found.value == pytest.approx((0.25 + 0.04) / 2 / 2)
    unknown = ranked_probability(np.array([1.0, np.nan]), probabilities, np.array([1.0, 0.0]))
    assert unknown.value == pytest.approx((0.25 + 0.04) / 2)


def test_wilson_is_wilson():
    found = wilson(8, 10)
    assert (found.low, found.high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(0, 20).low == 0
    assert math.isnan(wilson(0, 0).value)


def test_equal_weights_count_everybody():
    assert effective_number(np.full(12, 0.3)) == pytest.approx(12)
    assert effective_number(np.array([1.0, 0.0])) == 1
    assert effective_number(np.zeros(3)) == 0


def test_an_estimate_excludes_what_lies_outside():
    found = Estimate.of_ratio(1.5, 0.1)
    assert found.excludes(1.0)
    assert not found.excludes(1.45)
    assert found.low * found.high == pytest.approx(1.5**2)
