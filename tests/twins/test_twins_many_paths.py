"""Many futures at once: their law, their pairing under two plans, and what is kept of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cardiometabolic import PROGRAMME
from decay import Decay

from gemel.core.programme import DAYS_PER_YEAR
from gemel.twins.hazard import HazardTwin
from gemel.twins.many_paths import chain_courses, event_courses, many_paths, ode_courses
from gemel.twins.person_prior import person_prior
from gemel.twins.prediction import SimulatedCourse
from gemel.twins.solvers import observed_course, solve_ode, transition_matrices
from gemel.twins.treatment_plan import NOTHING_CHANGED, TreatmentPlan

PATIENTS = np.array(
    [
        [64, 1, 34, 140, 45, 1, 1, 0, 0, 0, 0],
        [50, 0, 24, np.nan, 60, 0, 0, 0, 0, 0, 0],
        [80, 0, 29, 150, np.nan, 0, 1, 0, 1, 0, 1],
    ],
    dtype=float,
)
TIMES = (0.0, 0.5, 1.0, 3.0)


def test_a_single_outcome_comes_as_its_hazards_say():
    hazards = np.array([[[[0.1, 0.4, 0.2]]]])
    time, event = event_courses(hazards, np.zeros((1, 1), bool), TIMES, seed=1, paths=200_000)
    gone = 1 - np.exp(-np.cumsum(hazards))
    for end, expected in zip(TIMES[1:], gone, strict=True):
        seen = ((event == 1) & (time <= end)).mean()
        assert seen == pytest.approx(expected, abs=4.5 * math.sqrt(expected / 200_000))
    assert (time[event == 0] == 3.0).all()
    # Within a step the clock is exponential: half of the events before the time by which half are expected.
    first = time[(event == 1) & (time <= 0.5)]
    half = -math.log(1 - (1 - math.exp(-0.1)) / 2) / 0.1 * 0.5
    assert (first < half).mean() == pytest.approx(0.5, abs=0.02)


def test_a_lower_hazard_only_ever_delays_the_same_event():
    high = np.full((2, 1, 1, 3), 0.5)
    low = high * np.array([0.7, 1.0])[:, None, None, None]
    prevalent = np.zeros((2, 1), bool)
    time, event = event_courses(high, prevalent, TIMES, seed=3, paths=1000)
    later, fewer = event_courses(low, prevalent, TIMES, seed=3, paths=1000)
    assert (later[:1000] >= time[:1000]).all()
    assert (fewer[:1000] <= event[:1000]).all()
    assert (later[:1000] > time[:1000]).any()
    assert np.array_equal(later[1000:], time[1000:])


def test_another_patient_changes_nobodys_future(sick_twin):
    together = sick_twin.simulate(PATIENTS, seed=4, paths=20)
    alone = sick_twin.simulate(PATIENTS[:1], seed=4, paths=20)
    assert np.array_equal(together.time_years[:20], alone.time_years)


def test_a_chains_paths_are_in_its_states_as_often_as_it_says():
    rates = torch.tensor([[[-0.3, 0.3, 0.0], [0.1, -0.3, 0.2], [0.0, 0.0, 0.0]]], dtype=torch.float64)
    years = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    moves = torch.stack([transition_matrices(rates, float(y)) for y in years], dim=1)
    start = torch.tensor([[1.0, 0.0, 0.0], [0.2, 0.5, 0.3]], dtype=torch.float64)
    course = chain_courses(moves, start, seed=2, paths=100_000).reshape(2, 100_000, 4)
    state = start
    for t in range(4):
        seen = np.stack([(course[:, :, t] == s).mean(1) for s in range(3)], axis=1)
        assert seen == pytest.approx(state.numpy(), abs=4.5 * 0.5 / math.sqrt(100_000))
        if t < 3:
            state = state @ moves[0, t]
    assert (np.diff(course, axis=2)[course[:, :, :-1] == 2] == 0).all()
    same = chain_courses(moves.expand(2, -1, -1, -1), start, seed=2, paths=100_000)
    assert np.array_equal(same.reshape(course.shape), course)


def test_chains_of_one_seed_under_two_rates_are_pairs():
    slow = torch.tensor([[[-0.3, 0.3], [0.0, 0.0]]])
    start = torch.tensor([[1.0, 0.0]])
    courses = [
        chain_courses(
            transition_matrices(slow * f, 1.0)[:, None].expand(-1, 8, -1, -1), start, seed=0, paths=500
        )
        for f in (1.0, 0.5, 1.0)
    ]
    assert np.array_equal(courses[0], courses[2])
    assert (courses[1] <= courses[0]).all()
    assert (courses[1] < courses[0]).any()


def test_the_paths_of_an_ode_are_persons_of_the_prior():
    physiology = Decay(rate_spread=0.4)
    prior = person_prior(physiology.parameters, 2, typical={"start": torch.tensor([8.0, 12.0])})
    courses, theta = ode_courses(physiology, prior, [0.0, 3.0, 9.0], seed=1, paths=4000)
    again = observed_course(physiology, theta, solve_ode(physiology, theta, [0.0, 3.0, 9.0]))
    assert torch.equal(courses["x"], again["x"])
    start = theta["start"].reshape(2, -1)
    assert start.mean(1).tolist() == pytest.approx([8.0, 12.0], abs=0.15)
    assert theta["rate"].log().std().item() == pytest.approx(0.4, rel=0.05)


def test_the_summary_is_that_of_all_paths(sick_twin):
    plans = (NOTHING_CHANGED, TreatmentPlan(name="the same"))
    one, two = many_paths(sick_twin, PATIENTS, plans, paths=5000, seed=1, threads=1)
    predicted = sick_twin.predict(PATIENTS).cumulative_incidence
    assert one.incidence == pytest.approx(predicted, abs=4.5 * 0.5 / math.sqrt(5000))
    assert one.by_path.mean(0) == pytest.approx(one.incidence.mean(0), abs=1e-6)
    assert np.array_equal(one.incidence, two.incidence)
    assert two.plan.name == "the same"


def test_chunks_and_threads_change_nothing_but_which_clocks_are_drawn(sick_twin, monkeypatch):
    monkeypatch.setattr("gemel.twins.many_paths.CHUNK", 100)
    single = many_paths(sick_twin, PATIENTS, [NOTHING_CHANGED], paths=100, seed=1, threads=1)[0]
    double = many_paths(sick_twin, PATIENTS, [NOTHING_CHANGED], paths=100, seed=1, threads=2)[0]
    assert np.array_equal(single.incidence, double.incidence)
    assert np.array_equal(single.by_path, double.by_path)
    # Patients of different chunks do not share their clocks.
    same = many_paths(sick_twin, PATIENTS[[0, 0]], [NOTHING_CHANGED], paths=100, seed=1)[0]
    assert not np.array_equal(same.incidence[0], same.incidence[1])


class Measured(HazardTwin):
    """A twin whose patients have a value, which the dead have not."""

    def simulate(self, values, *, seed, plan=NOTHING_CHANGED, paths=1):
        rows = len(values) * paths
        value = np.arange(rows, dtype=np.float32)
        value[::4] = np.nan
        value[: paths // 2] = np.nan
        times = np.stack([value, value + 1000], axis=1)
        event = np.zeros((rows, 3), np.int8)
        time = np.full((rows, 3), 15.0, np.float32)
        return SimulatedCourse(time, event, {"value": value}, {"course": times})


def test_mean_and_quantiles_are_numpys_over_those_who_live():
    found = many_paths(Measured(PROGRAMME), PATIENTS, [NOTHING_CHANGED], paths=40, seed=0)[0]
    drawn = Measured(PROGRAMME).simulate(PATIENTS, seed=0, paths=40).targets["value"].reshape(3, 40)
    expected = np.column_stack([np.nanmean(drawn, axis=1), *np.nanquantile(drawn, (0.05, 0.5, 0.95), axis=1)])
    assert found.targets["value"] == pytest.approx(expected, rel=1e-5)
    assert found.courses["course"].shape == (3, 2, 4)
    assert found.courses["course"][:, 1] == pytest.approx(expected + 1000, rel=1e-5)


def test_where_nobody_lives_there_is_no_value():
    found = many_paths(Measured(PROGRAMME), PATIENTS[:1], [NOTHING_CHANGED], paths=1, seed=0)[0]
    assert np.isnan(found.targets["value"]).all()


def test_a_day_of_the_grid_holds_what_came_on_it(sick_twin):
    class OnTheDay(HazardTwin):
        def simulate(self, values, *, seed, plan=NOTHING_CHANGED, paths=1):
            time = np.full((len(values) * paths, 3), np.float32(730.5 / DAYS_PER_YEAR))
            return SimulatedCourse(time, np.ones(time.shape, np.int8))

    found = many_paths(OnTheDay(PROGRAMME), PATIENTS, [NOTHING_CHANGED], paths=2, seed=0)[0]
    assert found.incidence[0, :, 1].tolist() == [0.0, 0.0, *[1.0] * 14]
