"""Observations of several patients as dense tensors, and what is believed of parameters before any."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from decay import parameter, series
from hypothesis import given
from hypothesis import strategies as st

import gemel.twins.assimilation
from gemel.core.errors import GemelError
from gemel.twins.assimilation import MeasurementError, first_of_each, measurements_of
from gemel.twins.parameters import Scale
from gemel.twins.person_prior import from_scale, person_prior, to_scale

ASSIMILATION = Path(gemel.twins.assimilation.__file__).parent

runs = st.lists(
    st.lists(st.tuples(st.integers(0, 30), st.integers(-5, 5)), max_size=5).map(sorted),
    min_size=3,
    max_size=3,
)


@given(runs, runs)
def test_every_observation_is_there_once_in_the_order_of_days(first, second):
    dense = measurements_of({"a": series(*first), "b": series(*second)}, ("b", "a"), persons=3)
    for person in range(3):
        known = dense.known[person]
        got = sorted(
            zip(
                [dense.names[i] for i in dense.which[person][known]],
                dense.day[person][known].tolist(),
                dense.value[person][known].tolist(),
                strict=True,
            )
        )
        expected = [("a", *pair) for pair in first[person]] + [("b", *pair) for pair in second[person]]
        assert got == sorted(expected)
        assert (dense.day[person].diff() >= 0).all()
    assert list(dense.days) == sorted({day for run in first + second for day, _ in run})


@given(runs, st.integers(0, 6))
def test_the_first_observations_are_kept_and_no_others(first, count):
    kept = first_of_each({"a": series(*first)}, count)["a"]
    for person, run in enumerate(first):
        days, values = kept.of(person)
        assert list(zip(days.tolist(), values.tolist(), strict=True)) == run[:count]


def test_no_observation_at_all_is_a_matrix_without_columns():
    dense = measurements_of({}, ("a",), persons=4)
    assert dense.day.shape == (4, 0)
    assert dense.days == ()


@pytest.mark.parametrize(
    ("name", "pair"), [("b", (1, 1)), ("a", (-1, 1)), ("a", (1, float("nan"))), ("a", (float("inf"), 1))]
)
def test_what_cannot_be_observed_is_refused(name, pair):
    with pytest.raises(GemelError) as caught:
        measurements_of({name: series([pair])}, ("a",), persons=1)
    assert caught.value.code == "GEM604"


def test_observations_of_other_patients_are_refused():
    with pytest.raises(ValueError, match="2 patients, expected 3"):
        measurements_of({"a": series([], [])}, ("a",), persons=3)


def test_a_measurements_density_is_the_normal_one_with_both_parts_of_its_error():
    error = MeasurementError(0.3, relative=0.1)
    normal = torch.distributions.Normal(2.0, (0.3**2 + 0.2**2) ** 0.5)
    measured = torch.tensor([1.0, 2.5])
    assert error.log_density(measured, torch.tensor([2.0, 2.0])) == pytest.approx(normal.log_prob(measured))


@given(st.sampled_from(list(Scale)), st.floats(0.11, 0.89))
def test_a_value_within_its_bounds_comes_back_from_its_scale(scale, value):
    mine = parameter("a", 0.5, 0.2, scale, low=0.1, high=0.9)
    at = torch.tensor(value, dtype=torch.float64)
    assert float(from_scale(mine, to_scale(mine, at))) == pytest.approx(value)
    assert 0.1 <= float(from_scale(mine, torch.tensor(50.0).double())) <= 0.9


def test_the_prior_has_the_moments_that_its_draws_have():
    parameters = (
        parameter("natural", 3.0, 0.5),
        parameter("log", 2.0, 0.4, Scale.LOG, low=0.01, high=100),
        parameter("logit", 0.6, 0.8, Scale.LOGIT, low=0.0, high=1.0),
        parameter("same", 7.0, 0.0),
    )
    prior = person_prior(parameters, 2, typical={"log": torch.tensor([2.0, 5.0])})
    assert [p.name for p in prior.differing] == ["natural", "log", "logit"]
    z = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 200_000, 3)))
    drawn = {name: value.reshape(2, -1) for name, value in prior.theta(z).items()}
    zero = torch.zeros(2, 3, dtype=torch.float64)
    for name, (mean, deviation) in prior.moments(zero, torch.ones_like(zero)).items():
        assert mean == pytest.approx(drawn[name].mean(1).numpy(), rel=5e-3)
        assert deviation == pytest.approx(drawn[name].std(1).numpy(), rel=2e-2)
    assert (drawn["same"] == 7.0).all()


def test_an_encoder_may_say_that_it_is_surer_of_one_person():
    parameters = (parameter("a", 3.0, 0.5), parameter("b", 1.0, 0.0))
    spread = {"a": torch.tensor([0.5, 0.1]), "b": torch.tensor([0.2, 0.2])}
    prior = person_prior(parameters, 2, spread=spread, covariates={"age": torch.tensor([60.0, 70.0])})
    theta = prior.theta(torch.ones(2, 2, dtype=torch.float64))
    assert theta["a"].tolist() == pytest.approx([3.5, 3.1])
    assert theta["b"].tolist() == pytest.approx([1.2, 1.2])
    assert theta["age"].tolist() == [60.0, 70.0]


def test_assimilation_reaches_neither_ledger_nor_gate():
    """What is learned of an individual is no release: it must stay where nothing leads out of the hospital."""
    for file in sorted(ASSIMILATION.glob("*.py")):
        rooms = set(re.findall(r"^\s*(?:from|import) gemel\.(\w+)", file.read_text("utf-8"), re.MULTILINE))
        assert rooms <= {"core", "twins"}, file.name
