"""The stroke twin: what it answers to, what it must not be moved by, and scikit-learn as the oracle."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from gemel.core.dataset import Dataset
from gemel.core.programme import DAYS_PER_YEAR
from gemel.core.study import TrainingPlan
from gemel.privacy.engine import DpTrainer
from gemel.privacy.noise import NoiseSource
from gemel.twins.baselines import fit_without_privacy
from gemel.twins.programmes.stroke import OUTCOME_DAY, PROGRAMME
from gemel.twins.programmes.stroke.definition import DEFINITION
from gemel.twins.programmes.stroke.reperfusion import THROMBECTOMY_ODDS
from gemel.twins.programmes.stroke.twin import StrokeTwin
from gemel.twins.reference_cohort import reference_values
from gemel.twins.treatment_plan import Dose, TreatmentPlan

NAMES = PROGRAMME.feature_names


def patient(**given):
    values = np.array([[DEFINITION.example.values.get(name, np.nan) for name in NAMES]])
    for name, value in given.items():
        values[0, NAMES.index(name)] = value
    return values


def trained_twin(seed=0):
    """A twin whose parameters are moved off the start, so that no effect is 0 by chance."""
    twin, random = StrokeTwin(PROGRAMME), np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if name in ("prognosis", "weights"):
                parameter.copy_(torch.from_numpy(random.normal(0.15, 0.1, parameter.shape)).float())
        for name, weight in (("age_years", 0.9), ("consciousness", 0.8), ("leg_weakness", 0.7)):
            twin.prognosis[twin.design.names.index(name)] = weight
    return twin


def drawn(people, seed, twin=None):
    """People of public reference values whose courses a twin drew: a data set of this programme."""
    twin = twin or trained_twin()
    values = reference_values(PROGRAMME, people, seed=seed).astype(np.float32)
    course = twin.simulate(values, seed=seed)
    targets = np.stack([course.targets[name] for name in PROGRAMME.target_names], axis=1)
    return Dataset(
        PROGRAMME.name,
        PROGRAMME.version,
        NAMES,
        PROGRAMME.outcome_names,
        tuple(f"{i:06d}" for i in range(people)),
        values,
        course.time_years,
        course.event,
        PROGRAMME.target_names,
        targets.astype(np.float32),
    )


def odds(levels, at_least):
    reached = levels[:, at_least:].sum(axis=1)
    return reached / (1 - reached)


def test_thrombectomy_has_the_trials_common_odds_ratio_at_every_level():
    twin, values = trained_twin(), patient()
    without = twin.predict(values).targets["rankin_6_months"]
    with_it = twin.predict(values, plan=TreatmentPlan.always({"thrombectomy": 1.0})).targets[
        "rankin_6_months"
    ]
    for level in range(1, 6):
        np.testing.assert_allclose(odds(without, level) / odds(with_it, level), THROMBECTOMY_ODDS, rtol=0.02)


@pytest.mark.parametrize(("hours", "ratio"), [(0.0, 1.75), (3.0, 1.75), (4.0, 1.26), (6.0, 1.15)])
def test_thrombolysis_helps_less_the_later_it_is_given(hours, ratio):
    twin, values = trained_twin(), patient()
    plan = TreatmentPlan(doses=(Dose(treatment="thrombolysis", amount=1.0, from_days=hours / 24),))
    without = twin.levels_by_state(values, TreatmentPlan())[:, 0]
    with_it = twin.levels_by_state(values, plan)[:, 0]
    np.testing.assert_allclose(odds(without, 2) / odds(with_it, 2), ratio, rtol=1e-3)


def test_thrombolysis_makes_bleeding_likelier_in_the_first_week_alone():
    twin, values = trained_twin(), patient()
    plan = TreatmentPlan.always({"thrombolysis": 1.0})
    bleed = PROGRAMME.outcome_names.index("intracranial_haemorrhage")
    hazards = [twin.hazards_in_state(values, 0, p)[0, bleed] for p in (TreatmentPlan(), plan)]
    days = np.array(PROGRAMME.times_years) * DAYS_PER_YEAR
    early = (days[:-1] + days[1:]) / 2 < 7
    np.testing.assert_allclose((hazards[1] / hazards[0])[early], 5.55, rtol=1e-4)
    np.testing.assert_allclose((hazards[1] / hazards[0])[~early], 1.0, rtol=1e-6)


def test_a_counted_scale_says_the_impairment():
    twin = trained_twin()
    courses = [twin.predict(patient(nihss=points)).courses["nihss"] for points in (2.0, 8.0, 20.0)]
    first = [course.mean[0, 0] for course in courses]
    assert first == sorted(first)
    for counted, expected in zip((2.0, 8.0, 20.0), first, strict=True):
        assert abs(expected - counted) < 0.2 * counted + 1
    unknown = twin.predict(patient()).courses["nihss"]
    assert unknown.spread[0, 0] > 3 * courses[1].spread[0, 0]
    risks = [twin.predict(patient(nihss=p)).risk(PROGRAMME, PROGRAMME.endpoints[0])[0, 0] for p in (2, 8, 20)]
    assert risks == sorted(risks)


def test_aspirin_is_the_column_that_a_plan_sets():
    twin = trained_twin()
    planned = twin.predict(patient(aspirin=0.0), plan=TreatmentPlan.always({"aspirin": 1.0}))
    np.testing.assert_array_equal(
        planned.cumulative_incidence, twin.predict(patient(aspirin=1.0)).cumulative_incidence
    )


def test_items_that_nobody_asked_for_are_not_held_against_a_patient():
    twin = trained_twin()
    none = patient()
    none[0, [NAMES.index(n) for n in ("consciousness", "facial_palsy", "arm_weakness", "leg_weakness")]] = (
        np.nan
    )
    none[0, [NAMES.index(n) for n in ("language_deficit", "visual_deficit", "neglect", "ataxia")]] = np.nan
    columns = twin.design.columns(none)
    assert columns[0, twin.design.names.index("items:missing")] == 0.0
    one = patient(visual_deficit=np.nan)
    assert twin.design.columns(one)[0, twin.design.names.index("items:missing")] > 0


def test_a_coarse_answer_and_a_fine_one_train_the_same_twin_to_the_same_place():
    fine = drawn(2500, 5)
    coarse_value = fine.targets[:, 1].copy()
    for level, written in ((1, 1.5), (2, 1.5), (3, 3.5), (4, 3.5), (5, 3.5)):
        coarse_value[fine.targets[:, 1] == level] = written
    coarse = Dataset(
        *(
            getattr(fine, n)
            for n in ("programme", "programme_version", "features", "outcomes", "patient_ids")
        ),
        fine.values,
        fine.time_years,
        fine.event,
        fine.target_names,
        np.stack([fine.targets[:, 0], coarse_value], axis=1),
    )
    risk = []
    for dataset in (fine, coarse):
        twin = fit_without_privacy(StrokeTwin(PROGRAMME), dataset, steps=40)
        risk.append(twin.predict(fine.values).risk(PROGRAMME, PROGRAMME.endpoints[0])[:, 0])
    assert np.corrcoef(*risk)[0, 1] > 0.98
    assert abs(risk[0].mean() - risk[1].mean()) < 0.02


def test_it_ranks_as_logistic_regression_does():
    training, tested = drawn(3000, 1), drawn(3000, 2)
    twin = fit_without_privacy(StrokeTwin(PROGRAMME), training, steps=40)

    def bad(dataset):
        died = (dataset.event[:, 0] == 1) & (dataset.time_years[:, 0] * DAYS_PER_YEAR <= OUTCOME_DAY)
        return died | (dataset.targets[:, 0] >= 3)

    columns = twin.design.columns
    plain = LogisticRegression(C=1e3, max_iter=2000).fit(columns(training.values), bad(training))
    theirs = roc_auc_score(bad(tested), plain.predict_proba(columns(tested.values))[:, 1])
    mine = roc_auc_score(
        bad(tested), twin.predict(tested.values).risk(PROGRAMME, PROGRAMME.endpoints[0])[:, 0]
    )
    assert theirs > 0.6  # there is something to find
    assert mine > theirs - 0.01


def test_it_trains_under_privacy_and_one_patient_moves_it_no_further_than_the_bound():
    dataset = drawn(200, 3)
    plan = TrainingPlan(
        rounds=1,
        local_steps=1,
        learning_rate=1.0,
        momentum=0.0,
        max_grad_norm=0.5,
        sample_rate=1.0,
        noise_multiplier=0.0,
    )
    moved = []
    for people in (dataset, dataset.take(np.arange(199))):
        twin = StrokeTwin(PROGRAMME)
        trainer = DpTrainer(plan, noise=NoiseSource.for_tests(1), expected_patients=200.0)
        trainer.train(twin, twin.tensors(people))
        moved.append(np.concatenate([a.reshape(-1) for a in twin.to_arrays().values()]))
    assert 0 < np.linalg.norm(moved[0] - moved[1]) <= 0.5 / 200 * 1.001


def test_a_known_effect_of_aspirin_is_found():
    truth = trained_twin()
    column = truth.design.names.index("aspirin")
    with torch.no_grad():
        truth.weights[:, column] = 0.0
        truth.prognosis[column] = -1.5
    dataset = drawn(4000, 4, truth)
    twin = fit_without_privacy(StrokeTwin(PROGRAMME), dataset, steps=40)

    def difference(of):
        plans = (TreatmentPlan.always({"aspirin": amount}) for amount in (1.0, 0.0))
        given_it, not_given = (
            of.predict(dataset.values, plan=p).risk(PROGRAMME, PROGRAMME.endpoints[0]).mean() for p in plans
        )
        return given_it - not_given

    assert difference(truth) < -0.1
    assert abs(difference(twin) - difference(truth)) < 0.04
