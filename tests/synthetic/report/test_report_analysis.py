"""Estimates of several cohorts as one: intervals that hold as often as they say, where naive ones do not."""

from __future__ import annotations

import numpy as np
import pytest

from gemel.synthetic.report import Verdict
from gemel.synthetic.report.analysis import analysis_rows, combine, repeat

# A mean of n people of spread 1, told by a mechanism that adds normal noise; cohorts of n people are drawn from what it told.
PEOPLE, NOISE = 400, 0.1


def cohorts_of(told: float, count: int, random) -> np.ndarray:
    return told + random.normal(0, 1 / np.sqrt(PEOPLE), (count, 1))


def one_study(random):
    told = random.normal(0, 1 / np.sqrt(PEOPLE)) + random.normal(0, NOISE)  # the truth is 0
    values = cohorts_of(told, 20, random)
    again = told + random.normal(0, 1 / np.sqrt(PEOPLE), 20) + random.normal(0, NOISE, 20)
    repeated = np.concatenate([cohorts_of(mean, 1, random) for mean in again])
    return combine(values, np.full_like(values, 1 / PEOPLE), repeated)


def test_noise_aware_intervals_hold_the_truth_as_often_as_they_say_and_naive_ones_do_not():
    random = np.random.default_rng(1)
    found = [one_study(random) for _ in range(400)]
    aware = np.mean([(c.intervals[0, 0] <= 0 <= c.intervals[0, 1]) for c in found])
    naive = np.mean([abs(c.value[0]) <= 1.96 * c.naive_error[0] for c in found])
    assert 0.93 <= aware <= 0.99
    assert naive < 0.7
    right = np.sqrt(1 / PEOPLE + NOISE**2 + 1 / PEOPLE / 20)
    assert np.median([c.error[0] for c in found]) == pytest.approx(right, rel=0.1)


def test_a_pull_of_the_mechanism_is_told_and_widens_the_interval_without_moving_the_value():
    values = np.full((5, 1), 1.0)
    combined = combine(values, np.full((5, 1), 0.01), np.array([[0.7], [0.9]]))
    assert combined.pull[0] == pytest.approx(-0.2)
    assert combined.value[0] == 1.0
    low, high = combined.intervals[0]
    assert high - low == pytest.approx(2 * (1.96 * combined.error[0] + 0.2), abs=1e-3)


def test_rows_of_an_analysis_are_for_information_and_those_with_real_patients_are_internal(
    table, patients, make_ward
):
    draws = [table(make_ward(400, seed)) for seed in range(5)]

    def resample(codes, seed):
        rows = np.random.default_rng(seed).integers(0, 400, 400)
        return {name: levels[rows] for name, levels in codes.items()}

    rows = list(analysis_rows(draws, table(patients.training), resample, times=6, internal=True))
    assert {row.verdict for row in rows} == {Verdict.INFORMATION}
    assert {row.measure for row in rows if row.internal} == {
        r.measure for r in rows if "real patients" in r.measure
    }
    ratio = next(
        row.value for row in rows if row.measure.startswith("death") and "noise-aware" in row.measure
    )
    assert 0.7 < ratio < 2.5
    without = analysis_rows(draws, None, resample, times=2, internal=True)
    assert not [row for row in without if "real patients" in row.measure]


def test_each_repeat_is_of_other_people_and_other_noise(table, make_ward):
    draws = [table(make_ward(100, seed)) for seed in range(2)]
    seen = []

    def note(codes, seed):
        seen.append((seed, tuple(codes["age"])))
        return codes

    drawn = list(repeat(draws, note, times=3, seed=5))
    assert [len(people) for people in drawn] == [100, 100, 100]
    assert len({people for _, people in seen}) == 3
    assert len({seed for seed, _ in seen}) == 3
