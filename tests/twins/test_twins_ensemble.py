"""Ensemble Kalman and particle filter, against the Kalman filter and conjugate normals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from decay import Decay, series
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.core.errors import GemelError
from gemel.twins.assimilation import (
    EnsembleKalmanFilter,
    MaximumAPosteriori,
    MeasurementError,
    ParticleFilter,
    measurements_of,
    ode_log_likelihood,
)
from gemel.twins.assimilation.particle import systematic
from gemel.twins.person_prior import person_prior
from gemel.twins.solvers import Jump

ERROR = {"x": MeasurementError(0.5)}
PROCESS = {"x": 0.3}
RUN = [(0.0, 11.5), (2.0, 9.0), (3.0, 9.2), (7.0, 5.0)]
DAYS = (0.0, 5.0, 10.0)
DECAY = Decay()


def kalman(run, days, spread=2.0, rate=0.1):
    """Mean and variance on `days` by what was seen until then, in closed form; noise enters on every day of either."""
    mean, variance, before, found = 10.0, spread**2, 0.0, []
    for day in sorted({*days, *(day for day, _ in run)}):
        decay = np.exp(-rate * (day - before))
        mean, variance = mean * decay, variance * decay**2 + PROCESS["x"] ** 2 * (day - before)
        for _, value in (pair for pair in run if pair[0] == day):
            gain = variance / (variance + 0.25)
            mean, variance = mean + gain * (np.float32(value) - mean), variance * (1 - gain)
        if day in days:
            found.append((mean, variance**0.5))
        before = day
    return np.array(found)


def smoothed(run, days, spread=2.0, rate=0.1):
    """Mean and deviation on `days` by all that was seen: the joint normal of all days, conditioned."""
    every = sorted({0.0, *days, *(day for day, _ in run)})
    covariance = np.zeros((len(every), len(every)))
    variance, before = spread**2, 0.0
    for i, day in enumerate(every):
        variance = variance * np.exp(-2 * rate * (day - before)) + PROCESS["x"] ** 2 * (day - before)
        before = day
        for j in range(i, len(every)):
            covariance[i, j] = covariance[j, i] = variance * np.exp(-rate * (every[j] - day))
    mean = 10 * np.exp(-rate * np.array(every))
    seen = [every.index(day) for day, _ in run]
    wanted = [every.index(day) for day in days]
    inner = covariance[np.ix_(seen, seen)] + 0.25 * np.eye(len(seen))
    gain = covariance[np.ix_(wanted, seen)] @ np.linalg.inv(inner)
    surprise = np.array([np.float32(value) for _, value in run]) - mean[seen]
    left = covariance[np.ix_(wanted, wanted)] - gain @ covariance[np.ix_(seen, wanted)]
    return np.stack([mean[wanted] + gain @ surprise, np.sqrt(np.diag(left))], axis=1)


def run_filter(kind, runs=(RUN,), days=DAYS, physiology=DECAY, **settings_):
    filter_ = kind(physiology, ERROR, days, process_deviation=PROCESS, **settings_)
    prior = person_prior(physiology.parameters, len(runs))
    return filter_(prior, measurements_of({"x": series(*runs)}, ("x",), persons=len(runs)))


@pytest.mark.parametrize(
    ("kind", "size", "tolerance"), [(EnsembleKalmanFilter, 20_000, 0.02), (ParticleFilter, 100_000, 0.03)]
)
def test_on_a_linear_twin_the_filters_come_to_kalmans_answer(kind, size, tolerance):
    assert smoothed(RUN, DAYS)[2] == pytest.approx(kalman(RUN, DAYS)[2])
    found = run_filter(kind, members=size, **({"discount": 1.0} if kind is ParticleFilter else {}))
    mean, deviation = found.moments(found.course[..., 0])
    exact = smoothed(RUN, DAYS)
    assert mean[0] == pytest.approx(exact[:, 0], abs=tolerance)
    assert deviation[0] == pytest.approx(exact[:, 1], abs=tolerance)


@pytest.mark.parametrize("kind", [EnsembleKalmanFilter, ParticleFilter])
def test_more_members_come_nearer(kind):
    exact = smoothed(RUN, DAYS)[:, 0]

    def error(size):
        means = [run_filter(kind, members=size, seed=s).moments for s in range(8)]
        courses = [run_filter(kind, members=size, seed=s).course[..., 0] for s in range(8)]
        away = [of(course)[0][0] - exact for of, course in zip(means, courses, strict=True)]
        return np.sqrt(np.mean(np.square(away)))

    assert error(3200) < 0.5 * error(50)


@pytest.mark.parametrize("kind", [EnsembleKalmanFilter, ParticleFilter])
def test_a_start_is_learned_as_from_conjugate_normals(kind):
    run = [(0.0, 12.0), (0.0, 13.0), (0.0, 12.2)]
    filter_ = kind(DECAY, ERROR, (0.0,), members=20_000)
    found = filter_(person_prior(DECAY.parameters, 1), measurements_of({"x": series(run)}, ("x",), persons=1))
    precision = 1 / 4 + 3 / 0.25
    mean, deviation = found.parameters["start"]
    assert mean[0] == pytest.approx((10 / 4 + 37.2 / 0.25) / precision, abs=0.02)
    assert deviation[0] == pytest.approx(precision**-0.5, rel=0.08)
    drawn = found.draw(4000, seed=1)["start"]
    assert drawn.mean().item() == pytest.approx(mean[0], abs=0.03)


def test_a_rate_is_learned_about_as_well_as_by_maximum_a_posteriori():
    physiology = Decay(rate_spread=0.5)
    run = [(float(d), 11 * np.exp(-0.17 * d)) for d in range(0, 13, 2)]
    prior = person_prior(physiology.parameters, 1)
    measured = measurements_of({"x": series(run)}, ("x",), persons=1)
    errors = {"x": MeasurementError(0.3)}
    best = MaximumAPosteriori(ode_log_likelihood(physiology, errors))(prior, measured).parameters["rate"]
    assert best[0][0] == pytest.approx(0.17, abs=0.01)
    for kind, size in ((EnsembleKalmanFilter, 2000), (ParticleFilter, 20_000)):
        mean, deviation = kind(physiology, errors, (0.0,), members=size)(prior, measured).parameters["rate"]
        assert mean[0] == pytest.approx(best[0][0], abs=0.01)
        assert deviation[0] == pytest.approx(best[1][0], rel=0.35)


@pytest.mark.parametrize("kind", [EnsembleKalmanFilter, ParticleFilter])
def test_without_observations_the_members_are_the_priors(kind):
    found = run_filter(kind, runs=([], RUN), members=4000)
    mean, deviation = found.parameters["start"]
    assert mean[0] == pytest.approx(10, abs=0.1)
    assert deviation[0] == pytest.approx(2, rel=0.05)
    assert found.effective_members[0] == pytest.approx(4000)


@pytest.mark.parametrize("kind", [EnsembleKalmanFilter, ParticleFilter])
def test_a_patients_result_depends_on_the_seed_and_on_that_patient_alone(kind):
    other = [(1.0, 3.0), (2.0, 8.0), (6.5, 7.0)]
    together = run_filter(kind, runs=(other, RUN, []), members=300)
    alone = run_filter(kind, runs=(RUN,), members=300)
    assert together.course[1] == pytest.approx(alone.course[0], abs=1e-4)
    assert torch.equal(run_filter(kind, members=300).course, alone.course)
    assert not torch.equal(run_filter(kind, members=300, seed=1).course, alone.course)


def test_inflation_widens_and_trusts_the_observation_more():
    plain, wide = (run_filter(EnsembleKalmanFilter, members=2000, inflation=i) for i in (1.0, 1.5))
    last = [found.moments(found.course[:, :, -1, 0]) for found in (plain, wide)]
    assert last[1][1][0] > last[0][1][0]
    assert abs(last[1][0][0] - last[0][0][0]) > 0.01


@pytest.mark.parametrize("kind", [EnsembleKalmanFilter, ParticleFilter])
def test_a_jump_is_taken_once(kind):
    found = run_filter(
        kind, runs=([],), days=(0.0, 4.0, 8.0), members=2000, jumps=(Jump(4.0, lambda state: state + 5),)
    )
    mean, _ = found.moments(found.course[..., 0])
    after = 10 * np.exp(-0.4) + 5
    assert mean[0] == pytest.approx([10, after, after * np.exp(-0.4)], abs=0.1)


def test_a_state_that_is_no_number_is_refused():
    class Broken(Decay):
        def observe(self, state, theta):
            return {"x": torch.log(-state[:, 0])}

    with pytest.raises(GemelError) as caught:
        run_filter(EnsembleKalmanFilter, physiology=Broken(), members=10)
    assert caught.value.code == "GEM610"


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(0, 1, exclude_max=True))
def test_systematic_resampling_draws_each_particle_its_share_rounded_up_or_down(size, seed, uniform):
    share = torch.from_numpy(np.random.default_rng(seed).dirichlet(np.full(size, 0.5), 2))
    chosen = systematic(share, torch.full((2, 1), uniform, dtype=torch.float64))
    for row in range(2):
        times = np.bincount(chosen[row].numpy(), minlength=size)
        assert times.sum() == size
        assert (np.abs(times - share[row].numpy() * size) < 1 + 1e-6).all()
