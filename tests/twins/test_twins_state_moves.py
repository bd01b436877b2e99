"""One step between sets of diseases, against a loop over every set and everything that may happen to it."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.twins.state_moves import moved


def by_hand(occupied, rate):
    """One patient: (states,), (states, 1 + m)."""
    states, diseases = len(occupied), rate.shape[1] - 1
    after, came = np.zeros(states), np.zeros(1 + diseases)
    for start in range(states):
        death = rate[start, 0]
        came[0] += occupied[start] * (1 - math.exp(-death))
        free = [i for i in range(diseases) if not start >> i & 1]
        for i in free:
            both = rate[start, i + 1] + death
            came[i + 1] += (
                occupied[start] * rate[start, i + 1] / both * (1 - math.exp(-both)) if both else 0.0
            )
        for size in range(len(free) + 1):
            for new in combinations(free, size):
                chance = math.exp(-death)
                for i in free:
                    stays = math.exp(-rate[start, i + 1])
                    chance *= 1 - stays if i in new else stays
                after[start | sum(1 << i for i in new)] += occupied[start] * chance
    return after, came


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 4), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_every_step_is_that_of_the_loop(diseases, patients, seed):
    random = np.random.default_rng(seed)
    occupied = random.dirichlet(np.ones(1 << diseases), patients).T * random.random(patients)
    rate = random.exponential(0.3, (1 << diseases, 1 + diseases, patients))
    rate *= random.random(rate.shape) < 0.8
    after, came = moved(occupied, rate)
    for patient in range(patients):
        expected = by_hand(occupied[:, patient], rate[:, :, patient])
        assert after[:, patient] == pytest.approx(expected[0], abs=1e-12)
        assert came[:, patient] == pytest.approx(expected[1], abs=1e-12)
    assert after.sum(0) + came[0] == pytest.approx(occupied.sum(0))


def test_where_nothing_can_happen_nothing_does():
    occupied = np.array([[0.2], [0.8]])
    after, came = moved(occupied, np.zeros((2, 2, 1)))
    assert after.tolist() == occupied.tolist()
    assert not came.any()
