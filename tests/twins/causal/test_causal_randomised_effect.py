"""What the lot says, with and without a twin's prognosis."""

from __future__ import annotations

import numpy as np
import pytest
from treated_people import GIVEN, PROGRAMME, WITHOUT, PlainTwin, Truth, fitted, people

from gemel.core.errors import GemelError
from gemel.twins.causal.estimand import Measure, declare
from gemel.twins.causal.randomised_effect import randomised_effect
from gemel.twins.hazard import HazardTwin
from gemel.twins.reference_cohort import reference_values, sample_cohort


def estimand(treatment="lot", endpoint="walks", **asked):
    return declare(
        PROGRAMME, GIVEN[treatment], WITHOUT[treatment], endpoint=endpoint, population="people", **asked
    )


@pytest.fixture(scope="module")
def hospital():
    return people(4000, Truth(lot_walks=0.6), seed=3)


def test_the_difference_between_arms_is_that_of_two_shares(hospital):
    dataset, _ = hospital
    lot, walks = dataset.values[:, 3] == 1, dataset.targets[:, 0]
    found = randomised_effect(dataset, estimand())
    p, q = walks[lot].mean(), walks[~lot].mean()
    assert found.value == pytest.approx(p - q, abs=1e-6)
    error = np.sqrt(p * (1 - p) / (lot.sum() - 1) + q * (1 - q) / ((~lot).sum() - 1))
    assert found.interval == pytest.approx((p - q - 1.96 * error, p - q + 1.96 * error), abs=1e-4)


def test_a_good_prognosis_makes_the_interval_shorter_and_keeps_the_truth(hospital):
    dataset, truth = hospital
    raw = randomised_effect(dataset, estimand())
    adjusted = randomised_effect(dataset, estimand(), twin=fitted(dataset))
    assert adjusted.people_error < 0.96 * raw.people_error
    for found in (raw, adjusted):
        assert found.interval[0] < truth["lot_walks"] < found.interval[1]
    assert abs(adjusted.pull) < 0.01


def test_the_lot_corrects_a_twin_that_is_wrong_and_says_by_how_much(hospital):
    dataset, truth = hospital
    wrong = PlainTwin()
    arrays = wrong.to_arrays()
    arrays["level"][0] = 1.0
    arrays["weights"][0, wrong.design.names.index("lot")] = -3.0
    wrong.load_arrays(arrays)
    found = randomised_effect(dataset, estimand(), twin=wrong)
    assert found.interval[0] < truth["lot_walks"] < found.interval[1]
    assert found.pull < -0.5


def test_a_measured_value_is_compared_by_its_mean(hospital):
    dataset, _ = hospital
    lot, later = dataset.values[:, 3] == 1, dataset.targets[:, 1].astype(float)
    found = randomised_effect(dataset, estimand(endpoint="pressure"))
    assert found.value == pytest.approx(later[lot].mean() - later[~lot].mean())


def test_deaths_by_a_day_are_counted_among_those_whose_fate_is_known():
    twin = HazardTwin(PROGRAMME)
    arrays = twin.to_arrays()
    arrays["level"][:] = np.log([0.8, 0.6])
    arrays["weights"][:, twin.design.names.index("lot")] = np.log(0.5)
    twin.load_arrays(arrays)
    values = reference_values(PROGRAMME, 8000, seed=1, prevalence={"lot": 0.5})
    cohort = sample_cohort(twin, values, seed=2)
    expected = (
        twin.predict(values[:1], plan=GIVEN["lot"]).cumulative_incidence[0, -1, 0]
        - (twin.predict(values[:1], plan=WITHOUT["lot"]).cumulative_incidence[0, -1, 0])
    )
    found = randomised_effect(cohort, estimand(endpoint="death"))
    assert found.interval[0] < expected < found.interval[1]


@pytest.mark.parametrize("asked", [{"treatment": "drug"}, {"measure": Measure.RISK_RATIO}])
def test_what_the_lot_did_not_decide_it_does_not_say(hospital, asked):
    with pytest.raises(GemelError) as caught:
        randomised_effect(hospital[0], estimand(**asked))
    assert caught.value.code == "GEM625"


def test_an_empty_arm_says_nothing(hospital):
    alone = hospital[0].take(hospital[0].values[:, 3] == 1)
    with pytest.raises(GemelError) as caught:
        randomised_effect(alone, estimand())
    assert caught.value.code == "GEM626"
