"""Levels of the modified Rankin Scale, known exactly, by a range, or not."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gemel.twins.programmes.stroke.rankin import level_loss, level_probabilities, possible_levels

CUTS = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])


@given(st.floats(-20, 20))
def test_probabilities_are_a_distribution(place):
    found = level_probabilities(torch.tensor([place]), CUTS)[0]
    assert abs(float(found.sum()) - 1) < 1e-5
    assert (found >= -1e-6).all()


def test_a_worse_place_makes_every_level_or_above_likelier():
    better, worse = level_probabilities(torch.tensor([0.0, 0.5]), CUTS)
    assert (worse.flip(0).cumsum(0)[:-1] > better.flip(0).cumsum(0)[:-1]).all()


@pytest.mark.parametrize(
    ("written", "levels"),
    [(0.0, [0]), (1.5, [1, 2]), (2.0, [2]), (3.5, [3, 4, 5]), (4.0, [4]), (5.0, [5]), (2.5, [2])],
)
def test_a_written_value_leaves_its_levels(written, levels):
    assert np.flatnonzero(possible_levels(np.array([written]))[0]).tolist() == levels


def test_a_range_has_the_probability_of_its_levels_together():
    place = torch.tensor([0.3])
    probabilities = level_probabilities(place, CUTS)
    loss = level_loss(probabilities, torch.from_numpy(possible_levels(np.array([3.5]))))
    # 3 or above is what the third cut says, and nothing else.
    torch.testing.assert_close(loss, -torch.nn.functional.logsigmoid(place - CUTS[2]))


def test_who_is_not_known_costs_nothing_and_moves_nothing():
    place = torch.tensor([0.3], requires_grad=True)
    loss = level_loss(level_probabilities(place, CUTS), torch.zeros(1, 6))
    loss.sum().backward()
    assert loss.tolist() == [0.0]
    assert place.grad.tolist() == [0.0]
