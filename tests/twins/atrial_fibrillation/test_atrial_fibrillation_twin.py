"""Rhythm, clots and drugs: what the twin of atrial fibrillation does with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from gemel.core.errors import GemelError
from gemel.twins.programmes.atrial_fibrillation import PROGRAMME, rhythm
from gemel.twins.programmes.atrial_fibrillation.definition import DEFINITION
from gemel.twins.programmes.atrial_fibrillation.twin import AtrialFibrillationTwin
from gemel.twins.solvers import planned_inputs, solve_chain
from gemel.twins.treatment_plan import NOTHING_CHANGED, Dose, TreatmentPlan

YEAR = PROGRAMME.step_at(365)
STROKE = PROGRAMME.outcome_names.index("stroke")


@pytest.fixture
def twin():
    return AtrialFibrillationTwin(PROGRAMME)


@pytest.fixture
def patient():
    return np.array([[DEFINITION.example.values[name] for name in PROGRAMME.feature_names]])


def risk(twin, values, plan=NOTHING_CHANGED):
    return float(twin.predict(values, plan=plan).cumulative_incidence[0, YEAR, STROKE])


def test_the_chain_stays_at_its_burden_and_forgets_where_it_was():
    theta = {"burden": torch.tensor([0.2]), "episode_days": torch.tensor([2.0])}
    none = {"rhythm_control": torch.zeros(1)}
    chain = rhythm.RhythmChain()
    untreated = planned_inputs(chain.inputs, NOTHING_CHANGED)
    assert chain.rates(none, theta)[0].sum(dim=1).abs().max() < 1e-4
    assert torch.allclose(
        solve_chain(chain, theta, [0.0, 30.0], inputs=untreated)[0, -1, 1], torch.tensor(0.2), atol=1e-6
    )
    from_sinus = solve_chain(
        chain, theta, [0.0, 1.0, 60.0], inputs=untreated, start=torch.tensor([[1.0, 0.0]])
    )[0, :, 1]
    # p(t) = B (1 - exp(-(on + off) t)), with off = 1/2 and on = off B / (1 - B) per day.
    assert float(from_sinus[1]) == pytest.approx(0.2 * (1 - np.exp(-(0.5 + 0.125))), abs=1e-5)
    assert float(from_sinus[2]) == pytest.approx(0.2, abs=1e-5)


def test_rhythm_control_takes_its_share_of_the_burden_away():
    theta = {"burden": torch.tensor([0.3]), "episode_days": torch.tensor([1.0])}
    rates = rhythm.RhythmChain().rates({"rhythm_control": torch.tensor([0.5])}, theta)[0]
    assert float(rates[0, 1] / (rates[0, 1] + rates[1, 0])) == pytest.approx(0.15)


def test_clots_follow_the_equation_as_another_solver_solves_it(twin):
    plan = TreatmentPlan(doses=(Dose(treatment="rhythm_control", amount=0.8, from_days=100.0),))
    days = [0.0, 50.0, 120.0, 200.0]
    courses, _ = twin.clot_courses(days, plan)
    burden = rhythm.burdens(len(courses))[0][30]

    def slope(day, state):
        b = burden * (0.2 if day >= 100 else 1.0)
        return (b**2 / (b**2 + rhythm.HALF_BURDEN.value**2) - state) / rhythm.CLOT_DAYS.value

    start = burden**2 / (burden**2 + rhythm.HALF_BURDEN.value**2)
    solved = solve_ivp(slope, (0, 200), [start], t_eval=days, max_step=1.0, rtol=1e-9).y[0]
    assert courses[30] == pytest.approx(solved, abs=2e-4)


def test_less_burden_means_less_stroke_later_and_not_at_once(twin, patient):
    control = TreatmentPlan.always({"rhythm_control": 0.9})
    assert risk(twin, patient, control) < risk(twin, patient)
    usual = twin.hazards_in_state(patient, 0)[0, STROKE]
    less = twin.hazards_in_state(patient, 0, control)[0, STROKE] / usual
    assert less[0] > less[2] > less[-1]


def test_no_anticoagulant_acts_on_death_or_on_who_gets_it_in_the_data(twin, patient):
    column = twin.design.names.index("warfarin")
    with torch.no_grad():
        twin.weights[:, column] = 5.0  # whatever was learned of the column
    warfarin = TreatmentPlan.always({"warfarin": 1.0})
    first, second = (
        twin.predict(patient, plan=p).cumulative_incidence[0, YEAR] for p in (NOTHING_CHANGED, warfarin)
    )
    assert second[0] == pytest.approx(first[0])
    assert second[STROKE] / first[STROKE] == pytest.approx(0.36, abs=0.01)


def test_an_anticoagulant_makes_bleeding_likelier_and_a_direct_one_less_so(twin, patient):
    none, warfarin, direct = (
        float(twin.predict(patient, plan=plan).targets["major_bleeding_1y"][0])
        for plan in (
            NOTHING_CHANGED,
            TreatmentPlan.always({"warfarin": 1.0}),
            TreatmentPlan.always({"direct_anticoagulant": 1.0}),
        )
    )
    assert none < direct < warfarin


def test_an_anticoagulant_that_starts_later_is_refused(twin, patient):
    later = TreatmentPlan(doses=(Dose(treatment="warfarin", amount=1.0, from_days=30.0),))
    with pytest.raises(GemelError, match="GEM603"):
        twin.predict(patient, plan=later)


def test_a_previous_stroke_raises_the_risk_of_the_next(twin, patient):
    before = patient.copy()
    before[0, PROGRAMME.feature_names.index("stroke_history")] = 1.0
    assert risk(twin, before) > risk(twin, patient)
    assert not twin.predict(before).prevalent[0, STROKE]


def test_as_many_futures_hold_a_bleeding_as_is_foretold_and_they_are_pairs(twin, patient):
    many = np.repeat(patient, 20_000, axis=0)
    warfarin = TreatmentPlan.always({"warfarin": 1.0})
    none, given = (
        twin.simulate(many, seed=3, plan=plan).targets["major_bleeding_1y"]
        for plan in (NOTHING_CHANGED, warfarin)
    )
    told = twin.predict(patient, plan=warfarin).targets["major_bleeding_1y"][0]
    assert given.mean() == pytest.approx(told, abs=4 * np.sqrt(told / len(many)))
    assert (given >= none).all()
