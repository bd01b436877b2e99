from __future__ import annotations

import json
import math
import random

import dp_accounting
import msgspec
import numpy as np
import pytest
from dp_accounting import pld
from dp_accounting.pld import privacy_loss_distribution as distributions
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gemel.core.errors import GemelError
from gemel.core.mechanism import Mechanism, MechanismKind
from gemel.privacy.accounting import epsilon, epsilon_of_events_json, merged

DELTA = 1e-5
GAUSSIAN = MechanismKind.GAUSSIAN
POISSON = MechanismKind.POISSON_GAUSSIAN
DISCRETE = MechanismKind.DISCRETE_GAUSSIAN
LAPLACE = MechanismKind.LAPLACE


def one(kind: MechanismKind, z: float, *, q: float = 1.0, count: int = 1) -> Mechanism:
    return Mechanism(kind=kind, noise_multiplier=z, sample_rate=q, count=count)


def exact_gaussian_epsilon(mu: float, delta: float) -> float:
    """Balle & Wang 2018, inverted by bisection."""
    low, high = 0.0, 100.0
    for _ in range(80):
        eps = (low + high) / 2
        spent = stats.norm.sf(eps / mu - mu / 2) - math.exp(eps) * stats.norm.sf(eps / mu + mu / 2)
        low, high = (eps, high) if spent > delta else (low, eps)
    return high


def exact_discrete_gaussian_epsilon(sigma: float, count: int, delta: float) -> float:
    """By convolving the noise itself: the privacy loss of the composition depends on the noises' sum only."""
    bound = math.ceil(13 * sigma)
    noise = np.arange(-bound, bound + 1)
    pmf = np.exp(-(noise**2) / (2 * sigma**2))
    pmf /= pmf.sum()
    total = np.ones(1)
    for _ in range(count):
        total = np.convolve(total, pmf)
    sums = np.arange(-count * bound, count * bound + 1)
    losses = (count / 2 - sums) / sigma**2  # of noise x against the same answer one lower
    low, high = 0.0, 100.0
    for _ in range(80):
        eps = (low + high) / 2
        above = losses > eps
        spent = float(np.sum(total[above] * -np.expm1(eps - losses[above])))
        low, high = (eps, high) if spent > delta else (low, eps)
    return high


def test_nothing_run_costs_nothing() -> None:
    assert epsilon([], delta=DELTA) == 0


@pytest.mark.parametrize(("z", "count"), [(1.0, 1), (10.0, 100), (11.35, 40), (100.0, 1)])
def test_gaussian_steps_cost_what_the_closed_form_says_and_never_less(z: float, count: int) -> None:
    exact = exact_gaussian_epsilon(math.sqrt(count) / z, DELTA)
    assert exact <= epsilon([one(GAUSSIAN, z, count=count)], delta=DELTA) <= exact + 1e-4


@pytest.mark.parametrize(("sigma", "count"), [(0.7, 1), (2.0, 1), (3.0, 30), (8.0, 12), (40.0, 10)])
def test_the_discrete_gaussian_is_accounted_exactly(sigma: float, count: int) -> None:
    exact = exact_discrete_gaussian_epsilon(sigma, count, DELTA)
    stated = epsilon([one(DISCRETE, sigma, count=count)], delta=DELTA)
    assert exact - 1e-9 <= stated <= exact + 2e-3


def test_the_discrete_gaussian_is_not_accounted_as_the_continuous_one() -> None:
    discrete, continuous = (epsilon([one(kind, 0.4)], delta=DELTA) for kind in (DISCRETE, GAUSSIAN))
    assert abs(discrete - continuous) > 0.05


def test_a_whole_ledger_recomputes_with_dp_accounting_alone() -> None:
    mechanisms = [
        one(DISCRETE, 6.2),
        *[one(GAUSSIAN, 11.35, count=5) for _ in range(8)],
        one(DISCRETE, 8.8, count=6),
        one(DISCRETE, 13.9, count=20),
        one(POISSON, 2.0, q=0.05, count=60),
        one(LAPLACE, 20.0, count=3),
    ]
    accountant = pld.PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-4)
    event = dp_accounting.ComposedDpEvent(
        [
            dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(11.35), 40),
            dp_accounting.SelfComposedDpEvent(
                dp_accounting.PoissonSampledDpEvent(0.05, dp_accounting.GaussianDpEvent(2.0)), 60
            ),
            dp_accounting.SelfComposedDpEvent(dp_accounting.LaplaceDpEvent(20.0), 3),
        ]
    )
    accountant.compose(event)
    recomputed = accountant._pld  # no DpEvent for the discrete Gaussian in dp-accounting 0.6
    for sigma, count in ((6.2, 1), (8.8, 6), (13.9, 20)):
        tables = distributions.from_discrete_gaussian_mechanism(sigma, use_connect_dots=True)
        recomputed = recomputed.compose(tables.self_compose(count))
    expected = recomputed.get_epsilon_for_delta(DELTA)
    stated = epsilon(mechanisms, delta=DELTA)
    assert expected - 1e-9 <= stated <= expected + 2e-6
    exported = json.loads(msgspec.json.encode(mechanisms))
    assert epsilon_of_events_json(exported, delta=DELTA) == stated


def test_sampling_and_rdp_agree_that_the_accountant_is_tight() -> None:
    steps = one(POISSON, 1.0, q=64 / 2000, count=1550)
    rdp = dp_accounting.rdp.RdpAccountant()
    sampled = dp_accounting.PoissonSampledDpEvent(64 / 2000, dp_accounting.GaussianDpEvent(1.0))
    rdp.compose(sampled, 1550)
    stated = epsilon([steps], delta=DELTA)
    assert stated < rdp.get_epsilon(DELTA)
    assert stated == pytest.approx(8.372, abs=2e-3)  # research/dp.md, section 2.2


mechanism_lists = st.lists(
    st.builds(
        one,
        st.sampled_from([GAUSSIAN, DISCRETE, LAPLACE]),
        st.sampled_from([5.0, 12.0]),
        count=st.integers(1, 3),
    ),
    min_size=1,
    max_size=6,
)


@given(mechanism_lists, st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_order_and_splitting_do_not_matter_to_the_last_digit(
    mechanisms: list[Mechanism], shuffler: random.Random
) -> None:
    split = [one(m.kind, m.noise_multiplier) for m in mechanisms for _ in range(m.count)]
    shuffler.shuffle(split)
    assert epsilon(split, delta=DELTA) == epsilon(mechanisms, delta=DELTA)


@given(mechanism_lists)
@settings(max_examples=15, deadline=None)
def test_one_more_mechanism_never_costs_less(mechanisms: list[Mechanism]) -> None:
    assert epsilon([*mechanisms, one(DISCRETE, 12.0)], delta=DELTA) > epsilon(mechanisms, delta=DELTA)


def test_equal_mechanisms_are_merged() -> None:
    assert merged([one(GAUSSIAN, 2.0), one(DISCRETE, 3.0), one(GAUSSIAN, 2.0, count=4)]) == (
        one(DISCRETE, 3.0),
        one(GAUSSIAN, 2.0, count=5),
    )


@pytest.mark.parametrize(
    "mechanism",
    [
        one("report_noisy_max", 1.0),  # type: ignore[arg-type]
        one(GAUSSIAN, 0.0),
        one(GAUSSIAN, -1.0),
        one(GAUSSIAN, math.inf),
        one(GAUSSIAN, math.nan),
        one(GAUSSIAN, 1.0, count=0),
        one(GAUSSIAN, 1.0, q=0.5),
        one(POISSON, 1.0, q=0.0),
        one(POISSON, 1.0, q=1.5),
        one(DISCRETE, 1.0, q=0.5),
        one(DISCRETE, 20_000.0),
        one(LAPLACE, 1.0, q=0.5),
    ],
)
def test_what_cannot_be_accounted_for_is_refused(mechanism: Mechanism) -> None:
    with pytest.raises(GemelError) as caught:
        epsilon([one(GAUSSIAN, 5.0), mechanism], delta=DELTA)
    assert caught.value.code == "GEM303"


@pytest.mark.parametrize(
    "event", [{"kind": "zcdp", "noise_multiplier": 1.0}, {"kind": "gaussian"}, {"kind": 3}]
)
def test_an_unknown_event_in_json_is_refused(event: dict[str, object]) -> None:
    with pytest.raises(GemelError) as caught:
        epsilon_of_events_json([event], delta=DELTA)
    assert caught.value.code == "GEM303"


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, math.nan])
def test_an_impossible_delta_is_refused(delta: float) -> None:
    with pytest.raises(GemelError, match="GEM303"):
        epsilon([one(GAUSSIAN, 5.0)], delta=delta)
