"""Recovery, tissue and haematoma: the equations against their solutions, and what they may never do."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.twins.programmes.stroke import haematoma, recovery, tissue
from gemel.twins.programmes.stroke.tissue import Shape, Tissue, core_volume, flow_under
from gemel.twins.solvers import planned_inputs, solve_ode
from gemel.twins.treatment_plan import TreatmentPlan

THROMBECTOMY = TreatmentPlan.always({"thrombectomy": 1.0})
NOTHING = TreatmentPlan.always({"thrombectomy": 0.0})


def persons(parameters, **changed):
    theta = {p.name: torch.tensor([p.value], dtype=torch.float64) for p in parameters}
    return theta | {name: torch.tensor(value, dtype=torch.float64) for name, value in changed.items()}


def test_recovery_solves_its_equation():
    theta = persons(recovery.PARAMETERS, impairment_0=[3.0, 12.0, 30.0])
    theta = {name: value.expand(3) for name, value in theta.items()}
    days = [0.0, 10.0, 60.0, 183.0]
    solved = solve_ode(recovery.Recovery(), theta, days)[:, :, 0]
    closed = recovery.impairment(theta, torch.tensor(days, dtype=torch.float64))
    torch.testing.assert_close(solved, closed, atol=1e-4, rtol=1e-4)


def test_severe_strokes_recover_a_smaller_share():
    theta = persons(recovery.PARAMETERS, impairment_0=[4.0, 14.0, 30.0])
    theta = {name: value.expand(3) for name, value in theta.items()}
    share = recovery.lost_share(theta)
    assert (share.diff() < 0).all()
    assert 0.65 < share[0] < 0.7  # the proportional rule, in the mild
    assert 0.45 < share[2] < 0.55  # a third of the severe do not follow it


@pytest.mark.parametrize("shape", Shape)
@pytest.mark.parametrize("plan", [NOTHING, THROMBECTOMY])
def test_the_core_solves_its_equation_with_and_without_treatment(shape, plan):
    theta = persons(tissue.PARAMETERS, growth_per_h=[0.05])
    model = Tissue(shape)
    days = [0.0, 0.1, 0.5, 1.0, 2.0]
    solved = solve_ode(model, theta, days, inputs=planned_inputs(model.inputs, plan))
    given_it = {"thrombectomy": torch.tensor([plan.start_amount("thrombectomy")])}
    flow = flow_under(theta, given_it)
    closed = [core_volume(shape, theta, theta["onset_hours"] + 24 * day, flow) for day in days]
    torch.testing.assert_close(solved[0, :, 0], torch.cat(closed), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(solved.sum(dim=2), theta["hypoperfused_ml"].expand(1, 5), atol=1e-6, rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(
    st.floats(1e-4, 1.0),
    st.floats(5.0, 400.0),
    st.floats(0.0, 1.0),
    st.floats(0.2, 24.0),
    st.floats(0.0, 48.0),
    st.sampled_from(list(Shape)),
)
def test_treatment_never_loses_tissue_and_the_core_stays_within_what_is_hypoperfused(
    rate, volume, collateral, onset, later, shape
):
    theta = persons(
        tissue.PARAMETERS,
        growth_per_h=[rate],
        hypoperfused_ml=[volume],
        collateral=[collateral],
        onset_hours=[onset],
    )
    hours = theta["onset_hours"] + later
    untreated = core_volume(shape, theta, hours)
    treated = core_volume(shape, theta, hours, flow_under(theta, {"thrombectomy": torch.ones(1)}))
    lysed = core_volume(shape, theta, hours, flow_under(theta, {"thrombolysis": torch.ones(1)}))
    assert 0 <= treated <= lysed + 1e-9 <= untreated + 2e-9 <= volume + 3e-9


def test_all_shapes_agree_when_growth_is_measured():
    theta = persons(tissue.PARAMETERS, onset_hours=[48.0])
    cores = [float(core_volume(shape, theta, torch.tensor([4.0], dtype=torch.float64))) for shape in Shape]
    np.testing.assert_allclose(cores, cores[0], rtol=1e-6)
    late = {s: float(core_volume(s, theta, torch.tensor([20.0], dtype=torch.float64))) for s in Shape}
    assert late[Shape.LOGARITHMIC] < late[Shape.SATURATING] < late[Shape.EXPONENTIAL]


def test_good_collaterals_slow_the_core():
    poor, good = (persons(tissue.PARAMETERS, collateral=[c], onset_hours=[48.0]) for c in (0.0, 1.0))
    at = torch.tensor([6.0], dtype=torch.float64)
    assert core_volume(Shape.SATURATING, good, at) < 0.4 * core_volume(Shape.SATURATING, poor, at)


def test_a_haematoma_solves_its_equation_and_stops():
    theta = persons(haematoma.PARAMETERS)
    days = [0.0, 1 / 24, 20 / 24, 2.0]
    solved = solve_ode(haematoma.Haematoma(), theta, days)[0, :, 0]
    closed = [15.0 * (1 + float(haematoma.grown_share(theta, 24 * day))) for day in days]
    np.testing.assert_allclose(solved.numpy(), closed, rtol=1e-5)
    assert abs(float(solved[-1]) - 15.0 * 1.21) < 1e-3
