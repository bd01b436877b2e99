"""One patient under two plans: what is said, what kind of claim it is, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec import structs
from treated_people import DAY, GIVEN, PROGRAMME, WITHOUT, PlainTwin, Truth, fitted, people

from gemel.core.errors import GemelError
from gemel.core.series import Series
from gemel.twins.causal.estimand import Basis, declare
from gemel.twins.causal.local_support import LocalSupport
from gemel.twins.causal.population_effect import population_effect
from gemel.twins.causal.precision import sandwich_draws
from gemel.twins.hazard import HazardTwin
from gemel.twins.treatment_plan import NOTHING_CHANGED, Dose, TreatmentPlan
from gemel.twins.twin import Individual
from gemel.twins.what_if import associate, what_if

PATIENT = np.array([66.0, 150.0, 0.0, 0.0, 0.0])


@pytest.fixture(scope="module")
def hospital():
    return people(3000, Truth(), seed=1)[0]


@pytest.fixture(scope="module")
def twin(hospital):
    return fitted(hospital)


@pytest.fixture(scope="module")
def hazards():
    """A hazard twin in which the lot halves both hazards."""
    twin = HazardTwin(PROGRAMME)
    arrays = twin.to_arrays()
    arrays["level"][:] = np.log([0.8, 0.6])
    arrays["weights"][:, twin.design.names.index("lot")] = np.log(0.5)
    twin.load_arrays(arrays)
    return twin


def of(differences, endpoint, day=DAY):
    return next(d for d in differences if (d.endpoint, d.horizon_days) == (endpoint, day))


def test_the_answer_is_what_the_twin_predicts_under_each_plan(twin):
    answer = what_if(twin, PATIENT, GIVEN["drug"], WITHOUT["drug"])
    assert not answer.refused
    with_drug = twin.predict(PATIENT[None], plan=GIVEN["drug"]).targets["walks"][0]
    assert of(answer.differences, "walks").expected == with_drug
    assert answer.prediction.targets["walks"][0] == with_drug
    walks = of(answer.differences, "walks")
    assert walks.difference == pytest.approx(walks.expected - walks.other_expected)
    assert of(answer.differences, "pressure").difference == pytest.approx(-10, abs=1.5)


def test_what_is_randomised_observed_or_read_is_said(twin):
    twin.published_effect = -2.0
    answers = {name: what_if(twin, PATIENT, GIVEN[name], WITHOUT[name]) for name in GIVEN}
    bases = {name: answer.basis for name, answer in answers.items()}
    assert bases == {"lot": Basis.RANDOMISED, "drug": Basis.ASSOCIATION, "published": Basis.LITERATURE}
    assert "Randomised" in answers["lot"].claim
    assert "Observational association" in answers["drug"].claim
    assert "cited publications" in answers["published"].claim
    assert of(answers["drug"].differences, "walks").e_value.estimate > 1
    assert of(answers["drug"].differences, "pressure").e_value.estimate > 1
    assert of(answers["lot"].differences, "walks").e_value is None


def test_simulated_pairs_agree_with_the_expected_difference(hazards):
    answer = what_if(hazards, PATIENT, GIVEN["lot"], WITHOUT["lot"], paths=20_000, seed=3)
    for endpoint, day in (("death", 90), ("death", DAY), ("relapse", DAY)):
        simulated = of(answer.simulated, endpoint, day)
        expected = of(answer.differences, endpoint, day).difference
        assert abs(simulated.difference - expected) < 4 * simulated.error
        assert expected < 0


def test_the_same_luck_makes_a_difference_surer_than_different_luck(hazards):
    paired = what_if(hazards, PATIENT, GIVEN["lot"], WITHOUT["lot"], paths=5000, seed=1).simulated
    one, other = (
        hazards.simulate(PATIENT[None], seed=s, plan=plan[name], paths=5000)
        for s, plan, name in ((1, GIVEN, "lot"), (2, WITHOUT, "lot"))
    )
    apart = np.hypot(*((course.event[:, 0] == 1).std() / np.sqrt(5000) for course in (one, other)))
    assert of(paired, "death").error < 0.8 * apart


def test_a_lower_hazard_with_the_same_luck_kills_nobody_earlier(hazards):
    death = of(what_if(hazards, PATIENT, GIVEN["lot"], WITHOUT["lot"], paths=5000).simulated, "death")
    assert death.only_here == 0
    assert death.only_there == pytest.approx(-death.difference)


def test_what_the_two_risks_allow_holds_what_is_simulated(twin, hazards):
    for one, name, endpoint in ((twin, "drug", "walks"), (hazards, "lot", "death")):
        found = of(what_if(one, PATIENT, GIVEN[name], WITHOUT[name], paths=3000).simulated, endpoint)
        assert found.fewest_only_there - 1e-12 <= found.only_there <= found.most_only_there + 1e-12
        assert found.difference == pytest.approx(found.only_here - found.only_there)


def test_a_measured_value_has_the_spread_of_its_differences(twin):
    found = of(what_if(twin, PATIENT, GIVEN["drug"], WITHOUT["drug"], paths=500).simulated, "pressure")
    # The noise of a path is the same under both plans, so the whole difference is the drug's.
    assert found.low == pytest.approx(found.high, abs=1e-3)
    assert found.only_here is None


def test_equal_seeds_give_equal_answers(hazards):
    one, same, other = (
        what_if(hazards, PATIENT, GIVEN["lot"], WITHOUT["lot"], seed=seed).simulated for seed in (1, 1, 2)
    )
    assert one == same != other
    assert what_if(hazards, PATIENT, GIVEN["lot"], WITHOUT["lot"], paths=0).simulated == ()


def test_who_had_the_disease_before_is_told_nothing_of_its_first_time(hospital):
    relapse = structs.replace(PROGRAMME.outcomes[1], concepts=PROGRAMME.columns[2].concepts)
    programme = structs.replace(PROGRAMME, outcomes=(PROGRAMME.outcomes[0], relapse))
    twin = HazardTwin(programme)
    arrays = twin.to_arrays()
    arrays["weights"][:, twin.design.names.index("drug")] = 0.5
    twin.load_arrays(arrays)
    had = PATIENT.copy()
    had[2] = 1
    told = [
        {d.endpoint for d in what_if(twin, patient, GIVEN["drug"], WITHOUT["drug"]).differences}
        for patient in (PATIENT, had)
    ]
    assert told == [{"death", "relapse"}, {"death"}]
    asked = declare(programme, GIVEN["drug"], WITHOUT["drug"], endpoint="relapse", population="people")
    found = population_effect(twin, hospital.values, asked)
    assert found.included.tolist() == (hospital.values[:, 2] == 0).tolist()


@pytest.mark.parametrize(
    ("column", "value", "code"), [(0, 12.0, "GEM620"), (2, 1.0, "GEM621"), (2, np.nan, "GEM621")]
)
def test_a_refusal_is_an_answer_with_its_reason_and_no_number(twin, column, value, code):
    patient = PATIENT.copy()
    patient[column] = value
    answer = what_if(twin, patient, GIVEN["lot"], WITHOUT["lot"])
    assert answer.refused
    assert {reason.code for reason in answer.reasons} == {code}
    assert answer.prediction is answer.other_prediction is None
    assert answer.differences == answer.simulated == ()


def test_who_would_never_get_a_plan_here_is_refused(twin, hospital):
    values = hospital.values.astype(float)
    values[:, 4] = values[:, 1] > 140
    patient = PATIENT.copy()
    patient[1] = 175
    answer = what_if(twin, patient, GIVEN["drug"], WITHOUT["drug"], evidence=LocalSupport(values))
    assert "GEM623" in {reason.code for reason in answer.reasons}
    known = what_if(twin, PATIENT, GIVEN["drug"], WITHOUT["drug"], evidence=LocalSupport(hospital.values))
    assert not known.refused
    assert known.propensity.plan[0] + known.propensity.other_plan[0] == pytest.approx(1)
    assert not known.unchecked


@pytest.mark.parametrize("name", ["lot", "published"])
def test_a_twin_that_knows_nothing_of_a_treatment_does_not_say_0(name):
    answer = what_if(PlainTwin(), PATIENT, GIVEN[name], WITHOUT[name])
    assert [reason.code for reason in answer.reasons] == ["GEM624"]


def test_the_error_of_the_parameters_gives_the_difference_its_interval(twin, hospital):
    draws = sandwich_draws(twin, hospital, draws=60, seed=1)
    answer = what_if(twin, PATIENT, GIVEN["drug"], WITHOUT["drug"], parameters=draws, paths=0)
    pressure = of(answer.differences, "pressure")
    low, high = pressure.interval
    assert low < pressure.difference < high
    # The pressure's model is linear: one patient's difference is everybody's.
    asked = declare(PROGRAMME, GIVEN["drug"], WITHOUT["drug"], endpoint="pressure", population="people")
    everybody = population_effect(twin, hospital.values[:50], asked, parameters=draws).effect
    assert pressure.interval == pytest.approx(everybody.interval, abs=1e-4)
    assert of(what_if(twin, PATIENT, GIVEN["drug"], WITHOUT["drug"]).differences, "pressure").interval is None


def test_an_endpoint_that_a_treatment_does_not_reach_is_told_apart_from_no_effect(twin):
    twin.published_effect = -2.0
    answer = what_if(twin, PATIENT, GIVEN["published"], WITHOUT["published"])
    assert of(answer.differences, "pressure").is_known
    assert not of(answer.differences, "walks").is_known
    drug = what_if(twin, PATIENT, GIVEN["drug"], WITHOUT["drug"])
    assert not of(drug.differences, "death").is_known
    assert of(drug.differences, "death").e_value is None


def test_equal_plans_differ_in_nothing(twin):
    answer = what_if(twin, PATIENT, GIVEN["drug"], GIVEN["drug"])
    assert answer.basis is None
    assert all(d.difference == 0 for d in answer.differences)


def test_a_plan_that_does_not_fit_is_a_fault(twin):
    with pytest.raises(GemelError) as caught:
        what_if(twin, PATIENT, TreatmentPlan.always({"drug": 0.5}), WITHOUT["drug"])
    assert caught.value.code == "GEM603"
    later = TreatmentPlan(doses=(Dose(treatment="drug", amount=1.0, from_days=10),))
    with pytest.raises(GemelError) as caught:
        what_if(twin, PATIENT, later, WITHOUT["drug"])
    assert caught.value.code == "GEM603"


class Seen(Individual):
    """A person whose later pressure was found to be some mm[Hg] from what was expected."""

    def __init__(self, twin, values, shift):
        self._twin, self._values, self._shift = twin, values, shift

    def predict(self, *, plan=NOTHING_CHANGED):
        prediction = self._twin.predict(self._values, plan=plan)
        prediction.targets["pressure_later"][:, 0] += self._shift
        return prediction

    @property
    def parameters(self):
        return {"shift": (np.array([self._shift]), np.array([1.0]))}


class Observing(PlainTwin):
    observables = {"pressure": "mm[Hg]"}  # noqa: RUF012

    def assimilate(self, values, observations):
        return Seen(self, values, float(observations["pressure"].values[0]) - values[0, 1])


def test_what_was_observed_is_taken_in_before_either_plan_is_tried(twin):
    observing = Observing()
    observing.load_arrays(twin.to_arrays())
    seen = {"pressure": Series(np.array([0, 1]), np.float32([5]), np.float32([180]))}
    before = what_if(observing, PATIENT, GIVEN["drug"], WITHOUT["drug"])
    after = what_if(observing, PATIENT, GIVEN["drug"], WITHOUT["drug"], observations=seen)
    one, other = (of(answer.differences, "pressure") for answer in (before, after))
    assert other.expected == pytest.approx(one.expected + 30)
    assert other.difference == pytest.approx(one.difference)
    assert after.simulated == ()


def test_a_twin_that_takes_no_observations_says_so(twin):
    with pytest.raises(GemelError) as caught:
        what_if(twin, PATIENT, GIVEN["drug"], WITHOUT["drug"], observations={})
    assert caught.value.code == "GEM604"


def test_another_value_of_a_feature_is_an_association_and_a_treatment_is_no_feature(hazards):
    answer = associate(hazards, PATIENT, {"pressure": 130.0})
    assert answer.difference.shape == (4, 2)
    with pytest.raises(GemelError) as caught:
        associate(hazards, PATIENT, {"drug": 1.0})
    assert caught.value.code == "GEM601"
    assert "plans" in caught.value.message
