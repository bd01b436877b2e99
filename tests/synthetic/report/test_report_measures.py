"""The verdict on a measure: by its median, and never for what chance does to real patients as well."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemel.synthetic.report import Verdict
from gemel.synthetic.report.measures import Limit, measured

NUMBER = st.floats(-10, 10, allow_nan=False)


@given(st.lists(NUMBER, min_size=1, max_size=7), NUMBER)
def test_a_row_is_the_median_of_the_draws_and_their_range(values, most):
    row = measured("pairs", "it", values, Limit(most=most), internal=True)
    assert row.value == sorted(values)[len(values) // 2] or len(values) % 2 == 0
    assert (row.low, row.high) == ((min(values), max(values)) if len(values) > 1 else (None, None))
    assert (row.verdict is Verdict.PASS) == (row.value <= most + 1e-9)


@pytest.mark.parametrize("values", [[], [math.nan], [0.1, math.inf], [0.1, math.nan, 0.2]])
def test_what_could_not_be_measured_in_every_draw_is_not_tested(values):
    row = measured("pairs", "it", values, Limit(most=1.0), internal=True, detail="few")
    assert (row.verdict, row.value, row.gates, row.detail) == (Verdict.NOT_TESTED, None, True, "few")


@given(NUMBER, NUMBER)
def test_a_value_fails_only_when_it_is_farther_out_than_hold_out_patients_are_by_chance(value, by_chance):
    limit = Limit(0.8, 1.25)
    verdict = measured(
        "prediction", "slope", [value], limit, baseline=by_chance, against_chance=True, internal=True
    ).verdict
    if limit.beyond(value) == 0:
        assert verdict is Verdict.PASS
    elif limit.beyond(value) > 1e-9:
        worse = limit.beyond(value) > limit.beyond(by_chance)
        assert verdict is (Verdict.FAIL if worse else Verdict.NOT_TESTED)


def test_a_baseline_that_is_no_chance_excuses_nothing():
    row = measured("pairs", "ratio", [2.0], Limit(most=1.1), baseline=3.0, internal=True)
    assert row.verdict is Verdict.FAIL


def test_without_a_limit_a_row_is_for_information_and_never_decides():
    row = measured("survival", "p", [0.01], internal=True, baseline=math.nan)
    assert (row.verdict, row.gates, row.threshold, row.baseline) == (Verdict.INFORMATION, False, "none", None)


@pytest.mark.parametrize(
    ("limit", "words"),
    [(Limit(), "none"), (Limit(0.9), "≥ 0.9"), (Limit(most=1.1), "≤ 1.1"), (Limit(0.8, 1.25), "0.8 to 1.25")],
)
def test_a_limit_says_what_it_is(limit, words):
    assert limit.words == words
