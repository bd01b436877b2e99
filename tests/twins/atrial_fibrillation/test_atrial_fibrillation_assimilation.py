"""The twin fits a person's burden better the longer it watches the rhythm: on simulated rhythms, since none are open."""

from __future__ import annotations

import numpy as np
import pytest

from gemel.core.errors import GemelError
from gemel.core.series import Series
from gemel.twins.assimilation import twinness
from gemel.twins.programmes.atrial_fibrillation import PROGRAMME, rhythm
from gemel.twins.programmes.atrial_fibrillation.definition import DEFINITION
from gemel.twins.programmes.atrial_fibrillation.twin import AtrialFibrillationTwin

PATIENTS, WEEKS = 150, 12
STROKE = PROGRAMME.outcome_names.index("stroke")


@pytest.fixture(scope="module")
def twin():
    return AtrialFibrillationTwin(PROGRAMME)


def example(patients: int) -> np.ndarray:
    row = [DEFINITION.example.values[name] for name in PROGRAMME.feature_names]
    return np.tile(np.array(row), (patients, 1))


def series(days: np.ndarray, values: np.ndarray) -> Series:
    """The same days for everybody; values (n, days)."""
    n, m = values.shape
    return Series(
        np.arange(n + 1) * m, np.tile(days, n).astype(np.float32), values.ravel().astype(np.float32)
    )


@pytest.fixture(scope="module")
def rhythms():
    """Burdens (n,) and weekly recordings (n, weeks): jumps between the two states at each person's own rates."""
    random = np.random.default_rng(5)
    odds = np.log(rhythm.BURDEN.value / (1 - rhythm.BURDEN.value))
    burden = 1 / (1 + np.exp(-(odds + rhythm.BURDEN.spread * random.standard_normal(PATIENTS))))
    burden = np.clip(burden, 1e-4, 1 - 1e-4)
    episodes = np.exp(rhythm.EPISODE.spread * random.standard_normal(PATIENTS))
    forgets = np.exp(-7 / episodes / (1 - burden))
    state = random.random(PATIENTS) < burden
    seen = []
    for _ in range(WEEKS):
        to_fibrillation = np.where(state, burden + (1 - burden) * forgets, burden * (1 - forgets))
        state = random.random(PATIENTS) < to_fibrillation
        seen.append(state)
    return burden, np.array(seen, float).T


def test_the_error_of_the_burden_falls_with_each_recording(twin, rhythms):
    burden, seen = rhythms
    observations = {"rhythm": series(np.arange(1, WEEKS + 1) * 7.0, seen)}
    found = twinness(
        twin,
        example(PATIENTS),
        observations,
        lambda p: (p.courses["atrial_fibrillation_burden"].mean[:, 0] - burden) ** 2,
        counts=(0, 1, 3, WEEKS),
    )
    assert found.falls, found
    assert found.error[-1] < 0.5 * found.error[0]


def test_a_patch_says_more_than_a_recording_and_the_risk_of_stroke_follows(twin):
    values = example(2)
    patch = {"atrial_fibrillation_burden": series(np.array([14.0]), np.array([[0.6], [0.001]]))}
    individual = twin.assimilate(values, patch)
    mean, deviation = individual.parameters["burden"]
    assert mean[0] == pytest.approx(0.6, abs=0.1)
    assert mean[1] < 0.005
    assert (deviation < rhythm.BURDEN.value * 5).all()
    high, low = individual.predict().cumulative_incidence[:, -1, STROKE]
    usual = twin.predict(values).cumulative_incidence[0, -1, STROKE]
    assert low < usual < high
    died, usually = (p.cumulative_incidence[:, -1, 0] for p in (individual.predict(), twin.predict(values)))
    assert died == pytest.approx(usually)


def test_nothing_seen_changes_nothing(twin):
    values = example(3)
    same = twin.assimilate(values, {}).predict()
    assert np.array_equal(same.cumulative_incidence, twin.predict(values).cumulative_incidence)


def test_what_it_does_not_observe_is_refused(twin):
    with pytest.raises(GemelError, match="GEM604"):
        twin.assimilate(example(1), {"heart_rate": series(np.array([1.0]), np.array([[70.0]]))})
