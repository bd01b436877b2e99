"""E-values: published examples, the formula's own properties, and what a confounder of that strength can do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemel.core.errors import GemelError
from gemel.twins.causal.e_value import (
    e_value,
    largest_bias,
    risk_ratio_of_hazard_ratio,
    risk_ratio_of_mean_difference,
    risk_ratio_of_odds_ratio,
    risk_ratio_of_risks,
)

RATIOS = st.floats(0.01, 100)


@pytest.mark.parametrize(
    ("ratio", "low", "high", "estimate", "limit"),
    [
        (
            3.9,
            1.8,
            8.7,
            7.26,
            3.0,
        ),  # breastfeeding and death by respiratory infection; VanderWeele & Ding 2017
        (0.80, 0.71, 0.91, 1.81, 1.43),  # a protective ratio; the same formula by hand on 1/0.80 and 1/0.91
        (1.2, 0.9, 1.6, 1.69, 1.0),
        (1.0, 0.9, 1.1, 1.0, 1.0),
    ],
)
def test_the_e_value_is_the_published_one(ratio, low, high, estimate, limit):
    found = e_value(ratio, low=low, high=high)
    assert found.estimate == pytest.approx(estimate, abs=0.005)
    assert found.limit == pytest.approx(limit, abs=0.005)


@given(RATIOS)
def test_a_ratio_and_its_inverse_have_one_e_value(ratio):
    assert e_value(ratio).estimate == pytest.approx(e_value(1 / ratio).estimate)
    assert e_value(ratio).estimate >= 1


@given(st.floats(1, 50), st.floats(0.01, 5))
def test_a_stronger_association_takes_a_stronger_confounder(ratio, more):
    assert e_value(ratio + more).estimate > e_value(ratio).estimate


@given(RATIOS, st.floats(0.01, 1), st.floats(1, 10))
def test_the_limit_never_asks_more_than_the_estimate(ratio, down, up):
    found = e_value(ratio, low=ratio * down, high=ratio * up)
    assert found.limit is not None
    assert 1 <= found.limit <= found.estimate * (1 + 1e-12)
    assert (found.limit == 1) == (ratio * down <= 1 <= ratio * up)


@given(st.floats(1.01, 50))
def test_a_confounder_of_just_that_strength_can_make_the_whole_association(ratio):
    strength = e_value(ratio).estimate
    assert largest_bias(strength, strength) == pytest.approx(ratio)


@given(st.floats(1, 20), st.floats(1, 20))
def test_the_largest_bias_holds_for_every_binary_confounder(with_treatment, with_outcome):
    # The worst case of Ding & VanderWeele 2016: the confounder is always there with treatment, seldom without.
    share = np.array([1.0, 1.0 / with_treatment])
    risk = 0.01 * (1 + (with_outcome - 1) * share)
    assert risk[0] / risk[1] == pytest.approx(largest_bias(with_treatment, with_outcome))


def test_other_measures_stand_for_a_risk_ratio_under_their_conditions():
    assert risk_ratio_of_odds_ratio(2.25, rare=True) == 2.25
    assert risk_ratio_of_odds_ratio(2.25, rare=False) == 1.5
    assert risk_ratio_of_hazard_ratio(2.0, rare=True) == 2.0
    # (1 - 0.5^sqrt 2) / (1 - 0.5^sqrt(1/2)), by hand
    assert risk_ratio_of_hazard_ratio(2.0, rare=False) == pytest.approx(0.62478 / 0.38744, abs=1e-3)
    assert risk_ratio_of_risks(0.3, 0.2) == pytest.approx(1.5)
    assert risk_ratio_of_mean_difference(5.0, standard_deviation=10.0) == pytest.approx(math.exp(0.455))


@given(RATIOS)
def test_conversions_keep_the_direction_and_lie_nearer_to_no_effect(ratio):
    for converted in (
        risk_ratio_of_odds_ratio(ratio, rare=False),
        risk_ratio_of_hazard_ratio(ratio, rare=False),
    ):
        assert (converted >= 1) == (ratio >= 1)
        assert abs(math.log(converted)) <= abs(math.log(ratio)) + 1e-12


@pytest.mark.parametrize(
    "asked",
    [
        lambda: e_value(0.0),
        lambda: e_value(float("nan")),
        lambda: e_value(2.0, low=1.5),
        lambda: e_value(2.0, low=2.5, high=3.0),
        lambda: e_value(2.0, low=float("nan"), high=3.0),
        lambda: risk_ratio_of_risks(0.0, 0.2),
        lambda: risk_ratio_of_odds_ratio(-1.0, rare=True),
        lambda: risk_ratio_of_mean_difference(1.0, standard_deviation=0.0),
        lambda: largest_bias(0.5, 2.0),
    ],
)
def test_what_is_no_ratio_has_no_e_value(asked):
    with pytest.raises(GemelError) as caught:
        asked()
    assert caught.value.code == "GEM628"
