from __future__ import annotations

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from hypothesis import given, settings
from hypothesis import strategies as st

from gemel.privacy.loss_distributions import epsilon_for_delta, sampled_gaussian, self_composed

STEP = 1e-3  # ten times as coarse as in the ledger: the library's own loops take seconds on the fine grid


def library(z: float, q: float) -> pld.PrivacyLossDistribution:
    return pld.from_gaussian_mechanism(z, sampling_prob=q, value_discretization_interval=STEP)


def ours(z: float, q: float) -> pld.PrivacyLossDistribution:
    return sampled_gaussian(z, sample_rate=q, value_discretization_interval=STEP)


@given(z=st.floats(0.3, 50), q=st.floats(1e-4, 0.99))
@settings(max_examples=10, deadline=None)
def test_every_mass_is_the_librarys(z: float, q: float) -> None:
    a, b = library(z, q), ours(z, q)
    for theirs, mine in ((a._pmf_remove, b._pmf_remove), (a._pmf_add, b._pmf_add)):
        theirs, mine = theirs.to_dense_pmf(), mine.to_dense_pmf()
        assert theirs._lower_loss == mine._lower_loss
        assert theirs._infinity_mass == pytest.approx(mine._infinity_mass, rel=1e-6)
        # Differences of divergences over a step of 1e-3: what float64 can tell of them.
        np.testing.assert_allclose(mine._probs, theirs._probs, rtol=0, atol=1e-11)


@given(
    z=st.floats(0.5, 20),
    q=st.floats(1e-3, 0.9),
    count=st.integers(1, 300),
    delta=st.sampled_from([1e-3, 1e-5, 1e-7]),
)
@settings(max_examples=10, deadline=None)
def test_composition_and_epsilon_are_the_librarys(z: float, q: float, count: int, delta: float) -> None:
    expected = library(z, q).self_compose(count).get_epsilon_for_delta(delta)
    assert epsilon_for_delta(self_composed(ours(z, q), count), delta) == pytest.approx(
        expected, rel=1e-6, abs=1e-6
    )


@pytest.mark.parametrize("delta", [0.5, 1e-3, 1e-6, 1e-12])
@pytest.mark.parametrize(("z", "q", "count"), [(1.0, 0.01, 50), (0.4, 0.5, 400), (30.0, 1.0, 1)])
def test_epsilon_is_read_off_any_distribution_as_the_library_does(
    z: float, q: float, count: int, delta: float
) -> None:
    composed = library(z, q).self_compose(count)
    assert epsilon_for_delta(composed, delta) == pytest.approx(
        composed.get_epsilon_for_delta(delta), rel=1e-9, abs=1e-9
    )


def test_no_finite_epsilon_is_infinite() -> None:
    box = pld.from_privacy_parameters(
        pld.common.DifferentialPrivacyParameters(1.0, 1e-3), value_discretization_interval=STEP
    )
    assert epsilon_for_delta(box, 1e-5) == float("inf") == box.get_epsilon_for_delta(1e-5)
    assert epsilon_for_delta(box, 1e-2) == pytest.approx(box.get_epsilon_for_delta(1e-2))


def test_what_is_composed_once_stays_itself() -> None:
    one = ours(2.0, 0.1)
    assert self_composed(one, 1) is one
