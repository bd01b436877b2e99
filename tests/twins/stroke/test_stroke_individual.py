"""Observations taken in: Bayes by hand, what they must do, and what is refused."""

import numpy as np
import pytest

from gemel.core.errors import GemelError
from gemel.core.programme import DAYS_PER_YEAR
from gemel.core.series import Series
from gemel.twins.programmes.stroke import PROGRAMME, individual
from gemel.twins.programmes.stroke.definition import DEFINITION
from gemel.twins.programmes.stroke.twin import StrokeTwin

VALUES = np.array([[DEFINITION.example.values.get(name, np.nan) for name in PROGRAMME.feature_names]])
DAYS = np.array(PROGRAMME.times_years) * DAYS_PER_YEAR


@pytest.fixture(scope="module")
def twin():
    return StrokeTwin(PROGRAMME)


def series(*pairs):
    days, values = (np.array([pair[i] for pair in pairs], np.float32) for i in (0, 1))
    return Series(np.array([0, len(pairs)]), days, values)


def expected_level(prediction):
    return prediction.targets["rankin_6_months"][0] @ np.arange(6)


def test_nothing_seen_changes_nothing(twin):
    before, after = twin.predict(VALUES), twin.assimilate(VALUES, {}).predict()
    np.testing.assert_array_equal(before.cumulative_incidence, after.cumulative_incidence)
    np.testing.assert_allclose(
        before.targets["rankin_6_months"], after.targets["rankin_6_months"], atol=1e-12
    )


def test_it_is_bayes_rule_over_fates_with_tempered_evidence(twin):
    seen = {"at_home": series((7.0, 0.0), (12.0, 1.0))}
    # By hand: alive on day 12 first, then each fate times its chance to go home between days 7 and 12.
    before = twin.assimilate(VALUES, {"death": series((12.0, 0.0))}).predict()
    levels, dies = before.targets["rankin_6_months"][0], before.cumulative_incidence[0, -1, 0]
    home = [individual._home_by(day) for day in (7.0, 12.0)]
    chance = (home[1] - home[0]) ** individual.HOME_EVIDENCE
    weight = np.append((1 - dies) * levels, dies) * chance
    weight /= weight.sum()
    after = twin.assimilate(VALUES, seen).predict()
    np.testing.assert_allclose(after.cumulative_incidence[0, -1, 0], weight[-1], rtol=1e-9)
    np.testing.assert_allclose(
        after.targets["rankin_6_months"][0], weight[:-1] / weight[:-1].sum(), rtol=1e-9
    )


def test_home_early_is_good_news_and_never_home_is_bad_news(twin):
    neutral = twin.assimilate(VALUES, {"death": series((14.0, 0.0))}).predict()
    home = twin.assimilate(VALUES, {"at_home": series((4.0, 0.0), (14.0, 1.0))}).predict()
    ward = twin.assimilate(VALUES, {"at_home": series((14.0, 0.0))}).predict()
    assert expected_level(home) < expected_level(neutral) < expected_level(ward)
    assert home.alive[0, -1] > neutral.alive[0, -1] > ward.alive[0, -1]


def test_each_low_count_says_more(twin):
    pairs = [(1.0, 4.0), (3.0, 3.0), (7.0, 2.0), (14.0, 1.0)]
    found = [
        expected_level(twin.assimilate(VALUES, {"nihss": series(*pairs[:n])}).predict())
        for n in range(1, len(pairs) + 1)
    ]
    assert found == sorted(found, reverse=True)
    spread = [
        twin.assimilate(VALUES, {"nihss": series(*pairs[:n])}).parameters["rankin_at_six_months"][1][0]
        for n in (1, 4)
    ]
    assert spread[1] < spread[0]


def test_an_early_level_draws_the_late_one(twin):
    found = [
        expected_level(twin.assimilate(VALUES, {"modified_rankin_scale": series((60.0, level))}).predict())
        for level in (0.0, 2.0, 3.5, 5.0)
    ]
    assert found == sorted(found)
    assert found[-1] - found[0] > 2


def test_whoever_is_seen_is_alive_then(twin):
    after = twin.assimilate(VALUES, {"nihss": series((14.0, 5.0))}).predict()
    assert (after.alive[0, DAYS <= 14] == 1.0).all()
    assert after.alive[0, -1] < 1.0


def test_probabilities_stay_a_distribution(twin):
    seen = {
        "nihss": series((2.0, 30.0)),
        "at_home": series((20.0, 0.0)),
        "recurrent_stroke": series((5.0, 1.0)),
    }
    after = twin.assimilate(VALUES, seen).predict()
    np.testing.assert_allclose(after.targets["rankin_6_months"].sum(axis=1), 1.0)
    np.testing.assert_allclose(after.state.sum(axis=2), after.alive, atol=1e-9)
    assert (np.diff(after.cumulative_incidence[0, :, 0]) >= -1e-12).all()
    assert after.cumulative_incidence[0, -1, 1] == 1.0


def test_a_recurrence_is_worse_than_none(twin):
    import torch

    with torch.no_grad():
        twin.after.copy_(torch.tensor([0.7, 0.5]))
    again = twin.assimilate(VALUES, {"recurrent_stroke": series((5.0, 1.0))}).predict()
    none = twin.assimilate(VALUES, {"recurrent_stroke": series((5.0, 0.0))}).predict()
    assert expected_level(again) > expected_level(none)


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("nihss", [(1.0, 43.0)]),
        ("nihss", [(-1.0, 3.0)]),
        ("modified_rankin_scale", [(1.0, 6.0)]),
        ("at_home", [(1.0, 0.5)]),
        ("at_home", [(9.0, 0.0), (3.0, 1.0)]),
        ("mood", [(1.0, 1.0)]),
        ("nihss", [(1.0, np.nan)]),
    ],
)
def test_what_cannot_have_been_seen_is_refused(twin, name, pairs):
    with pytest.raises(GemelError, match=r"GEM604|.*") as caught:
        twin.assimilate(VALUES, {name: series(*pairs)})
    assert caught.value.code == "GEM604"


def test_nobody_is_seen_after_death(twin):
    with pytest.raises(GemelError) as caught:
        twin.assimilate(VALUES, {"death": series((3.0, 1.0)), "nihss": series((5.0, 2.0))})
    assert caught.value.code == "GEM604"
