"""The most likely parameters: conjugate normals, closed forms, quadrature."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from decay import Decay, parameter, series
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.core.errors import GemelError
from gemel.twins.assimilation import (
    MaximumAPosteriori,
    MeasurementError,
    measurements_of,
    ode_log_likelihood,
)
from gemel.twins.parameters import Scale
from gemel.twins.person_prior import person_prior

ERROR = MeasurementError(0.5)


def of_constants(theta, measurements):
    """Log-likelihood of values measured of the constants a + b."""
    expected = (theta["a"] + theta["b"])[:, None]
    density = ERROR.log_density(measurements.value, expected)
    return torch.where(measurements.known, density, 0.0).sum(1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-5, 15), max_size=6), st.floats(0.1, 3), st.floats(0.1, 3))
def test_of_a_normal_prior_and_normal_errors_the_posterior_is_exact(values, first, second):
    prior = person_prior((parameter("a", 3.0, first), parameter("b", 1.0, second)), 2)
    observed = {"y": series([(i, v) for i, v in enumerate(values)], [])}
    posterior = MaximumAPosteriori(of_constants)(prior, measurements_of(observed, ("y",), persons=2))
    covariance = np.diag([first**2, second**2])
    mean = np.array([3.0, 1.0])
    if values:
        seen = np.float32(values).astype(float)
        design = np.ones((len(values), 2))
        precision = np.linalg.inv(covariance) + design.T @ design / 0.25
        mean = mean + np.linalg.solve(precision, design.T @ (seen - 4.0) / 0.25)
        covariance = np.linalg.inv(precision)
    found = posterior.parameters
    for i, name in enumerate(("a", "b")):
        assert found[name][0][0] == pytest.approx(mean[i], abs=1e-6)
        assert found[name][1][0] == pytest.approx(covariance[i, i] ** 0.5, rel=1e-5)
    # Of whom nothing was observed, the prior is left.
    assert found["a"][0][1] == pytest.approx(3.0)
    assert found["b"][1][1] == pytest.approx(second)
    drawn = posterior.draw(20_000, seed=1)
    both = np.cov(drawn["a"].reshape(2, -1)[0], drawn["b"].reshape(2, -1)[0])
    assert both == pytest.approx(covariance, abs=0.05 * np.abs(covariance).max())


def test_a_start_and_a_rate_are_found_from_a_decays_measurements():
    physiology = Decay(rate_spread=0.5)
    random = np.random.default_rng(3)
    true_start = 10 + 2 * random.standard_normal(40)
    true_rate = 0.1 * np.exp(0.5 * random.standard_normal(40))
    days = np.arange(0, 15, 1.5)
    values = true_start[:, None] * np.exp(-true_rate[:, None] * days) + 0.1 * random.standard_normal((40, 10))
    measured = measurements_of(
        {"x": series(*(list(zip(days, row, strict=True)) for row in values))}, ("x",), persons=40
    )
    fit = MaximumAPosteriori(ode_log_likelihood(physiology, {"x": MeasurementError(0.1)}))
    posterior = fit(person_prior(physiology.parameters, 40), measured)
    for name, true in (("start", true_start), ("rate", true_rate)):
        mean, deviation = posterior.parameters[name]
        z = (mean - true) / deviation
        assert np.abs(z).max() < 4
        assert 0.7 < z.std() < 1.3
        assert np.corrcoef(mean, true)[0, 1] > 0.98


def test_laplaces_moments_are_near_those_of_quadrature():
    prior = person_prior((parameter("rate", 0.1, 0.6, Scale.LOG, 1e-4, 10.0),), 1)
    days, values = np.array([2.0, 5.0, 9.0]), np.array([7.9, 5.2, 3.1])

    def log_likelihood(theta, measurements):
        expected = 10 * torch.exp(-theta["rate"][:, None] * measurements.day)
        return ERROR.log_density(measurements.value, expected).sum(1)

    measured = measurements_of({"x": series(list(zip(days, values, strict=True)))}, ("x",), persons=1)
    posterior = MaximumAPosteriori(log_likelihood)(prior, measured)
    z = np.linspace(-8, 8, 4001)
    rate = 0.1 * np.exp(0.6 * z)
    log = -0.5 * z**2 - 0.5 * (((values - 10 * np.exp(-rate[:, None] * days)) / 0.5) ** 2).sum(1)
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    mean = (weight * rate).sum()
    deviation = np.sqrt((weight * (rate - mean) ** 2).sum())
    assert posterior.parameters["rate"][0][0] == pytest.approx(mean, rel=0.01)
    assert posterior.parameters["rate"][1][0] == pytest.approx(deviation, rel=0.05)


def test_a_patients_posterior_does_not_depend_on_the_others():
    physiology = Decay(rate_spread=0.5)
    both = {"x": series([(1.0, 8.0), (4.0, 7.0)], [(2.5, 3.0)])}
    second = {"x": series([(2.5, 3.0)])}
    fit = MaximumAPosteriori(ode_log_likelihood(physiology, {"x": ERROR}))
    together = fit(person_prior(physiology.parameters, 2), measurements_of(both, ("x",), persons=2))
    alone = fit(person_prior(physiology.parameters, 1), measurements_of(second, ("x",), persons=1))
    assert together.z[1] == pytest.approx(alone.z[0], abs=1e-5)
    assert together.covariance[1] == pytest.approx(alone.covariance[0], abs=1e-4)
    assert together.draw(5, seed=2)["rate"][5:] == pytest.approx(alone.draw(5, seed=2)["rate"], abs=1e-5)


def test_a_likelihood_that_is_no_number_is_refused():
    prior = person_prior((parameter("a", 3.0, 1.0), parameter("b", 1.0, 1.0)), 1)
    measured = measurements_of({"y": series([(0, 1.0)])}, ("y",), persons=1)
    with pytest.raises(GemelError) as caught:
        MaximumAPosteriori(lambda theta, _: torch.log(-theta["a"]))(prior, measured)
    assert caught.value.code == "GEM610"


def test_a_likelihood_without_a_maximum_is_refused():
    prior = person_prior((parameter("a", 3.0, 1.0),), 1)
    measured = measurements_of({}, ("y",), persons=1)
    with pytest.raises(GemelError) as caught:
        MaximumAPosteriori(lambda theta, _: theta["a"] ** 2)(prior, measured)
    assert caught.value.code == "GEM610"
