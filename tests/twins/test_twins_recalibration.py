"""Recalibration at one hospital: where the twin is right nothing is changed, where it is wrong the tables say so."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from cardiometabolic import PROGRAMME

from gemel.twins import scores
from gemel.twins.metrics import count_metric_tables
from gemel.twins.recalibration import Correction, recalibrate

PATIENTS, NOISE = 12_000, 6.0


@pytest.fixture(scope="module")
def people(make_cohort):
    return make_cohort(PATIENTS, seed=33)


def _tables(twin, people, *, seed):
    tables = count_metric_tables(PROGRAMME, twin.predict(people.values), people)
    random = np.random.default_rng(seed)
    return {n: t + np.rint(random.normal(0, NOISE, t.shape)).astype(np.int64) for n, t in tables.items()}


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
        assert _off(people, j, corrected) < 0.5 * _off(people, j, risk)
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
    exact = recalibrate(
        sick_twin, count_metric_tables(PROGRAMME, sick_twin.predict(people.values), people),
        noise_sigma=0.0,
    )["death"]  # fmt: skip
    inside = 0
    for seed in range(20):
        noisy = recalibrate(sick_twin, _tables(sick_twin, people, seed=seed), noise_sigma=NOISE)["death"]
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
