"""Who may be asked about: bounds, contraindications, who got which plan here, and released tables."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec import structs
from sklearn.linear_model import LogisticRegression
from treated_people import GIVEN, PROGRAMME, WITHOUT, Truth, people

from gemel.core.errors import GemelError
from gemel.twins.causal.estimand import Basis, basis_of
from gemel.twins.causal.local_support import LocalSupport, follows
from gemel.twins.causal.released_support import ReleasedSupport, level_in_bins
from gemel.twins.causal.support import LOWEST_PROPENSITY, check_plans
from gemel.twins.treatment_plan import NOTHING_CHANGED, TreatmentPlan

#                  age, pressure, bleeding, lot, drug
USUAL = np.array([[60.0, 140.0, 0.0, 0.0, 0.0]])


@pytest.fixture(scope="module")
def hospital():
    return people(3000, Truth(), seed=1)[0]


def check(values, plan=GIVEN["lot"], other=WITHOUT["lot"], **known):
    return check_plans(PROGRAMME, np.asarray(values, float), plan, other, **known)


def codes(support, patient=0):
    return {reason.code for reason in support.reasons(patient)}


def changed(**columns):
    row = USUAL.copy()
    for name, value in columns.items():
        row[0, PROGRAMME.feature_names.index(name)] = value
    return row


def test_a_usual_patient_is_supported_and_the_lot_tells_the_chance(hospital):
    support = check(USUAL, evidence=LocalSupport(hospital.values))
    assert support.supported.all()
    assert support.propensity.plan.tolist() == support.propensity.other_plan.tolist() == [0.5]
    assert not support.unchecked


@pytest.mark.parametrize("odd", [{"age_years": 12}, {"age_years": 101}, {"pressure": np.inf}, {"lot": 2}])
def test_a_value_beyond_the_public_bounds_is_refused(odd):
    assert codes(check(changed(**odd))) == {"GEM620"}


def test_a_missing_value_is_within_bounds():
    assert check(changed(pressure=np.nan)).supported.all()


@pytest.mark.parametrize("bleeding", [1.0, np.nan])
def test_what_is_or_may_be_contraindicated_is_refused(bleeding):
    patient = changed(bleeding=bleeding)
    assert codes(check(patient)) == {"GEM621"}
    # Not giving it is never forbidden.
    assert check(patient, WITHOUT["lot"], NOTHING_CHANGED).supported.all()


def test_each_patient_is_judged_alone():
    rows = np.concatenate([USUAL, changed(age_years=12), changed(bleeding=1), USUAL])
    support = check(rows)
    assert support.supported.tolist() == [True, False, False, True]
    assert sum(support.counts.values()) == 2
    assert [codes(support, i) for i in range(4)] == [set(), {"GEM620"}, {"GEM621"}, set()]


def test_without_evidence_an_observed_treatment_has_no_known_chance():
    support = check(USUAL, GIVEN["drug"], WITHOUT["drug"])
    assert support.supported.all()
    assert np.isnan(support.propensity.plan).all()
    assert any("propensity" in unchecked for unchecked in support.unchecked)
    assert support.propensity.summary() == {}


def test_a_treatment_that_no_column_records_has_no_propensity_to_fail(hospital):
    support = check(USUAL, GIVEN["published"], WITHOUT["published"], evidence=LocalSupport(hospital.values))
    assert support.supported.all()
    assert support.propensity.plan.tolist() == [1.0]


def test_the_propensity_is_that_of_a_logistic_regression(hospital):
    found = LocalSupport(hospital.values).propensity(
        PROGRAMME, hospital.values.astype(float), GIVEN["drug"], WITHOUT["drug"]
    )
    x = hospital.values[:, :4].astype(float)
    x = np.column_stack([x, ((x[:, 0] - 68.4) / 12) ** 2])
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    oracle = LogisticRegression(C=2.5**2, tol=1e-8, max_iter=1000).fit(x, hospital.values[:, 4])
    assert np.abs(found.plan - oracle.predict_proba(x)[:, 1]).max() < 2e-3
    assert np.abs(found.plan + found.other_plan - 1).max() < 1e-6


def test_who_hardly_ever_gets_a_plan_is_refused():
    # Doctors follow a strict rule: above 150 mm[Hg] they nearly always give the drug.
    dataset, _ = people(6000, Truth(confounding=0.0), seed=2)
    values = dataset.values.astype(float)
    random = np.random.default_rng(0)
    values[:, 4] = random.random(len(values)) < np.where(values[:, 1] > 150, 0.998, 0.3)
    # The rule is a step; a logistic regression on pressure sees a slope, so look far above the step.
    high, usual = changed(pressure=200), changed(pressure=130)
    evidence = LocalSupport(values)
    refused = check(high, GIVEN["drug"], WITHOUT["drug"], evidence=evidence)
    assert "GEM623" in codes(refused)
    assert refused.propensity.other_plan[0] < LOWEST_PROPENSITY < refused.propensity.plan[0]
    assert check(usual, GIVEN["drug"], WITHOUT["drug"], evidence=evidence).supported.all()
    swapped = check(high, WITHOUT["drug"], GIVEN["drug"], evidence=evidence)
    assert "GEM623" in codes(swapped)


def test_a_separated_hospital_still_gives_a_finite_propensity_and_a_refusal(hospital):
    values = hospital.values.astype(float)
    values[:, 4] = values[:, 0] > 60
    support = check(changed(age_years=75), GIVEN["drug"], WITHOUT["drug"], evidence=LocalSupport(values))
    assert np.isfinite(support.propensity.plan).all()
    assert "GEM623" in codes(support)


def test_a_plan_that_hardly_anybody_here_got_is_refused_for_everybody(hospital):
    values = hospital.values.astype(float)
    values[:, 4] = np.arange(len(values)) < 19
    support = check(USUAL, GIVEN["drug"], WITHOUT["drug"], evidence=LocalSupport(values))
    assert "GEM622" in codes(support)


def test_a_combination_that_nobody_here_had_is_refused(hospital):
    young = hospital.values[hospital.values[:, 0] < 55].astype(float)
    evidence = LocalSupport(young)
    assert "GEM622" in codes(check(changed(age_years=95), evidence=evidence))
    assert check(changed(age_years=50), evidence=evidence).supported.all()


def test_a_flag_that_nobody_here_had_is_refused(hospital):
    without = hospital.values[hospital.values[:, 2] == 0].astype(float)
    patient = changed(bleeding=1)
    assert "GEM622" in codes(check(patient, GIVEN["drug"], WITHOUT["drug"], evidence=LocalSupport(without)))


def test_everybody_that_the_evidence_is_of_lies_within_it(hospital):
    evidence = LocalSupport(hospital.values)
    refused = evidence.refusals(PROGRAMME, hospital.values.astype(float), NOTHING_CHANGED, NOTHING_CHANGED)
    assert not any(refusal.whom.any() for refusal in refused)


def test_a_dose_is_followed_by_its_public_bin_and_a_flag_by_its_value(hospital):
    got = follows(PROGRAMME, hospital.values, GIVEN["drug"], ("drug",))
    assert got.tolist() == (hospital.values[:, 4] == 1).tolist()
    assert not follows(PROGRAMME, changed(drug=np.nan), GIVEN["drug"], ("drug",)).any()


def released(values, sigma, *, seed=0):
    """Tables of pairs with age, as hospitals release them."""
    random = np.random.default_rng(seed)
    columns = dict(zip(PROGRAMME.feature_names, PROGRAMME.columns, strict=True))
    tables = {}
    for j, name in enumerate(PROGRAMME.feature_names[1:], 1):
        sizes = [len(columns["age_years"].bin_edges) - 1, len(columns[name].bin_edges) - (name != "pressure")]
        table = np.zeros(sizes, np.int64)
        levels = [
            level_in_bins(columns["age_years"], values[:, 0].astype(float), sizes[0]),
            level_in_bins(columns[name], values[:, j].astype(float), sizes[1]),
        ]
        np.add.at(table, tuple(levels), 1)
        tables["age_years", name] = table + np.round(random.normal(0, sigma, sizes)).astype(np.int64)
    return ReleasedSupport(tables, sigma)


def test_released_tables_refuse_pairs_that_nobody_had(hospital):
    evidence = released(hospital.values[hospital.values[:, 0] < 65], 5.0)
    assert check(changed(age_years=55), evidence=evidence).supported.all()
    support = check(changed(age_years=75), evidence=evidence)
    assert codes(support) == {"GEM622"}


def test_released_tables_refuse_a_plan_that_hardly_anybody_of_that_age_got(hospital):
    values = np.concatenate([hospital.values] * 4)
    old = values[:, 0] >= 70
    values[old, 4] = np.arange(old.sum()) % 100 == 0
    support = check(changed(age_years=72), GIVEN["drug"], WITHOUT["drug"], evidence=released(values, 2.0))
    assert "GEM623" in codes(support)
    assert check(
        changed(age_years=55), GIVEN["drug"], WITHOUT["drug"], evidence=released(values, 2.0)
    ).supported.all()


def test_released_tables_know_no_propensity_of_an_observed_treatment(hospital):
    evidence = released(hospital.values, 5.0)
    support = check(changed(age_years=55), GIVEN["drug"], WITHOUT["drug"], evidence=evidence)
    assert np.isnan(support.propensity.plan).all()
    assert any("propensity" in unchecked for unchecked in support.unchecked)
    assert check(changed(age_years=55), evidence=evidence).propensity.plan.tolist() == [0.5]


def test_a_missing_value_falls_into_the_level_of_the_missing():
    feature = PROGRAMME.columns[1]
    given = np.array([85.0, 120.0, 219.0, 999.0, np.nan])
    assert level_in_bins(feature, given, 5).tolist() == [0, 1, 3, 3, 4]
    assert level_in_bins(feature, given, 4).tolist() == [0, 1, 3, 3, 2]


@pytest.mark.parametrize("shape", [(5,), (1, 4)])
def test_values_of_another_shape_are_refused(shape):
    with pytest.raises(GemelError) as caught:
        check(np.zeros(shape))
    assert caught.value.code == "GEM601"


def test_an_amount_that_cannot_be_given_is_a_fault_of_the_plan():
    with pytest.raises(GemelError) as caught:
        check(USUAL, TreatmentPlan.always({"published": 11.0}), WITHOUT["published"])
    assert caught.value.code == "GEM603"


def test_an_effect_from_the_literature_needs_nobody_here_who_got_it(hospital):
    read = structs.replace(PROGRAMME.treatment("drug"), source="a paper")
    programme = structs.replace(
        PROGRAMME, treatments=(PROGRAMME.treatments[0], read, PROGRAMME.treatments[2])
    )
    values = hospital.values.astype(float)
    values[:, 4] = 0
    plans = GIVEN["drug"], WITHOUT["drug"]
    for evidence in (LocalSupport(values), released(values, 5.0)):
        learnt = check_plans(PROGRAMME, USUAL, *plans, evidence=evidence)
        assert not learnt.supported.any()
        support = check_plans(programme, USUAL, *plans, evidence=evidence)
        assert support.supported.all()
        assert support.propensity.plan.tolist() == [1.0]
        assert any("publications" in unchecked for unchecked in support.unchecked)
        # Who takes it already is judged by the rest of the values.
        assert check_plans(programme, changed(drug=1), *plans, evidence=evidence).supported.all()
    assert basis_of((read,)) is Basis.LITERATURE
