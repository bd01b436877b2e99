"""The fatty-liver twin: what moves it, by how much, what it makes of observations, and that anything may be missing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.core.errors import GemelError
from gemel.core.series import Series
from gemel.twins.installed import make_twin
from gemel.twins.programmes.fatty_liver import PROGRAMME, effects, fibrosis
from gemel.twins.programmes.fatty_liver.definition import DEFINITION
from gemel.twins.programmes.fatty_liver.twin import LIVER_TESTS, FattyLiverTwin
from gemel.twins.solvers import transition_matrices
from gemel.twins.treatment_plan import TreatmentPlan

NAMES, OUTCOMES = PROGRAMME.feature_names, PROGRAMME.outcome_names
PATIENT = {
    "age_years": 58.0,
    "male": 1.0,
    "body_mass_index_kg_m2": 33.0,
    "systolic_blood_pressure_mmhg": 140.0,
    "fatty_liver": 1.0,
    "hypertension": 1.0,
    **{
        name: 0.0
        for name in ("dyslipidaemia", "diabetes_history", "ischaemic_heart_disease", "heart_failure_history")
    },
    "atrial_fibrillation_history": 0.0,
    "myocardial_infarction_history": 0.0,
    "stroke_history": 0.0,
}
CIRRHOTIC = {
    "aspartate_aminotransferase_u_l": 90.0,
    "alanine_aminotransferase_u_l": 40.0,
    "platelets_10e9_l": 80.0,
    "liver_stiffness_kpa": 40.0,
}


def row(**changes):
    values = {**PATIENT, **changes}
    return np.array([[values.get(name, np.nan) for name in NAMES]])


def series(*pairs):
    days, values = np.array(pairs, np.float32).reshape(-1, 2).T
    return Series(np.array([0, len(days)]), days, values)


@pytest.fixture(scope="module")
def twin():
    return FattyLiverTwin(PROGRAMME)


def log_hazards(twin, values, plan):
    return np.log(twin.hazards_in_state(values, 0, plan)[0])


def test_the_programmes_twin_is_this_one():
    assert isinstance(make_twin(PROGRAMME), FattyLiverTwin)


def test_no_hazard_reads_a_liver_test_by_itself(twin):
    assert not {name.split(":")[0] for name in twin.design.names} & LIVER_TESTS
    assert "effects" not in twin.array_specs()


def test_liver_tests_move_the_stage_and_by_it_death_and_nothing_else(twin):
    plain, ill = twin.predict(row()), twin.predict(row(**CIRRHOTIC))
    assert ill.courses["fibrosis_stage"].mean[0, 0] > 3 > plain.courses["fibrosis_stage"].mean[0, 0]
    assert ill.courses["portal_pressure_gradient"].mean[0, 0] > 10
    assert ill.cumulative_incidence[0, 10, 0] > 1.5 * plain.cumulative_incidence[0, 10, 0]
    moved = log_hazards(twin, row(**CIRRHOTIC), TreatmentPlan()) - log_hazards(twin, row(), TreatmentPlan())
    assert (moved[1:] == 0).all()


def test_without_fatty_liver_no_liver_test_matters(twin):
    plain, tested = (twin.predict(row(fatty_liver=0.0, **more)) for more in ({}, CIRRHOTIC))
    np.testing.assert_array_equal(plain.cumulative_incidence, tested.cumulative_incidence)
    assert (plain.courses["fibrosis_stage"].mean == 0).all()


def test_who_is_in_the_worst_stage_for_certain_dies_by_the_published_ratio(twin):
    stages = np.zeros((1, 15, 5))
    stages[:, :, 4] = 1.0
    worst = twin.offsets(row(), stages, TreatmentPlan())[0, :, 0]
    stages[:, :, [0, 4]] = stages[:, :, [4, 0]]
    best = twin.offsets(row(), stages, TreatmentPlan())[0, :, 0]
    np.testing.assert_allclose(np.exp(worst - best), 3.66, rtol=1e-5)


def test_a_patient_of_whom_no_test_is_known_starts_at_the_average(twin):
    stages = np.broadcast_to(fibrosis.STAGE_MIX, (1, 15, 5))
    assert twin.offsets(row(), stages, TreatmentPlan()) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("drug", effects.BY_DRUG)
def test_a_drug_changes_hazards_by_its_trials_ratios_while_it_is_given(twin, drug):
    plan = TreatmentPlan.always({drug: 1.0})
    changed = log_hazards(twin, row(fatty_liver=0.0), plan) - log_hazards(
        twin, row(fatty_liver=0.0), TreatmentPlan()
    )
    for place, outcome in enumerate(OUTCOMES):
        ratio = effects.BY_DRUG[drug].get(outcome, 1.0)
        np.testing.assert_allclose(np.exp(changed[place]), ratio, rtol=1e-4)


def test_weight_loss_lowers_pressure_and_with_it_hazards_by_the_trials_ratios(twin):
    plan, values = TreatmentPlan.always({"weight_loss": 10.0}), row(fatty_liver=0.0)
    before = twin.circulation_course(values, TreatmentPlan())["systolic_pressure"][:, 1::2]
    after = twin.circulation_course(values, plan)["systolic_pressure"][:, 1::2]
    changed = log_hazards(twin, values, plan) - log_hazards(twin, values, TreatmentPlan())
    lower = (before - after)[0] / 10
    assert lower[5] == pytest.approx(0.9, abs=0.2)  # 9.5 kg at this BMI
    for place, outcome in enumerate(OUTCOMES[:-1]):
        ratio = effects.BY_PRESSURE.get(outcome, 1.0)
        np.testing.assert_allclose(changed[place], np.log(ratio) * lower, atol=1e-4)
    np.testing.assert_allclose(np.exp(changed[-1, 5]), 0.42, rtol=1e-3)


@given(st.floats(0, 20), st.floats(0, 20))
@settings(max_examples=8)
def test_more_weight_loss_never_does_harm(first, second):
    twin = FattyLiverTwin(PROGRAMME)
    less, more = (
        twin.predict(row(), plan=TreatmentPlan.always({"weight_loss": w})) for w in sorted((first, second))
    )
    assert (more.cumulative_incidence[0, :, 0] <= less.cumulative_incidence[0, :, 0] + 1e-9).all()
    stage = [p.courses["fibrosis_stage"].mean[0] for p in (more, less)]
    assert (stage[0] <= stage[1] + 1e-9).all()


def test_a_plan_that_starts_later_changes_nothing_before(twin):
    from gemel.twins.treatment_plan import Dose

    plan = TreatmentPlan(doses=(Dose(treatment="statin", amount=1.0, from_days=1826.0),))
    changed = log_hazards(twin, row(), plan) - log_hazards(twin, row(), TreatmentPlan())
    assert (changed[:, :5] == 0).all()
    assert changed[0, 5] == pytest.approx(np.log(0.88), abs=1e-4)


@given(st.sets(st.sampled_from(NAMES)))
@settings(max_examples=25)
def test_whatever_is_missing_everything_is_a_number(missing):
    twin = FattyLiverTwin(PROGRAMME)
    values = row(**{**CIRRHOTIC, "albumin_g_dl": 3.5, **dict.fromkeys(missing, np.nan)})
    prediction = twin.predict(values, plan=TreatmentPlan.always({"weight_loss": 5.0, "beta_blocker": 1.0}))
    numbers = [prediction.cumulative_incidence, prediction.state]
    numbers += [part for c in prediction.courses.values() for part in (c.mean, c.spread)]
    assert all(np.isfinite(part).all() for part in numbers)


def test_a_known_stiffness_narrows_the_stage(twin):
    known = twin.predict(row(liver_stiffness_kpa=4.0)).courses["fibrosis_stage"].spread[0, 0]
    assert known < 0.9 * twin.predict(row()).courses["fibrosis_stage"].spread[0, 0]


def test_each_patients_loss_is_from_that_patients_row_alone(twin):
    values = np.repeat(row(**CIRRHOTIC), 3, axis=0)
    values[1] = row()[0]
    inputs = {name: torch.from_numpy(array) for name, array in twin.inputs(values).items()}
    steps, outcomes = 15, len(OUTCOMES)
    batch = {
        **inputs,
        "diseases": torch.zeros(3, steps, outcomes - 1),
        "event": torch.zeros(3, outcomes, steps),
        "exposure": torch.ones(3, outcomes, steps),
    }
    together = twin(batch)
    alone = twin({name: tensor[:1] for name, tensor in batch.items()})
    assert torch.isfinite(together).all()
    assert together[0] == alone[0] == together[2] != together[1]


def test_nothing_observed_leaves_the_prediction_as_it_is(twin):
    values = np.concatenate([row(), row(**CIRRHOTIC), row(fatty_liver=0.0)])
    before, after = twin.predict(values), twin.assimilate(values, {}).predict()
    np.testing.assert_allclose(after.cumulative_incidence, before.cumulative_incidence, atol=1e-6)
    for name, course in before.courses.items():
        np.testing.assert_allclose(after.courses[name].mean, course.mean, atol=1e-6)


def test_who_was_tested_was_alive_until_then(twin):
    alive = twin.assimilate(row(), {"fib_4": series((900, 1.0))}).predict().alive[0]
    assert alive[2] == pytest.approx(1.0, abs=1e-9)
    assert alive[3] < 1 - 1e-4


def test_a_test_after_the_death_is_refused(twin):
    with pytest.raises(GemelError) as caught:
        twin.assimilate(row(), {"fib_4": series((900, 1.0)), "death": series((400, 1.0))})
    assert caught.value.code == "GEM604"


def test_a_test_of_the_record_counts_once_however_it_is_given(twin):
    by_record = twin.assimilate(row(liver_stiffness_kpa=15.0), {}).parameters["fibrosis_stage"]
    again = twin.assimilate(row(liver_stiffness_kpa=15.0), {"liver_stiffness": series((0, 15.0))})
    assert again.parameters["fibrosis_stage"][0] == pytest.approx(by_record[0])


def test_simulated_stages_have_the_predicted_mean_and_end_with_death(twin):
    plan = TreatmentPlan.always({"resmetirom": 1.0})
    course = twin.simulate(row(diabetes_history=1.0), seed=3, plan=plan, paths=4000)
    stages = course.courses["fibrosis_stage"]
    expected = twin.predict(row(diabetes_history=1.0), plan=plan).courses["fibrosis_stage"]
    np.testing.assert_allclose(np.nanmean(stages, axis=0), expected.mean[0], atol=0.08)
    dead = (course.event[:, 0] == 1) & (course.time_years[:, 0] <= 10)
    assert dead.any()
    assert np.isnan(stages[dead, 10]).all()
    assert np.isfinite(stages[~dead, 10]).all()


def test_under_a_plan_the_same_path_is_never_in_a_worse_stage(twin):
    plans = TreatmentPlan(), TreatmentPlan.always({"glp_1_receptor_agonist": 1.0})
    usual, treated = (
        twin.simulate(row(), seed=5, plan=p, paths=500).courses["fibrosis_stage"] for p in plans
    )
    both = np.isfinite(usual) & np.isfinite(treated)
    assert np.mean(treated[both] <= usual[both]) > 0.97
    assert treated[both].mean() < usual[both].mean()


def panel(people, days, random):
    """Stages of people by the published rates, and their FIB-4 and stiffness with the published blur."""
    rates = fibrosis.FibrosisChain().rates({}, fibrosis.chain_prior(np.ones(1), np.ones(1)).same)
    move = transition_matrices(rates, days[1] / 365.25)[0].numpy().cumsum(axis=1)
    stages = [random.choice(5, people, p=fibrosis.STAGE_MIX)]
    for _ in days[1:]:
        stages.append((random.random(people)[:, None] > move[stages[-1]]).sum(axis=1))
    course, found = np.stack(stages, axis=1), {}
    for name in ("fib_4", "liver_stiffness"):
        test, share = fibrosis.TESTS[name], fibrosis.OWN_SHARE.value
        own = np.sqrt(share) * random.standard_normal((people, 1))
        each = np.sqrt(1 - share) * random.standard_normal(course.shape)
        found[name] = np.exp(np.array(test.means)[course] + test.deviation * (own + each))
    return course, found


def test_the_error_of_the_stage_falls_as_observations_are_taken_in(twin):
    people, days = 250, np.arange(6) * 730.5
    course, found = panel(people, days, np.random.default_rng(11))
    errors = []
    for visits in (0, 1, 3, 6):
        seen = {
            name: Series(
                np.arange(people + 1) * visits,
                np.tile(days[:visits], people).astype(np.float32),
                values[:, :visits].ravel().astype(np.float32),
            )
            for name, values in found.items()
        }
        values = np.repeat(row(), people, axis=0)
        believed = twin.assimilate(values, seen if visits else {}).stages((float(days[-1]),))[:, 0]
        errors.append(np.abs(believed @ np.arange(5) - course[:, -1]).mean())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.8 * errors[0]


def test_the_example_can_be_predicted_compared_and_observed(twin):
    example = DEFINITION.example
    values = np.array([[example.values.get(name, np.nan) for name in NAMES]])
    observations = {name: series(*pairs) for name, pairs in example.observations.items()}
    individual = twin.assimilate(values, observations)
    usual, other = (individual.predict(plan=p) for p in (example.plan, example.other_plan))
    assert other.cumulative_incidence[0, 10, 0] < usual.cumulative_incidence[0, 10, 0]
    mean, spread = individual.parameters["fibrosis_stage"]
    assert 0 < mean[0] < 4
    assert spread[0] > 0
