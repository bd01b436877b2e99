"""The exact filter of a hidden chain, against enumeration of every path that the states can take."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from decay import doubles, parameter, series
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

from gemel.core.errors import GemelError
from gemel.twins.assimilation import (
    BinnedEmission,
    HiddenMarkovFilter,
    MaximumAPosteriori,
    NormalEmission,
    measurements_of,
)
from gemel.twins.parameters import Scale, StateVariable
from gemel.twins.person_prior import person_prior
from gemel.twins.solvers import planned_inputs
from gemel.twins.treatment_plan import Dose, TreatmentPlan

YEAR = 365.25


class Stages:
    """Three stages, forth and back; a drug halves the way forth."""

    states = tuple(StateVariable(name, name, "1", 0, 1) for name in ("mild", "middle", "severe"))
    parameters = (parameter("forth", 0.3, 0.5, Scale.LOG, 1e-3, 10.0), parameter("back", 0.1, 0.0))
    inputs = ("drug",)

    def start(self, theta):
        one = torch.ones_like(theta["forth"])
        return torch.stack([0.5 * one, 0.3 * one, 0.2 * one], dim=1)

    def rates(self, inputs, theta):
        forth, back = theta["forth"] * (1 - 0.5 * inputs["drug"]), theta["back"]
        none = torch.zeros_like(forth)
        rows = [[-forth, forth, none], [back, -back - forth, forth], [none, back, -back]]
        return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


SCORE = BinnedEmission(
    (1.3, 2.67), torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.5, 0.2], [0.1, 0.2, 0.7]], dtype=torch.float64)
)
STIFFNESS = NormalEmission(doubles(m=[1.5, 2.0, 2.8])["m"], doubles(s=[0.3, 0.3, 0.4])["s"], logarithmic=True)
DRUG = TreatmentPlan(doses=(Dose(treatment="drug", amount=1.0, from_days=500.0, to_days=1300.0),))
INPUTS = planned_inputs(("drug",), DRUG)


def prior(persons):
    return person_prior(Stages.parameters, persons)


def filtered(observations, days, persons=1):
    chain = HiddenMarkovFilter(Stages(), {"score": SCORE, "stiffness": STIFFNESS}, days, INPUTS)
    return chain(prior(persons), measurements_of(observations, ("score", "stiffness"), persons=persons))


def by_enumeration(run, days, forth=0.3):
    """Likelihood of a run of (day, name, value), and the smoothed states on `days`: over all paths."""
    theta = doubles(forth=[forth], back=[0.1])
    off, on = (
        Stages().rates({"drug": torch.tensor([u], dtype=torch.float64)}, theta)[0].numpy() for u in (0.0, 1.0)
    )

    def between(begin, end):
        move = np.eye(3)
        for left, right, rates in ((-1e9, 500, off), (500, 1300, on), (1300, 1e9, off)):
            spent = max(0.0, min(end, right) - max(begin, left))
            move = move @ expm(rates * spent / YEAR)
        return move

    events = sorted(
        [(day, 0, value, name) for day, name, value in run] + [(day, 1, i, "") for i, day in enumerate(days)]
    )
    start = np.array([0.5, 0.3, 0.2])
    total, smoothed = 0.0, np.zeros((len(days), 3))
    times = [0.0, *(event[0] for event in events)]
    moves = [between(a, b) for a, b in pairwise(times)]
    for path in product(range(3), repeat=len(events)):
        probability = sum(start[s] * moves[0][s, path[0]] for s in range(3))
        for k in range(1, len(events)):
            probability *= moves[k][path[k - 1], path[k]]
        for (_, asked, value, name), state in zip(events, path, strict=True):
            if not asked:
                emission = {"score": SCORE, "stiffness": STIFFNESS}[name]
                probability *= float(emission(torch.tensor(value, dtype=torch.float64))[state])
        total += probability
        for (_, asked, value, _), state in zip(events, path, strict=True):
            if asked:
                smoothed[value, state] += probability
    return total, smoothed / total


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2500), st.floats(0.5, 4, width=32)), max_size=3),
    st.lists(st.tuples(st.integers(0, 2500), st.floats(3, 20, width=32)), max_size=2),
)
def test_states_and_likelihood_are_those_of_all_paths(scores, stiffness):
    days = (0.0, 900.0, 3000.0)
    found = filtered({"score": series(sorted(scores)), "stiffness": series(sorted(stiffness))}, days)
    run = [(d, "score", v) for d, v in scores] + [(d, "stiffness", v) for d, v in stiffness]
    likelihood, smoothed = by_enumeration(run, days)
    assert found.log_likelihood[0].exp().item() == pytest.approx(likelihood, rel=1e-8)
    assert found.course[0].numpy() == pytest.approx(smoothed, abs=1e-9)


def test_without_observations_it_is_the_chain_itself():
    days = (0.0, 365.25, 3652.5)
    found = filtered({}, days, persons=2)
    _, plain = by_enumeration([], days)
    assert found.course[1].numpy() == pytest.approx(plain, abs=1e-9)
    assert found.log_likelihood.tolist() == pytest.approx([0.0, 0.0], abs=1e-12)
    assert found.parameters == {}


def test_each_patients_states_are_its_own():
    runs = [(10.0, 1.0)], [(800.0, 3.5), (1700.0, 2.0)], []
    together = filtered({"score": series(*runs)}, (0.0, 1000.0), persons=3)
    for person, run in enumerate(runs):
        alone = filtered({"score": series(run)}, (0.0, 1000.0))
        assert together.course[person] == pytest.approx(alone.course[0])


def test_a_value_on_an_edge_is_in_the_upper_bin():
    assert SCORE(torch.tensor([1.3]))[0].tolist() == pytest.approx([0.2, 0.5, 0.2])
    assert SCORE(torch.tensor([1.29]))[0].tolist() == pytest.approx([0.7, 0.3, 0.1])


def test_observations_that_no_state_allows_are_refused():
    impossible = BinnedEmission((1.0,), torch.tensor([[1.0, 0.0]] * 3, dtype=torch.float64))
    chain = HiddenMarkovFilter(Stages(), {"score": impossible}, (0.0,), INPUTS)
    with pytest.raises(GemelError) as caught:
        chain(prior(1), measurements_of({"score": series([(5, 2.0)])}, ("score",), persons=1))
    assert caught.value.code == "GEM610"


def test_probabilities_that_do_not_sum_to_one_are_refused():
    with pytest.raises(ValueError, match="sum to 1"):
        BinnedEmission((1.0,), torch.tensor([[0.5, 0.4]]))


def test_with_its_likelihood_a_persons_rate_is_found_as_by_quadrature():
    run = [(0.0, 1.0), (365.0, 3.5), (700.0, 3.0)]
    measured = measurements_of({"score": series(run)}, ("score",), persons=1)
    chain = HiddenMarkovFilter(Stages(), {"score": SCORE}, (0.0,), INPUTS)
    posterior = MaximumAPosteriori(chain.log_likelihood)(prior(1), measured)
    grid = np.linspace(-6, 6, 241)
    named = [(day, "score", value) for day, value in run]
    log = np.array([np.log(by_enumeration(named, (), 0.3 * np.exp(0.5 * z))[0]) - z**2 / 2 for z in grid])
    assert posterior.z[0, 0].item() == pytest.approx(grid[log.argmax()], abs=0.03)
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    mean = (weight * 0.3 * np.exp(0.5 * grid)).sum()
    assert posterior.parameters["forth"][0][0] == pytest.approx(mean, rel=0.03)
