"""The test of a twin: it passes where observations teach, and fails where they do not."""

from __future__ import annotations

import numpy as np
import pytest
from decay import Decay, series

from gemel.twins.assimilation import (
    MaximumAPosteriori,
    MeasurementError,
    error_by_count,
    first_of_each,
    measurements_of,
    ode_log_likelihood,
)
from gemel.twins.person_prior import person_prior

PATIENTS = 60


def errors_of_decay(blind):
    """The error of the value on day 12 after the first observations of a person, or of anybody (`blind`)."""
    physiology = Decay(rate_spread=0.5)
    random = np.random.default_rng(0)
    start = 10 + 2 * random.standard_normal(PATIENTS)
    rate = 0.1 * np.exp(0.5 * random.standard_normal(PATIENTS))
    days = np.array([1.0, 3.0, 5.0, 8.0])
    seen = start[:, None] * np.exp(-rate[:, None] * days) + 0.3 * random.standard_normal((PATIENTS, 4))
    seen = random.permutation(seen) if blind else seen
    observations = {"x": series(*(list(zip(days, row, strict=True)) for row in seen))}
    fit = MaximumAPosteriori(ode_log_likelihood(physiology, {"x": MeasurementError(0.3)}))
    prior = person_prior(physiology.parameters, PATIENTS)

    def after(count):
        measured = measurements_of(first_of_each(observations, count), ("x",), persons=PATIENTS)
        theta = fit(prior, measured).theta
        expected = theta["start"].numpy() * np.exp(-12 * theta["rate"].numpy())
        return np.abs(expected - start * np.exp(-12 * rate))

    return after


def test_the_error_falls_as_a_persons_own_observations_are_taken_in():
    found = error_by_count(errors_of_decay(blind=False), counts=(0, 1, 3, 4))
    assert found.falls
    assert found.error[-1] < 0.4 * found.error[0]
    assert found.change[0].tolist() == [0.0, 0.0, 0.0]
    assert found.change[-1, 0] == pytest.approx(found.error[-1] - found.error[0])
    assert found.step[2, 0] == pytest.approx(found.error[2] - found.error[1])
    assert (found.change[1:, 1] < found.change[1:, 0]).all()


def test_it_does_not_fall_with_observations_of_somebody_else():
    assert not error_by_count(errors_of_decay(blind=True), counts=(0, 1, 3, 4)).falls


def test_a_gain_within_chance_is_none():
    random = np.random.default_rng(0)
    errors = {0: 1 + random.standard_normal(30) ** 2}
    errors[1] = errors[0] + random.standard_normal(30)
    errors[1] -= errors[1].mean() - errors[0].mean() + 0.01
    found = error_by_count(errors.__getitem__, counts=(0, 1))
    assert found.error[1] < found.error[0]
    assert not found.falls


def test_the_interval_is_the_normal_one_for_many_patients():
    random = np.random.default_rng(1)
    errors = {0: np.zeros(1000), 1: random.normal(-0.5, 2.0, 1000)}
    found = error_by_count(errors.__getitem__, counts=(0, 1))
    half = 1.96 * errors[1].std() / np.sqrt(1000)
    assert found.change[1, 1:] == pytest.approx(errors[1].mean() + np.array([-half, half]), abs=0.01)


@pytest.mark.parametrize("counts", [(1, 2), (0, 3, 1), (0, 1, 1)])
def test_counts_that_do_not_start_at_none_and_increase_are_refused(counts):
    with pytest.raises(ValueError, match="start at 0"):
        error_by_count(lambda _: np.zeros(3), counts=counts)


def test_an_error_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="no number"):
        error_by_count(lambda count: np.full(3, np.nan if count else 1.0))
