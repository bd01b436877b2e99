"""Conformal prediction: exact quantiles, coverage on simulations, where it fails, and what mends it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.core.errors import GemelError
from gemel.twins.uncertainty import coverage
from gemel.twins.uncertainty.conformal import (
    conformal_quantile,
    incidence_at,
    prediction_sets,
    quantile_scores,
    set_scores,
    survival_bound,
    survival_threshold,
    tie_breaks,
    value_interval,
    value_scores,
)


def test_the_quantile_is_the_one_of_n_plus_one():
    # ceil(20 * 0.9) = 18; ceil(10 * 0.9) = 9 of 9; ceil(9 * 0.9) = 9 of 8: none.
    assert conformal_quantile(np.arange(1.0, 20), 0.9) == 18
    assert conformal_quantile(np.arange(1.0, 10), 0.9) == 9
    assert conformal_quantile(np.arange(1.0, 9), 0.9) == math.inf


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.floats(0.05, 0.95), st.integers(0, 10_000))
def test_equal_weights_are_no_weights(n, level, seed):
    scores = np.random.default_rng(seed).random(n)
    plain = conformal_quantile(scores, level)
    assert conformal_quantile(scores, level, weight=np.full(n, 3.7)) == plain


@pytest.mark.parametrize("level", [0.0, 1.0, float("nan"), 90.0])
def test_a_level_that_is_none_is_refused(level):
    with pytest.raises(GemelError, match="GEM631"):
        conformal_quantile(np.arange(5.0), level)


def rates(covered_of, *, draws=400, seed=0):
    """Mean coverage over new calibration and test patients each time."""
    random = np.random.default_rng(seed)
    return float(np.mean([covered_of(random) for _ in range(draws)]))


@pytest.mark.parametrize("level", [0.8, 0.9])
def test_intervals_of_a_wrong_twin_hold_as_often_as_they_say(level):
    def one(random):
        x = random.normal(size=250)
        measured = np.exp(x) + random.standard_t(4, 250) * (1 + np.abs(x))
        # A twin that knows neither the curve nor the tails.
        mean, spread = 1.5 * x, np.full(250, 0.3)
        threshold = conformal_quantile(value_scores(measured, mean, spread)[:50], level)
        low, high = value_interval(mean[50:], spread[50:], threshold)
        return np.mean((low <= measured[50:]) & (measured[50:] <= high))

    # Between level and level + 1/51, give or take 4 standard errors of the mean over draws.
    assert level - 0.012 <= rates(one) <= level + 1 / 51 + 0.012


def test_conformalised_quantiles_hold_as_often_as_they_say():
    def one(random):
        x = random.random(300)
        measured = random.normal(0, 0.1 + 3 * x)
        low, high = -0.2 - x, 0.2 + x
        threshold = conformal_quantile(quantile_scores(measured, low, high)[:100], 0.9)
        return np.mean((low - threshold <= measured)[100:] & (measured <= high + threshold)[100:])

    assert 0.9 - 0.01 <= rates(one, draws=200) <= 0.92


@pytest.mark.parametrize("levels", [2, 5])
def test_sets_of_a_wrong_twin_hold_as_often_as_they_say(levels):
    def one(random):
        odds = random.normal(size=(400, levels)) * 2
        truth = np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True)
        level = (truth.cumsum(axis=1) < random.random((400, 1))).sum(axis=1)
        # The twin is far too sure of itself.
        said = truth**3 / (truth**3).sum(axis=1, keepdims=True)
        tie = random.random(400)
        scores = set_scores(said, tie)[np.arange(400), level]
        held = prediction_sets(said, tie, conformal_quantile(scores[:99], 0.8), keep_likeliest=False)
        return np.mean(held[np.arange(400), level][99:])

    assert 0.79 <= rates(one, draws=250) <= 0.82


def test_a_shifted_hospital_is_not_covered_until_it_is_calibrated_itself():
    random = np.random.default_rng(5)

    def site(shift, patients=4000):
        mean = random.normal(size=patients)
        return mean, np.ones(patients), mean + shift + random.normal(size=patients)

    mean, spread, measured = site(0.0)
    of_first = conformal_quantile(value_scores(measured, mean, spread), 0.9)
    mean, spread, measured = site(1.5)
    low, high = value_interval(mean, spread, of_first)
    elsewhere = coverage((low <= measured) & (measured <= high), nominal=0.9)[0]
    assert elsewhere.share.value < 0.65
    assert elsewhere.flagged
    own = conformal_quantile(value_scores(measured, mean, spread)[:2000], 0.9)
    low, high = value_interval(mean[2000:], spread[2000:], own)
    mended = coverage((low <= measured[2000:]) & (measured[2000:] <= high), nominal=0.9)[0]
    assert mended.share.value == pytest.approx(0.9, abs=0.02)
    assert not mended.flagged


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 7), st.integers(0, 10_000), st.floats(0.0, 1.2))
def test_a_set_holds_neighbours_and_never_nothing(levels, seed, threshold):
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.ones(levels), 30)
    held = prediction_sets(probabilities, random.random(30), threshold)
    for row, p in zip(held, probabilities, strict=True):
        inside = np.flatnonzero(row)
        assert len(inside) == inside[-1] - inside[0] + 1
        assert row[p.argmax()]


def test_scores_of_a_set_are_those_worked_out_by_hand():
    probabilities = np.array([[0.1, 0.5, 0.15, 0.25]])
    # 1 joins first, then 2 (0.15 against 0.1), then 3 (0.25 against 0.1), then 0.
    expected = [0.9 + 0.05, 0.25, 0.5 + 0.075, 0.65 + 0.125]
    assert set_scores(probabilities, np.array([0.5]))[0] == pytest.approx(expected)


def test_a_larger_threshold_never_takes_a_level_away():
    random = np.random.default_rng(2)
    probabilities, tie = random.dirichlet(np.ones(4), 200), random.random(200)
    small, large = (prediction_sets(probabilities, tie, t) for t in (0.5, 0.8))
    assert (large | ~small).all()


def test_the_same_patient_always_gets_the_same_tie_break():
    values = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    values[::3, 1] = np.nan
    once = tie_breaks(values)
    assert (tie_breaks(values[::-1])[::-1] == once).all()
    assert (tie_breaks(values.astype(np.float64)) == once).all()
    assert once.min() > 0
    assert once.max() < 1
    assert once.mean() == pytest.approx(0.5, abs=0.05)


TIMES = np.arange(11.0)


def course(rate):
    return 1 - np.exp(-rate[:, None] * TIMES)


def simulated_survival(random, patients, *, said=1.0):
    rate = np.exp(random.normal(-2.5, 0.7, patients))
    time, leaves = random.exponential(1 / rate), random.uniform(0, 14, patients)
    seen = np.minimum(time, leaves)
    known = (time <= leaves) & (seen <= 10) | (seen >= 10)
    # Uniform leaving: the probability of still being there is known.
    weight = np.where(known, 1 / (1 - np.minimum(seen, 10) / 14), 0.0)
    return course(rate * said), time, (time <= 10) & (time <= leaves), weight


@pytest.mark.parametrize("said", [0.5, 1.0, 2.0])
def test_a_time_bound_holds_under_censoring_whatever_the_twin_says(said):
    def one(random):
        incidence, time, case, weight = simulated_survival(random, 1200, said=said)
        at = incidence_at(incidence, TIMES, np.minimum(time, 10.0))
        threshold = survival_threshold(at[:400], case[:400], weight[:400], 0.9)
        bound = survival_bound(incidence[400:], TIMES, threshold)
        return np.mean(time[400:] >= bound)

    assert 0.89 <= rates(one, draws=120) <= 0.92


def test_without_weights_a_time_bound_is_wrong_under_censoring():
    def one(random):
        incidence, time, case, weight = simulated_survival(random, 1200)
        at = incidence_at(incidence, TIMES, np.minimum(time, 10.0))
        complete = (weight[:400] > 0).astype(float)
        threshold = survival_threshold(at[:400], case[:400], complete, 0.9)
        return np.mean(time[400:] >= survival_bound(incidence[400:], TIMES, threshold))

    # Complete cases keep the early events: the bound is far too early.
    assert rates(one, draws=60) > 0.93


def test_a_time_bound_without_censoring_is_the_conformal_one():
    random = np.random.default_rng(1)
    score = random.random(39)
    everybody = np.ones(39, bool)
    # floor(40 * 0.1) = 4: the fourth smallest.
    assert survival_threshold(score, everybody, np.ones(39), 0.9) == np.sort(score)[3]
    assert survival_threshold(score[:5], everybody[:5], np.ones(5), 0.9) == 0.0
    assert survival_threshold(score, ~everybody, np.ones(39), 0.9) == math.inf


def test_a_bound_is_where_the_course_reaches_the_threshold():
    incidence = np.array([[0.0, 0.2, 0.4], [0.0, 0.0, 0.1], [0.0, 0.0, 0.0]])
    times = np.array([0.0, 1.0, 3.0])
    assert survival_bound(incidence, times, 0.3) == pytest.approx([2.0, 3.0, 3.0])
    assert survival_bound(incidence, times, 0.0).tolist() == [0.0, 0.0, 0.0]
    assert survival_bound(incidence, times, math.inf).tolist() == [3.0, 3.0, 3.0]
    assert incidence_at(incidence, times, np.array([2.0, 3.0, 0.5])).tolist() == pytest.approx(
        [0.3, 0.1, 0.0]
    )


def test_a_group_with_a_threshold_of_its_own_is_covered_where_everybodys_is_not():
    random = np.random.default_rng(3)
    group = np.where(random.random(20_000) < 0.2, "old", "young")
    measured = random.normal(0, np.where(group == "old", 3.0, 1.0))
    scores = value_scores(measured, np.zeros(20_000), np.ones(20_000))
    everybody = conformal_quantile(scores[:10_000], 0.9)
    by_group = {
        name: conformal_quantile(scores[:10_000][group[:10_000] == name], 0.9) for name in ("old", "young")
    }
    own = np.array([by_group[name] for name in group])
    shares = {}
    for name, threshold in (("shared", everybody), ("own", own)):
        held = (scores <= threshold)[10_000:]
        found = coverage(held, nominal=0.9, groups={"age": group[10_000:]})
        shares[name] = {c.name: c for c in found}
    assert shares["shared"]["old"].flagged
    assert shares["shared"]["old"].share.value < 0.75
    assert not any(c.flagged for c in shares["own"].values())


def test_the_weighted_coverage_counts_who_is_known_only():
    covered = np.array([True, False, True, False])
    found = coverage(covered, nominal=0.5, weight=np.array([2.0, 1.0, 1.0, 0.0]))[0]
    assert found.patients == 3
    assert found.share.value == pytest.approx(0.75)
    assert coverage(covered, nominal=0.5, weight=np.zeros(4))[0].patients == 0
