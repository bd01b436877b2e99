"""The published models give their published numbers, and the closed forms are the ODE."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp
from scipy.stats import gamma

from gemel.twins.claims import Verdict, check_claims
from gemel.twins.programmes.type_2_diabetes import published_models as published
from gemel.twins.programmes.type_2_diabetes.claims import CLAIMS
from gemel.twins.programmes.type_2_diabetes.drug_classes import CLASSES
from gemel.twins.programmes.type_2_diabetes.physiology import (
    DiabetesPhysiology,
    Pieces,
    courses,
    days_needed,
    diet_part,
    resting_product,
    typical,
)
from gemel.twins.solvers import Inputs, observed_course, solve_ode

DAYS = np.array([7.0, 28.0, 91.0, 182.0, 365.0, 700.0])


@pytest.mark.parametrize("checked", check_claims(CLAIMS), ids=lambda checked: checked.claim.name)
def test_every_claim_holds(checked):
    assert checked.verdict is Verdict.HOLDS, checked.computed


@given(st.floats(4.0, 25.0))
def test_the_product_that_makes_a_glucose_makes_it(glucose):
    at = torch.tensor([glucose], dtype=torch.float64)
    product = published.sensitivity_times_function(at)
    assert float(published.fasting_glucose(product, torch.ones_like(product))) == pytest.approx(glucose)


def test_topp_leaves_the_stable_point_only_to_come_back_and_the_saddle_for_good():
    def after(state, days):
        found = solve_ivp(
            lambda _, y: published.topp_derivative(y), (0, days), state, method="LSODA", rtol=1e-9, atol=1e-9
        )
        return found.y[:, -1]

    stable, saddle = published.topp_fixed_point(105.0), published.topp_fixed_point(245.0)
    assert after(stable * [1.0, 1.0, 1.05], 2000) == pytest.approx(stable, rel=1e-3)
    assert after(saddle * [1.0, 1.0, 0.95], 400)[2] < 0.5 * saddle[2]


def test_topps_derivatives_are_those_of_his_equations():
    state = np.array([130.0, 7.0, 210.0])
    steps = np.eye(3) * state * 1e-6
    slopes = [
        (published.topp_derivative(state + h) - published.topp_derivative(state - h)) / (2 * h.sum())
        for h in steps
    ]
    assert published.topp_jacobian(state) == pytest.approx(np.array(slopes).T, rel=1e-5)


def test_hba1c_remembers_as_three_compartments_in_a_row_do():
    rate = 3 / published.HBA1C_TRANSIT.value
    pieces = Pieces.to(365.0)
    memory = pieces.memory(np.array([100.0]))[0]
    left = quad(lambda t: sum(gamma.sf(t, j, scale=1 / rate) - gamma.sf(t, j - 1, scale=1 / rate) if j > 1 else
                              gamma.sf(t, 1, scale=1 / rate) for j in (1, 2, 3)), 100, 2000)[0]  # fmt: skip
    assert memory[0] == pytest.approx(left, rel=1e-6)
    assert memory.sum() == pytest.approx(published.HBA1C_TRANSIT.value)
    assert (memory[1:][pieces.edges[:-1] >= 100] == 0).all()


def person(hba1c=8.6, **others):
    theta = typical()
    product = resting_product(torch.tensor([hba1c], dtype=torch.float64))
    theta["beta_cell_function"] = product / theta["insulin_sensitivity"]
    return theta | {name: torch.tensor([value], dtype=torch.float64) for name, value in others.items()}


def by_ode(theta, given, diet=0.0):
    amounts = {one.name: given[:, [i]] for i, one in enumerate(CLASSES)}
    inputs = Inputs(amounts=amounts | {"diet": torch.full((1, 1), diet, dtype=torch.float64)})
    physiology = DiabetesPhysiology()
    states = solve_ode(physiology, theta, (0.0, *DAYS), inputs=inputs, step_days=3.5)
    return {
        name: course[0, 1:].numpy() for name, course in observed_course(physiology, theta, states).items()
    }


@pytest.mark.parametrize("number", range(len(CLASSES)))
@pytest.mark.parametrize(
    ("hba1c", "response", "lifestyle", "drift", "diet"),
    [(8.6, 1.0, 0.0, 0.0, False), (6.8, 0.4, -0.3, 3.0, True), (12.0, 1.8, 0.3, -4.0, True)],
)
def test_the_closed_forms_are_the_ode(number, hba1c, response, lifestyle, drift, diet):
    theta = person(hba1c, response=response, lifestyle=lifestyle, weight_drift=drift, fade_per_year=0.2)
    given = torch.eye(len(CLASSES), dtype=torch.float64)[[number]]
    part = torch.from_numpy(diet_part(np.ones(701) * diet, days_needed(DAYS)))[None]
    closed, stepped = courses(theta, given, DAYS, diet=part), by_ode(theta, given, float(diet))
    assert closed.hba1c_percent[0].numpy() == pytest.approx(stepped["hba1c"], abs=0.06)
    scored = np.isin(DAYS, (182.0, 365.0))
    assert closed.hba1c_percent[0].numpy()[scored] == pytest.approx(stepped["hba1c"][scored], abs=0.012)
    # The diet's second part sets in within a step.
    assert closed.weight_kg[0].numpy() == pytest.approx(stepped["body_weight"], abs=0.03)


def test_an_sglt2_inhibitor_does_less_for_a_failing_kidney_and_more_at_a_high_glucose():
    given = torch.eye(len(CLASSES), dtype=torch.float64)[[2]]
    nothing = torch.zeros_like(given)

    def fall(**theta):
        both = [courses(person(**theta), g, np.array([182.0])).hba1c_percent for g in (given, nothing)]
        return float(both[1] - both[0])

    assert 0 < fall(filtration=0.4) < 0.6 * fall(filtration=1.0)
    assert fall(hba1c=10.0) > 1.3 * fall(hba1c=8.0)


def test_nothing_happens_to_a_person_whose_function_stays_and_who_takes_nothing():
    theta = person(beta_cell_decline=0.0)
    found = courses(theta, torch.zeros(1, len(CLASSES), dtype=torch.float64), DAYS)
    assert found.hba1c_percent[0].numpy() == pytest.approx(8.6, abs=1e-9)
    assert found.weight_kg[0].numpy() == pytest.approx(float(theta["body_weight"]))


def test_beyond_what_whig_saw_the_person_stays():
    found = courses(
        person(), torch.zeros(1, len(CLASSES), dtype=torch.float64), np.array([365.0, 1000.0, 3652.0])
    )
    hba1c = found.hba1c_percent[0]
    assert hba1c[1] > hba1c[0] + 0.02
    assert float(hba1c[2]) == pytest.approx(float(hba1c[1]), abs=1e-3)
