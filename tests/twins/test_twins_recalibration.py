"""Recalibration at one hospital: where the twin is right nothing is changed, where it is wrong the tables say so."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from cardiometabolic import PROGRAMME

from gemel.twins import scores
from gemel.twins.metrics import count_metric_tables
from gemel.twins.recalibration import Correction, Flag, from_patients, recalibrate, recalibrate_locally
from gemel.twins.scores import Followed

PATIENTS, NOISE = 12_000, 6.0


@pytest.fixture(scope="module")
def people(make_cohort):
    return make_cohort(PATIENTS, seed=33)


def _noisy(counts, *, seed):
    random = np.random.default_rng(seed)
    return {n: t + np.rint(random.normal(0, NOISE, t.shape)).astype(np.int64) for n, t in counts.items()}


def _tables(twin, people, *, seed):
    return _noisy(count_metric_tables(PROGRAMME, twin.predict(people.values), people), seed=seed)


def _shifted(twin, factor):
    changed = copy.deepcopy(twin)
    with torch.no_grad():
        changed.level += np.log(factor)
    return changed


def _off(people, outcome, risk):
    """By how much the logarithm of observed over expected is off, on the patients themselves."""
    return abs(np.log(scores.observed_over_expected(people, outcome, risk, years=10)))


@pytest.mark.parametrize("seed", range(5))
def test_a_twin_that_is_right_is_left_as_it_is(people, sick_twin, seed):
    for found in recalibrate(sick_twin, _tables(sick_twin, people, seed=seed), noise_sigma=NOISE).values():
        assert found.correction is Correction.NONE
        risk = np.linspace(0, 1, 11)
        assert np.array_equal(found.apply(risk), risk)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_twin_whose_hazards_are_off_is_brought_near(people, sick_twin, factor):
    twin = _shifted(sick_twin, factor)
    for name, found in recalibrate(twin, _tables(twin, people, seed=1), noise_sigma=NOISE).items():
        j = PROGRAMME.outcome_names.index(name)
        risk = twin.predict(people.values).cumulative_incidence[:, 10, j]
        corrected = found.apply(risk)
        assert found.correction is not Correction.NONE
        assert _off(people, j, corrected) < 0.55 * _off(people, j, risk)
        order = np.argsort(risk, kind="stable")
        assert np.all(np.diff(corrected[order]) >= 0), "the order of patients stands"


def test_more_noise_makes_wider_intervals_and_changes_less(people, sick_twin):
    twin = _shifted(sick_twin, 1.6)
    tables = _tables(twin, people, seed=2)
    little, much = (recalibrate(twin, tables, noise_sigma=sigma)["death"] for sigma in (1.0, 200.0))
    assert little.correction is not Correction.NONE
    assert much.correction is Correction.NONE
    for name in ("intercept", "slope", "observed_over_expected"):
        one, other = getattr(little, name), getattr(much, name)
        assert other.high - other.low > 2 * (one.high - one.low)


def test_the_interval_holds_what_noise_does(people, sick_twin):
    counts = count_metric_tables(PROGRAMME, sick_twin.predict(people.values), people)
    exact = recalibrate(sick_twin, counts, noise_sigma=0.0)["death"]
    inside = 0
    for seed in range(20):
        noisy = recalibrate(sick_twin, _noisy(counts, seed=seed), noise_sigma=NOISE)["death"]
        inside += noisy.intercept.reaches(exact.intercept.value, within=0.0)
    assert inside >= 18


def test_empty_tables_correct_nothing(sick_twin):
    tables = {name: np.zeros((5, 7), np.int64) for name in ("death", "cardiovascular")}
    for found in recalibrate(sick_twin, tables, noise_sigma=NOISE).values():
        assert found.correction is Correction.NONE
        assert all(one is None for one in found.by_bin)


def test_the_same_tables_give_the_same_numbers(people, sick_twin):
    tables = _tables(sick_twin, people, seed=3)
    assert recalibrate(sick_twin, tables, noise_sigma=NOISE) == recalibrate(
        sick_twin, tables, noise_sigma=NOISE
    )


def test_the_hospitals_own_patients_give_what_logistic_regression_gives():
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(4)
    risk = random.beta(2, 5, 4_000)
    case = random.random(4_000) < 1 / (1 + np.exp(-(0.4 + 1.3 * np.log(risk / (1 - risk)))))
    group = Followed(case, np.ones(4_000), np.ones(4_000, bool))
    found = from_patients(group, risk, edges=np.array([0, 0.1, 0.2, 0.4, 1.0]))
    oracle = LogisticRegression(C=np.inf, tol=1e-10).fit(np.log(risk / (1 - risk))[:, None], case)
    assert found.slope.value == pytest.approx(oracle.coef_[0, 0], abs=0.002)
    assert found.intercept_with_slope.value == pytest.approx(oracle.intercept_[0], abs=0.002)
    assert found.correction is Correction.INTERCEPT_AND_SLOPE
    assert found.flag is Flag.NEEDS_LOCAL_RECALIBRATION
    # The intervals are those of the likelihood, where the model is right.
    p = 1 / (1 + np.exp(-(oracle.intercept_[0] + oracle.coef_[0, 0] * np.log(risk / (1 - risk)))))
    terms = np.stack([np.ones(4_000), np.log(risk / (1 - risk))])
    errors = np.sqrt(np.diag(np.linalg.inv((terms * p * (1 - p)) @ terms.T)))
    assert (found.slope.high - found.slope.low) / 3.92 == pytest.approx(errors[1], rel=0.05)
    assert sum(one.value for one in found.by_bin if one is not None) > 0


def test_a_hospital_whose_twin_is_off_is_flagged_before_and_right_after_its_own_recalibration(
    people, sick_twin
):
    training, held_out = people.split(held_out_percent=50)
    for factor in (0.5, 1.7):
        twin = _shifted(sick_twin, factor)
        flagged = recalibrate(twin, _tables(twin, people, seed=1), noise_sigma=NOISE)
        for name, found in recalibrate_locally(twin, training).items():
            j = PROGRAMME.outcome_names.index(name)
            risk = twin.predict(held_out.values).cumulative_incidence[:, 10, j]
            before = scores.observed_over_expected(held_out, j, risk, years=10)
            after = scores.observed_over_expected(held_out, j, found.apply(risk), years=10)
            assert not 0.9 <= before <= 1.1
            assert 0.9 <= after <= 1.1
            assert found.flag is flagged[name].flag is Flag.NEEDS_LOCAL_RECALIBRATION


def test_a_twin_that_is_right_is_not_flagged_and_a_small_hospital_is_told_that_nothing_can_be_told(
    people, sick_twin
):
    for found in recalibrate_locally(sick_twin, people).values():
        assert found.flag is Flag.FITS
    few = people.take(np.arange(150))
    for found in recalibrate_locally(sick_twin, few).values():
        assert found.flag is Flag.UNCLEAR
        assert found.correction is Correction.NONE


def test_the_flag_of_a_right_twin_is_raised_no_more_often_than_its_level_says(make_cohort, sick_twin):
    raised = 0
    for seed in range(40):
        for found in recalibrate_locally(sick_twin, make_cohort(800, seed=500 + seed)).values():
            raised += found.flag is Flag.NEEDS_LOCAL_RECALIBRATION
    # Two endpoints, two tests of 5 % each: 8 of 80 are expected, and 3 standard deviations more are not.
    assert raised <= 16


def test_a_hospital_without_an_event_is_told_no_ratio_of_one(make_cohort, sick_twin):
    data = make_cohort(400, seed=2)
    nobody = data.take(data.event[:, 0] != 1)
    found = recalibrate_locally(sick_twin, nobody)["death"]
    assert found.observed_over_expected.value == 0
    assert found.flag is Flag.NEEDS_LOCAL_RECALIBRATION
    empty = recalibrate_locally(sick_twin, data.take(np.zeros(400, bool)))["death"]
    assert empty.flag is Flag.UNCLEAR
    assert empty.correction is Correction.NONE
