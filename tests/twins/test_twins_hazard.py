"""The likelihood and the parameters of the hazard twin."""

from __future__ import annotations

import math

import lifelines
import numpy as np
import pytest
import torch
from cardiometabolic import PROGRAMME
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.func import functional_call, grad, vmap

from gemel.core.arrays import ArraySpec
from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.programme import CohortDefinition, Outcome, OutcomeKind, Programme
from gemel.twins.baselines import fit_without_privacy
from gemel.twins.hazard import HazardTwin

RATE = 0.01


def dataset(values, time, event, programme=PROGRAMME):
    time = np.atleast_2d(np.asarray(time, dtype=np.float32))
    return Dataset(
        programme.name,
        programme.version,
        programme.feature_names,
        programme.outcome_names,
        tuple(f"{i:064x}" for i in range(len(time))),
        np.asarray(values, dtype=np.float32).reshape(len(time), -1),
        time,
        np.atleast_2d(np.asarray(event, dtype=np.int8)),
    )


def patient(time, event):
    values = [[62, 1, 30, np.nan, 50, 1, 0, 0, 0, 0, 0]]
    return dataset(values, time, event)


def loss(twin, data):
    return float(twin(twin.tensors(data)).sum().detach())


def test_the_loss_of_one_patient_is_the_one_worked_out_by_hand():
    # Alive when follow-up ended at 2.5 years; a cardiovascular event at 1.3; diabetes from before.
    data = patient([2.5, 1.3, 0.0], [0, 1, -1])
    by_hand = RATE * 2.5 + RATE * 1 - math.log(1 - math.exp(-RATE))
    assert loss(HazardTwin(PROGRAMME), data) == pytest.approx(by_hand, rel=1e-5)


def test_a_disease_acts_on_the_hazard_of_death_from_the_year_after_it_began():
    twin = HazardTwin(PROGRAMME)
    with torch.no_grad():
        twin.couplings[0, 0] = 0.7
    data = patient([2.5, 1.3, 2.5], [0, 1, 0])
    death = RATE * 2 + RATE * math.exp(0.7) * 0.5
    cardiovascular = RATE * 1 - math.log(1 - math.exp(-RATE))
    assert loss(twin, data) == pytest.approx(death + cardiovascular + RATE * 2.5, rel=1e-5)


def test_a_disease_from_before_acts_from_the_first_year():
    twin = HazardTwin(PROGRAMME)
    with torch.no_grad():
        twin.couplings[0, 1] = 0.7
    data = patient([1.0, 1.0, 0.0], [0, 0, -1])
    assert loss(twin, data) == pytest.approx(RATE * math.exp(0.7) + RATE, rel=1e-5)


@pytest.mark.parametrize(("time", "year"), [(0.0, 0), (0.4, 0), (1.0, 0), (1.01, 1), (15.0, 14)])
def test_an_event_falls_in_the_year_that_holds_or_ends_at_its_time(time, year):
    event = HazardTwin(PROGRAMME).tensors(patient([time, 0, 0], [1, -1, -1]))["event"][0, 0]
    assert event.nonzero().flatten().tolist() == [year]


def test_what_happens_past_the_horizon_is_not_seen():
    twin = HazardTwin(PROGRAMME)
    late, none = patient([16.2] * 3, [1, 0, 0]), patient([15.0] * 3, [0, 0, 0])
    assert loss(twin, late) == pytest.approx(loss(twin, none))


def test_a_patient_is_not_at_risk_of_an_outcome_it_had_before():
    tensors = HazardTwin(PROGRAMME).tensors(patient([4.0, 0.0, 4.0], [0, -1, 0]))
    assert tensors["exposure"][0, 1].sum() == 0
    assert tensors["event"][0, 1].sum() == 0
    assert tensors["diseases"][0, :, 0].tolist() == [1.0] * 15


def test_fitted_hazards_equal_kaplan_meier_when_one_outcome_has_no_features():
    # Three years, three time parameters: the model is saturated, so it must give the life table.
    death = Outcome(name="death", title="Death", kind=OutcomeKind.DEATH)
    cohort = CohortDefinition(minimum_age_years=18, maximum_age_years=100, minimum_follow_up_days=1)
    bare = Programme(
        name="bare",
        version="1",
        title="",
        question="",
        cohort=cohort,
        concepts=(),
        features=(),
        outcomes=(death,),
        horizon_years=3,
    )
    random = np.random.default_rng(5)
    died = random.exponential(4, 800)
    left = random.integers(1, 5, 800)
    time, event = np.minimum(died, left), (died <= left).astype(int)
    data = dataset(np.zeros((800, 0)), time[:, None], event[:, None], bare)
    twin = HazardTwin(bare)
    batch = twin.tensors(data)
    optimiser = torch.optim.LBFGS(twin.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def step():
        optimiser.zero_grad()
        total = twin(batch).mean()
        total.backward()
        return total

    optimiser.step(step)
    survival = twin.predict(np.zeros((1, 0))).alive[0]
    oracle = lifelines.KaplanMeierFitter().fit(time, event).predict([1, 2, 3]).to_numpy()
    assert survival[1:] == pytest.approx(oracle, abs=2e-3)


def test_irregular_censoring_costs_the_fit_nothing(make_cohort, sick_twin):
    data = make_cohort(6000, seed=11)
    fitted = fit_without_privacy(HazardTwin(PROGRAMME), data)
    mine = fitted.predict(data.values).cumulative_incidence[:, 10].mean(axis=0)
    truth = sick_twin.predict(data.values).cumulative_incidence[:, 10].mean(axis=0)
    assert mine == pytest.approx(truth, abs=0.015)


def gradients(twin, tensors):
    parameters = {name: value.detach() for name, value in twin.named_parameters()}

    def one(parameters, patient):
        batch = {name: value[None] for name, value in patient.items()}
        return functional_call(twin, parameters, (batch,))[0]

    return vmap(grad(one), in_dims=(None, 0))(parameters, tensors)


def test_patients_gradients_are_each_their_own_and_sum_to_that_of_the_batch(make_cohort, sick_twin):
    tensors = sick_twin.tensors(make_cohort(40, seed=3))
    apart = gradients(sick_twin, tensors)
    together = torch.autograd.grad(sick_twin(tensors).sum(), list(sick_twin.parameters()))
    for (name, _), whole in zip(sick_twin.named_parameters(), together, strict=True):
        torch.testing.assert_close(apart[name].sum(0), whole, rtol=1e-3, atol=1e-3)
    fewer = gradients(sick_twin, {name: value[1:] for name, value in tensors.items()})
    torch.testing.assert_close(fewer["weights"], apart["weights"][1:])


numbers = st.floats(width=32, allow_nan=True, allow_infinity=True)


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, (1, 11), elements=numbers), st.floats(0, 200), st.floats(0, 200))
def test_loss_and_gradient_are_finite_whatever_the_values(values, until, onset):
    twin = HazardTwin(PROGRAMME)
    with torch.no_grad():
        twin.weights.fill_(50.0)
        twin.level.fill_(-50.0)
    onset = min(onset, until)
    tensors = twin.tensors(dataset(values, [[until, onset, 0.0]], [[1, 1, -1]]))
    assert torch.isfinite(twin(tensors)).all()
    assert all(torch.isfinite(g).all() for g in gradients(twin, tensors).values())
    assert np.isfinite(twin.predict(values).cumulative_incidence).all()


def test_the_arrays_that_travel_are_these():
    assert HazardTwin(PROGRAMME).array_specs() == {
        "couplings": ArraySpec((3, 2), "float32"),
        "level": ArraySpec((3,), "float32"),
        "slopes": ArraySpec((3, 3), "float32"),
        "weights": ArraySpec((3, 18), "float32"),
    }


def test_the_design_columns_are_these():
    design = HazardTwin(PROGRAMME).design
    assert design.names[11:] == (
        "body_mass_index_kg_m2:missing",
        "systolic_blood_pressure_mmhg:missing",
        "hdl_cholesterol_mg_dl:missing",
        "age:squared",
        "age:male",
        "age:diabetes_history",
        "age:cardiovascular_history",
    )
    assert design.history == (None, 10, 8)
    unused = [[name for name, u in zip(design.names, row, strict=True) if not u] for row in design.usable]
    assert unused == [
        [],
        ["cardiovascular_history", "age:cardiovascular_history"],
        ["diabetes_history", "age:diabetes_history"],
    ]


def test_a_twin_starts_at_public_constants():
    arrays = HazardTwin(PROGRAMME).to_arrays()
    assert np.allclose(np.exp(arrays["level"]), RATE)
    assert not any(arrays[name].any() for name in ("slopes", "weights", "couplings"))


def test_arrays_go_out_and_in_unchanged(sick_twin):
    other = HazardTwin(PROGRAMME)
    other.load_arrays(sick_twin.to_arrays())
    assert all(np.array_equal(a, sick_twin.to_arrays()[name]) for name, a in other.to_arrays().items())


@pytest.mark.parametrize("fault", ["missing", "shape", "dtype", "nan"])
def test_arrays_that_do_not_fit_are_refused_and_change_nothing(fault):
    twin = HazardTwin(PROGRAMME)
    arrays = {name: value + 1 for name, value in twin.to_arrays().items()}
    if fault == "missing":
        del arrays["weights"]
    elif fault == "shape":
        arrays["weights"] = arrays["weights"][:, :-1]
    elif fault == "dtype":
        arrays["weights"] = arrays["weights"].astype(np.float64)
    else:
        arrays["weights"][0, 0] = np.nan
    with pytest.raises(GemelError) as caught:
        twin.load_arrays(arrays)
    assert caught.value.code == "GEM602"
    assert not twin.to_arrays()["slopes"].any()
