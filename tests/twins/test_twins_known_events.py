"""Predictions that are conditioned on what came already, against futures that happen to begin so."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cardiometabolic import PROGRAMME
from decay import series

from gemel.core.errors import GemelError
from gemel.twins.course import predict
from gemel.twins.known_events import known_events, parted

PATIENT = np.array([[64, 1, 34, 140, 45, 1, 1, 0, 0, 0, 0]], dtype=float)
YEAR = 365.25
PATHS = 400_000


@pytest.fixture(scope="module")
def futures(sick_twin):
    course = sick_twin.simulate(PATIENT, seed=5, paths=PATHS)
    return np.where(course.event == 1, course.time_years, np.inf)


def conditioned(twin, **runs):
    known = known_events(PROGRAMME, {name: series(run) for name, run in runs.items()}, persons=1)
    return predict(twin, PATIENT, known=known)


def free(years):
    return [(years * YEAR, 0.0)]


@pytest.mark.parametrize("until", [3.0, 3.4, 0.6])
def test_who_is_free_of_everything_has_the_futures_of_those_who_are(sick_twin, futures, until):
    found = conditioned(sick_twin, death=free(until))
    alike = futures[(futures > until).all(axis=1)]
    compare(found, alike)
    by_then = np.array(PROGRAMME.times_years) <= until
    assert not found.cumulative_incidence[0, by_then].any()


@pytest.mark.parametrize(("onset", "until"), [(2.3, 2.9), (2.3, 4.6), (2.0, 2.5)])
def test_who_had_a_disease_has_the_futures_of_those_who_had_it_in_that_year(sick_twin, futures, onset, until):
    found = conditioned(sick_twin, cardiovascular=[(onset * YEAR, 1.0)], diabetes=free(until))
    step = math.ceil(onset - 1e-6) - 1
    began = (futures[:, 1] > step) & (futures[:, 1] <= min(step + 1, until))
    alike = futures[began & (futures[:, 0] > until) & (futures[:, 2] > until)]
    alike[:, 1] = onset
    compare(found, alike)
    assert (found.cumulative_incidence[0, math.ceil(onset) :, 1] == 1.0).all()
    assert not found.cumulative_incidence[0, : math.ceil(onset), 1].any()
    assert found.alive[0, math.floor(until)] == 1.0


def compare(found, alike):
    assert len(alike) > 2000
    for outcome in range(3):
        for year in (4, 8, 15):
            p = found.cumulative_incidence[0, year, outcome]
            spread = math.sqrt(max(p * (1 - p), 1e-9) / len(alike))
            assert (alike[:, outcome] <= year).mean() == pytest.approx(p, abs=4.5 * spread + 1e-6)
    alive = found.state[0].sum(axis=1)
    assert alive == pytest.approx(found.alive[0], abs=1e-9)


def test_after_a_death_nothing_more_comes(sick_twin):
    found = conditioned(sick_twin, death=[(4.5 * YEAR, 1.0)], cardiovascular=[(1.5 * YEAR, 1.0)])
    incidence = found.cumulative_incidence[0]
    assert incidence[:, 0].tolist() == [0.0] * 5 + [1.0] * 11
    assert incidence[:, 1].tolist() == [0.0] * 2 + [1.0] * 14
    assert not incidence[:, 2].any()
    assert found.state[0, :5].sum(axis=1).tolist() == [1.0] * 5
    assert not found.state[0, 5:].any()


def test_nothing_known_is_the_prediction_itself(sick_twin):
    known = known_events(PROGRAMME, {}, persons=1)
    plain, same = predict(sick_twin, PATIENT), predict(sick_twin, PATIENT, known=known)
    assert np.array_equal(plain.cumulative_incidence, same.cumulative_incidence)
    assert np.array_equal(plain.state, same.state)


def test_each_patient_has_its_own_record(sick_twin):
    values = np.repeat(PATIENT, 3, axis=0)
    runs = [(YEAR, 1.0)], [], [(2 * YEAR, 0.0)]
    together = predict(
        sick_twin, values, known=known_events(PROGRAMME, {"diabetes": series(*runs)}, persons=3)
    )
    for row, run in enumerate(runs):
        alone = conditioned(sick_twin, diabetes=run)
        assert together.cumulative_incidence[row] == pytest.approx(alone.cumulative_incidence[0])


@pytest.mark.parametrize(
    "runs",
    [
        {"stroke": [(1, 1.0)]},
        {"death": [(1, 0.5)]},
        {"death": [(-1, 0.0)]},
        {"diabetes": [(10, 1.0), (20, 0.0)]},
        {"death": [(10, 1.0)], "diabetes": [(20, 1.0)]},
    ],
)
def test_a_record_that_cannot_be_is_refused(runs):
    with pytest.raises(GemelError) as caught:
        known_events(PROGRAMME, {name: series(run) for name, run in runs.items()}, persons=1)
    assert caught.value.code == "GEM604"


def test_observations_are_parted_into_events_and_others():
    one, other = series([(1, 1.0)]), series([(1, 6.5)])
    assert parted(PROGRAMME, {"death": one, "hba1c": other}) == ({"death": one}, {"hba1c": other})
