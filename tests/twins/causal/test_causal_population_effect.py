"""g-computation on made-up people whose truth is known, and the intervals beside it."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from treated_people import GIVEN, PROGRAMME, WITHOUT, PlainTwin, Truth, fitted, people

from gemel.twins.causal.estimand import Measure, declare
from gemel.twins.causal.local_support import LocalSupport
from gemel.twins.causal.population_effect import population_effect
from gemel.twins.causal.precision import sandwich_draws
from gemel.twins.hazard import HazardTwin


def estimand(treatment, endpoint, **asked):
    return declare(
        PROGRAMME,
        GIVEN[treatment],
        WITHOUT[treatment],
        endpoint=endpoint,
        population="the made-up people",
        **asked,
    )


@pytest.fixture(scope="module")
def hospital():
    return people(4000, Truth(), seed=1)


@pytest.fixture(scope="module")
def twin(hospital):
    return fitted(hospital[0])


@pytest.fixture(scope="module")
def draws(hospital, twin):
    return sandwich_draws(twin, hospital[0], draws=100, seed=1)


def naive(dataset, column, target):
    got = dataset.values[:, column] == 1
    seen = dataset.targets[:, target]
    return float(seen[got].mean() - seen[~got].mean())


def test_confounding_hides_the_effect_and_g_computation_finds_it(hospital, twin, draws):
    dataset, truth = hospital
    assert naive(dataset, 4, 0) < 0 < 0.1 < truth["drug_walks"]
    found = population_effect(twin, dataset.values, estimand("drug", "walks"), parameters=draws)
    low, high = found.effect.interval
    assert low < truth["drug_walks"] < high
    assert high - low < 0.09
    assert found.effect.value == pytest.approx(found.mean - found.other_mean)


def test_a_mean_difference_is_found_too(hospital, twin, draws):
    dataset, truth = hospital
    assert naive(dataset, 4, 1) > truth["drug_pressure"] + 4
    found = population_effect(twin, dataset.values, estimand("drug", "pressure"), parameters=draws)
    low, high = found.effect.interval
    assert low < truth["drug_pressure"] < high


def test_what_was_given_by_lot_needs_no_adjustment_and_gets_no_e_value(hospital, twin, draws):
    dataset, truth = hospital
    free = dataset.values[dataset.values[:, 2] == 0]
    found = population_effect(twin, free, estimand("lot", "walks"), parameters=draws)
    low, high = found.effect.interval
    assert low < truth["lot_walks"] < high
    assert found.e_value is None


def test_an_association_has_e_values_of_its_ratio(hospital, twin, draws):
    dataset, _ = hospital
    ratio = population_effect(
        twin, dataset.values, estimand("drug", "walks", measure=Measure.RISK_RATIO), parameters=draws
    )
    difference = population_effect(twin, dataset.values, estimand("drug", "walks"), parameters=draws)
    assert ratio.effect.value == pytest.approx(ratio.mean / ratio.other_mean)
    assert ratio.e_value == difference.e_value
    value = ratio.effect.value
    assert ratio.e_value.estimate == pytest.approx(value + math.sqrt(value * (value - 1)))
    low = ratio.effect.interval[0]
    assert ratio.e_value.limit == pytest.approx(low + math.sqrt(low * (low - 1)))
    assert population_effect(twin, dataset.values, estimand("drug", "pressure")).e_value.limit is None


def test_the_error_over_people_is_that_of_the_bootstrap(hospital, twin):
    values = hospital[0].values[:800]
    for measure in (Measure.RISK_DIFFERENCE, Measure.RISK_RATIO):
        asked = estimand("drug", "walks", measure=measure)
        found = population_effect(twin, values, asked).effect
        random, again = np.random.default_rng(3), []
        for _ in range(400):
            resampled = values[random.integers(0, len(values), len(values))]
            again.append(population_effect(twin, resampled, asked).effect.value)
        scale = np.log(again) if measure is Measure.RISK_RATIO else np.array(again)
        assert found.people_error == pytest.approx(scale.std(), rel=0.12)


def test_without_the_error_of_the_parameters_there_is_no_interval(hospital, twin, draws):
    found = population_effect(twin, hospital[0].values, estimand("drug", "walks"))
    assert found.effect.interval is None
    assert found.effect.parameter_error is None
    assert found.e_value.limit is None
    one = population_effect(twin, hospital[0].values, estimand("drug", "walks"), parameters=draws[:1])
    assert one.effect.interval is None


def test_fewer_draws_make_a_wider_interval_of_the_same_error(hospital, twin, draws):
    few = population_effect(twin, hospital[0].values, estimand("drug", "walks"), parameters=draws[:4]).effect
    reach = (few.interval[1] - few.interval[0]) / 2
    # Nearly all of the error is the parameters': Student's quantile for 4 draws is 2.78, not 1.96.
    assert reach / math.hypot(few.people_error, few.parameter_error) == pytest.approx(2.77, abs=0.05)


def test_a_pull_of_all_draws_one_way_counts_as_error(hospital, twin):
    weaker = copy.deepcopy(twin).to_arrays()
    column = twin.design.names.index("drug")
    weaker["weights"][0, column] *= 0.5
    found = population_effect(
        twin, hospital[0].values, estimand("drug", "walks"), parameters=[weaker] * 20
    ).effect
    assert found.pull < -0.05
    assert found.parameter_error == pytest.approx(abs(found.pull))


def test_swapping_the_plans_turns_the_sign(hospital, twin, draws):
    values = hospital[0].values[:500]
    there = declare(PROGRAMME, WITHOUT["drug"], GIVEN["drug"], endpoint="walks", population="people")
    one = population_effect(twin, values, estimand("drug", "walks"), parameters=draws).effect
    other = population_effect(twin, values, there, parameters=draws).effect
    assert other.value == pytest.approx(-one.value)
    assert other.interval == pytest.approx((-one.interval[1], -one.interval[0]))


def test_the_order_of_people_does_not_matter(hospital, twin):
    values = hospital[0].values[:300]
    one = population_effect(twin, values, estimand("drug", "walks")).effect
    other = population_effect(twin, values[::-1], estimand("drug", "walks")).effect
    assert one.value == pytest.approx(other.value)
    assert one.people_error == pytest.approx(other.people_error)


def test_the_unsupported_are_left_out_and_counted(hospital, twin):
    values = hospital[0].values[:200].copy()
    values[:10, 0] = 12
    found = population_effect(twin, values, estimand("drug", "walks"))
    assert found.refusal is None
    assert found.people == 190
    assert not found.included[:10].any()
    assert [(reason.code, n) for reason, n in found.left_out.items()] == [("GEM620", 10)]


def test_when_more_than_a_tenth_has_no_support_there_is_no_effect(hospital, twin):
    values = hospital[0].values[:200].copy()
    values[:21, 0] = 12
    found = population_effect(twin, values, estimand("drug", "walks"))
    assert found.refusal.code == "GEM626"
    assert found.effect is None
    assert found.mean is None


def test_a_population_in_which_only_the_old_get_it_is_refused(hospital, twin):
    values = hospital[0].values.copy()
    values[:, 4] = values[:, 0] > 60
    found = population_effect(twin, values, estimand("drug", "walks"), evidence=LocalSupport(values))
    assert found.refusal.code == "GEM626"
    assert "GEM623" in {reason.code for reason in found.left_out}
    assert found.overlap["share below the limit"] > 0.5


@pytest.mark.parametrize("patients", [0, 1])
def test_one_person_is_no_population(twin, patients):
    values = np.repeat([[60.0, 140.0, 0.0, 0.0, 0.0]], patients, axis=0)
    found = population_effect(twin, values, estimand("drug", "walks"))
    assert found.refusal.code == "GEM626"


def test_a_twin_that_learnt_nothing_of_a_treatment_shows_no_difference_of_0(hospital):
    found = population_effect(PlainTwin(), hospital[0].values, estimand("drug", "walks"))
    assert found.refusal.code == "GEM624"
    assert found.effect is None


def test_a_hazard_twin_averages_over_those_at_risk_with_death_competing(hospital):
    twin = HazardTwin(PROGRAMME)
    arrays = twin.to_arrays()
    lot = twin.design.names.index("lot")
    arrays["level"][:] = np.log([0.4, 0.3])
    arrays["weights"][:, lot] = [-0.5, -0.5]
    twin.load_arrays(arrays)
    values = hospital[0].values[hospital[0].values[:, 2] == 0].astype(float)
    found = population_effect(twin, values, estimand("lot", "relapse"))
    given = twin.predict(values, plan=GIVEN["lot"]).cumulative_incidence[:, -1, 1]
    without = twin.predict(values, plan=WITHOUT["lot"]).cumulative_incidence[:, -1, 1]
    assert found.effect.value == pytest.approx(float((given - without).mean()))
    assert found.effect.value < 0


@pytest.mark.heavy
def test_the_interval_holds_the_truth_as_often_as_it_says():
    held, biased = [], []
    for seed in range(200):
        dataset, truth = people(1500, Truth(), seed=1000 + seed)
        twin = fitted(dataset)
        draws = sandwich_draws(twin, dataset, draws=60, seed=seed)
        found = population_effect(twin, dataset.values, estimand("drug", "walks"), parameters=draws)
        low, high = found.effect.interval
        held.append(low <= truth["drug_walks"] <= high)
        biased.append(naive(dataset, 4, 0) - truth["drug_walks"])
    # 190 of 200 expected; fewer than 181 or more than 198 come about once in 250.
    assert 181 <= sum(held) <= 198
    assert np.mean(biased) < -0.1
