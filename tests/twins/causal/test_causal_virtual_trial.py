"""Virtual people in both arms of a trial: the same people, the same luck."""

from __future__ import annotations

import numpy as np
import pytest
from treated_people import DAY, GIVEN, PROGRAMME, WITHOUT, PlainTwin, Truth, fitted, people

from gemel.core.errors import GemelError
from gemel.twins.causal.estimand import declare
from gemel.twins.causal.virtual_trial import virtual_trial
from gemel.twins.hazard import HazardTwin
from gemel.twins.reference_cohort import reference_values, sample_cohort


def estimand(treatment, endpoint):
    return declare(
        PROGRAMME, GIVEN[treatment], WITHOUT[treatment], endpoint=endpoint, population="virtual people"
    )


@pytest.fixture(scope="module")
def twin():
    return fitted(people(3000, Truth(), seed=1)[0])


@pytest.fixture(scope="module")
def hazards():
    twin = HazardTwin(PROGRAMME)
    arrays = twin.to_arrays()
    arrays["level"][:] = np.log([0.8, 0.6])
    arrays["weights"][:, twin.design.names.index("lot")] = np.log(0.5)
    twin.load_arrays(arrays)
    return twin


def test_the_simulated_difference_is_near_the_expected_one(twin, hazards):
    values = reference_values(PROGRAMME, 4000, seed=1)
    for one, treatment, endpoint in (
        (twin, "drug", "walks"),
        (hazards, "lot", "death"),
        (twin, "drug", "pressure"),
    ):
        trial = virtual_trial(one, values, estimand(treatment, endpoint), seed=2)
        assert abs(trial.difference - trial.expected.effect.value) < 4 * trial.paired_error + 1e-6
        assert trial.paired_error < trial.parallel_error


def test_the_arms_are_the_same_people_with_another_plan(hazards):
    values = reference_values(PROGRAMME, 100, seed=1)
    trial = virtual_trial(hazards, values, estimand("lot", "death"), seed=2)
    lot = PROGRAMME.feature_names.index("lot")
    assert (trial.arm.values[:, lot] == 1).all()
    assert (trial.other_arm.values[:, lot] == 0).all()
    others = [j for j in range(len(PROGRAMME.columns)) if j != lot]
    assert np.array_equal(trial.arm.values[:, others], trial.other_arm.values[:, others])
    assert trial.arm.patient_ids == trial.other_arm.patient_ids
    again = virtual_trial(hazards, values, estimand("lot", "death"), seed=2)
    assert np.array_equal(again.arm.time_years, trial.arm.time_years)


def test_a_refused_trial_has_nobody_in_it_and_no_number(twin):
    values = reference_values(PROGRAMME, 50, seed=1)
    values[:10, 0] = 12
    trial = virtual_trial(twin, values, estimand("drug", "walks"), seed=1)
    assert trial.expected.refusal.code == "GEM626"
    assert len(trial.arm) == len(trial.other_arm) == 0
    assert np.isnan(trial.difference)


def test_the_contraindicated_take_part_in_no_arm(hazards):
    values = reference_values(PROGRAMME, 200, seed=1, prevalence={"bleeding": 0.05})
    trial = virtual_trial(hazards, values, estimand("lot", "death"), seed=1)
    assert 0 < (values[:, 2] == 1).sum() < 20
    assert len(trial.arm) == (values[:, 2] == 0).sum()
    assert not trial.arm.values[:, 2].any()


def test_reference_people_follow_the_public_numbers():
    values = reference_values(PROGRAMME, 20_000, seed=1, prevalence={"drug": 0.3})
    assert values.dtype == np.float32
    assert values[:, 0].mean() == pytest.approx(60, abs=0.3)
    assert values[:, 0].std() == pytest.approx(12, abs=0.3)
    assert values[:, 4].mean() == pytest.approx(0.3, abs=0.015)
    assert not values[:, 3].any()
    for column, feature in enumerate(PROGRAMME.columns):
        assert feature.low <= values[:, column].min()
        assert values[:, column].max() <= feature.high
    assert np.array_equal(values, reference_values(PROGRAMME, 20_000, seed=1, prevalence={"drug": 0.3}))
    assert not np.array_equal(values, reference_values(PROGRAMME, 20_000, seed=2, prevalence={"drug": 0.3}))


@pytest.mark.parametrize(
    "prevalence", [{"age_years": 0.5}, {"leeches": 0.5}, {"drug": 1.5}, {"drug": float("nan")}]
)
def test_a_share_of_no_flag_is_refused(prevalence):
    with pytest.raises(GemelError) as caught:
        reference_values(PROGRAMME, 10, seed=1, prevalence=prevalence)
    assert caught.value.code == "GEM629"


def test_a_virtual_cohort_is_a_data_set_with_what_its_people_were_given(twin, hazards):
    values = reference_values(PROGRAMME, 300, seed=1)
    cohort = sample_cohort(twin, values, seed=1, plan=GIVEN["drug"])
    assert cohort.programme == PROGRAMME.name
    assert all(name.startswith("virtual-") for name in cohort.patient_ids)
    assert list(cohort.patient_ids) == sorted(cohort.patient_ids)
    assert (cohort.values[:, 4] == 1).all()
    assert np.isfinite(cohort.targets).all()
    assert set(np.unique(cohort.targets[:, 0])) == {0.0, 1.0}
    courses = sample_cohort(hazards, values, seed=1)
    assert np.array_equal(courses.values, values)
    assert (courses.time_years <= DAY / 365.25 + 1e-6).all()
    assert np.isnan(courses.targets).all()  # this twin has no such heads


def test_the_luck_of_the_twin_is_not_the_luck_that_drew_the_people():
    values = reference_values(PROGRAMME, 2000, seed=5)
    untrained = PlainTwin()
    walks = sample_cohort(untrained, values, seed=5).targets[:, 0]
    assert abs(np.corrcoef(walks, values[:, 0])[0, 1]) < 0.08
