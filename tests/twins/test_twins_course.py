"""Prediction, simulation, what-if and the range over models."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cardiometabolic import PROGRAMME
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.core.errors import GemelError
from gemel.twins.hazard import HazardTwin
from gemel.twins.hospital_range import predict_range
from gemel.twins.what_if import associate

PATIENT = np.array([64, 1, 34, 140, 45, 1, 1, 0, 0, 0, 0], dtype=float)


def test_without_any_effect_the_course_is_that_of_three_constant_clocks():
    prediction = HazardTwin(PROGRAMME).predict(PATIENT[None])
    years = np.arange(16)
    assert prediction.alive[0] == pytest.approx(np.exp(-0.01 * years), rel=1e-5)
    disease = 0.5 * (1 - np.exp(-0.02 * years))
    assert prediction.cumulative_incidence[0, :, 1] == pytest.approx(disease, rel=1e-5)


def test_one_year_with_unequal_hazards_is_the_closed_form(sick_twin):
    prediction = sick_twin.predict(PATIENT[None])
    death, heart, sugar = sick_twin.hazards_in_state(PATIENT[None], 0)[0, :, 0]
    expected = heart / (heart + death) * (1 - math.exp(-(heart + death)))
    assert prediction.cumulative_incidence[0, 1, 1] == pytest.approx(expected, rel=1e-9)
    both = math.exp(-death) * (1 - math.exp(-heart)) * (1 - math.exp(-sugar))
    assert prediction.state[0, 1, 3] == pytest.approx(both, rel=1e-9)


@st.composite
def patients(draw):
    values = [draw(st.floats(f.low, f.high)) for f in PROGRAMME.features]
    row = [float(round(v)) if f.high == 1 else v for v, f in zip(values, PROGRAMME.features, strict=True)]
    return np.array([[np.nan if draw(st.integers(0, 9)) == 0 else v for v in row]])


@st.composite
def twins(draw):
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    twin = HazardTwin(PROGRAMME)
    spread = draw(st.floats(0, 1.5))
    moved = {n: (a + spread * random.normal(size=a.shape)).astype("f4") for n, a in twin.to_arrays().items()}
    twin.load_arrays(moved)
    return twin


@settings(max_examples=60, deadline=None)
@given(twins(), patients())
def test_the_probabilities_of_every_course_are_coherent(twin, values):
    prediction = twin.predict(values)
    incidence = prediction.cumulative_incidence
    assert prediction.alive + incidence[:, :, 0] == pytest.approx(np.ones((1, 16)), abs=1e-9)
    assert (np.diff(incidence, axis=1) >= -1e-12).all()
    assert (incidence >= 0).all()
    assert (incidence <= 1 + 1e-9).all()
    assert not incidence[:, 0].any()
    for disease, bit in ((1, 1), (2, 2)):
        held = prediction.state[0][:, [s for s in range(4) if s & bit]].sum(axis=1)
        if prediction.prevalent[0, disease]:
            assert not incidence[0, :, disease].any()
            assert held == pytest.approx(prediction.alive[0])
        else:
            assert (held <= incidence[0, :, disease] + 1e-9).all()


def test_simulated_courses_have_the_predicted_probabilities(sick_twin):
    n = 20_000
    values = np.repeat(PATIENT[None], n, axis=0)
    course = sick_twin.simulate(values, seed=7)
    predicted = sick_twin.predict(PATIENT[None]).cumulative_incidence[0]
    for outcome in range(3):
        for years in (1, 5, 10, 15):
            seen = ((course.event[:, outcome] == 1) & (course.time_years[:, outcome] <= years)).mean()
            p = predicted[years, outcome]
            assert seen == pytest.approx(p, abs=4.5 * math.sqrt(p * (1 - p) / n))


def test_a_simulated_course_keeps_the_conventions_of_a_data_set(make_cohort):
    data = make_cohort(3000, seed=2, censored=False)
    death = data.time_years[:, 0]
    assert set(np.unique(data.event)) == {-1, 0, 1}
    assert (data.event[:, 0] >= 0).all()
    for j in (1, 2):
        time, event = data.time_years[:, j], data.event[:, j]
        assert (time[event == -1] == 0).all()
        assert (time[event == 0] == death[event == 0]).all()
        assert (time[event == 1] <= death[event == 1]).all()
    assert (death[data.event[:, 0] == 0] == 15).all()


def test_equal_seeds_give_equal_courses_and_others_do_not(sick_twin):
    values = np.repeat(PATIENT[None], 50, axis=0)
    one, same, other = (sick_twin.simulate(values, seed=s) for s in (1, 1, 2))
    assert np.array_equal(one.time_years, same.time_years)
    assert not np.array_equal(one.time_years, other.time_years)


def test_losing_weight_changes_the_course_as_the_twin_associates_it(sick_twin):
    answer = associate(sick_twin, PATIENT, {"body_mass_index_kg_m2": 34 * 0.9})
    assert answer.difference.shape == (16, 3)
    assert (answer.difference[1:, 2] < 0).all()
    again = associate(sick_twin, PATIENT, {"body_mass_index_kg_m2": 34.0})
    assert not again.difference.any()


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("body_mass_index_kg_m2", 9.0),
        ("body_mass_index_kg_m2", float("nan")),
        ("age_years", 50.0),
        ("male", 0.0),
        ("shoe_size", 44.0),
    ],
)
def test_a_change_outside_the_support_is_refused(sick_twin, change, value):
    with pytest.raises(GemelError) as caught:
        associate(sick_twin, PATIENT, {change: value})
    assert caught.value.code == "GEM601"


@pytest.mark.parametrize(("column", "value"), [(0, 12.0), (2, np.inf), (2, np.nan)])
def test_a_patient_outside_the_support_gets_no_what_if(sick_twin, column, value):
    odd = PATIENT.copy()
    odd[column] = value
    with pytest.raises(GemelError) as caught:
        associate(sick_twin, odd, {"body_mass_index_kg_m2": 30.0})
    assert caught.value.code == "GEM601"


def test_the_range_holds_every_model_and_is_reached_by_one(sick_twin):
    models = [sick_twin, HazardTwin(PROGRAMME)]
    spread = predict_range(models, PATIENT[None])
    each = np.stack([model.predict(PATIENT[None]).cumulative_incidence for model in models])
    assert (spread.low == each.min(axis=0)).all()
    assert (spread.high == each.max(axis=0)).all()


def test_a_range_needs_a_model():
    with pytest.raises(GemelError) as caught:
        predict_range([], PATIENT[None])
    assert caught.value.code == "GEM602"
