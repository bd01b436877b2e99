from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import dp_accounting
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from gemel.core.errors import GemelError
from gemel.core.mechanism import Mechanism, MechanismKind
from gemel.privacy import renyi
from gemel.privacy.accounting import epsilon as accounted
from gemel.privacy.renyi import ORDERS, RenyiFilter, curve

DELTA = 1e-5
GAUSSIAN = MechanismKind.GAUSSIAN
POISSON = MechanismKind.POISSON_GAUSSIAN
DISCRETE = MechanismKind.DISCRETE_GAUSSIAN
LAPLACE = MechanismKind.LAPLACE
DISCRETE_LAPLACE = MechanismKind.DISCRETE_LAPLACE
EXPONENTIAL = MechanismKind.EXPONENTIAL
WHOLE = np.round(ORDERS) == ORDERS


def one(kind: MechanismKind, z: float, *, q: float = 1.0, count: int = 1) -> Mechanism:
    return Mechanism(kind=kind, noise_multiplier=z, sample_rate=q, count=count)


def of(mechanisms: Sequence[Mechanism], *, delta: float = DELTA) -> float:
    return float(renyi.epsilon(np.sum([curve(m) for m in mechanisms], axis=0), delta=delta))


mechanisms = st.builds(
    lambda kind, z, q, count: one(kind, z, q=q if kind == POISSON else 1.0, count=count),
    st.sampled_from(list(MechanismKind)),
    st.sampled_from([0.5, 1.0, 4.0, 25.0]),
    st.sampled_from([0.001, 0.05, 0.5, 1.0]),
    st.integers(1, 400),
)

# --- curves ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("z", "q"), [(1.0, 0.03), (0.6, 0.1), (0.1, 1e-6), (0.3, 0.9), (100.0, 0.3), (20.0, 1.0)]
)
def test_sampled_gaussians_have_the_library_s_curve_at_whole_orders(z: float, q: float) -> None:
    accountant = dp_accounting.rdp.RdpAccountant(ORDERS[WHOLE].tolist())
    accountant.compose(dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(z)))
    assert curve(one(POISSON, z, q=q))[WHOLE] == pytest.approx(accountant.rdp, rel=2e-9)


@pytest.mark.parametrize(("z", "q"), [(1.0, 0.03), (3.0, 0.5), (0.8, 0.01)])
def test_between_whole_orders_a_sampled_gaussian_s_curve_is_above_the_integral(z: float, q: float) -> None:
    given_curve = curve(one(POISSON, z, q=q))
    for index in np.flatnonzero(~WHOLE)[:8]:
        order = float(ORDERS[index])

        def integrand(x: float, order: float = order) -> float:
            ratio = 1 - q + q * math.exp((2 * x - 1) / (2 * z**2))
            return float(stats.norm.pdf(x, scale=z) * ratio**order)

        moment, _ = integrate.quad(integrand, -12 * z, 12 * z + order, limit=400)
        assert given_curve[index] >= math.log(moment) / (order - 1) * (1 - 1e-7)


def divergences(p: Sequence[float], q: Sequence[float]) -> np.ndarray:
    upper, lower = np.log(p), np.log(q)
    logs = [np.logaddexp.reduce(a * upper + (1 - a) * lower) for a in ORDERS]
    return np.array(logs) / (ORDERS - 1)


def test_the_discrete_laplace_has_the_divergence_of_its_probabilities() -> None:
    scale = 3.0
    x = np.arange(-120, 121)
    here, there = np.exp(-np.abs(x) / scale), np.exp(-np.abs(x - 1) / scale)
    exact = divergences(here / here.sum(), there / there.sum())
    assert curve(one(DISCRETE_LAPLACE, scale)) == pytest.approx(exact, rel=1e-8)


def test_the_laplace_has_the_library_s_curve() -> None:
    accountant = dp_accounting.rdp.RdpAccountant(ORDERS.tolist())
    accountant.compose(dp_accounting.LaplaceDpEvent(2.0), 3)
    assert curve(one(LAPLACE, 2.0, count=3)) == pytest.approx(accountant.rdp, rel=1e-9)


@pytest.mark.parametrize("sigma", [0.4, 1.0, 5.0])
def test_the_discrete_gaussian_s_curve_is_above_the_divergence_of_its_probabilities(sigma: float) -> None:
    bound = math.ceil(12 * sigma) + 1
    x = np.arange(-bound, bound + 1)
    logs = -(x**2) / (2 * sigma**2)
    total = np.log(np.sum(np.exp(logs)))
    shifted = -((x - 1) ** 2) / (2 * sigma**2)
    moments = np.array([np.logaddexp.reduce(a * logs + (1 - a) * shifted) - total for a in ORDERS])
    # The sum needs its terms near x = 1 - α: where they lie outside, it says nothing.
    inside = bound > ORDERS + 8 * sigma
    assert np.all(curve(one(DISCRETE, sigma))[inside] >= (moments / (ORDERS - 1))[inside] - 1e-12)


@pytest.mark.parametrize("eps", [0.1, 1.0, 4.0])
def test_a_selection_s_curve_is_above_every_selection_from_three(eps: float) -> None:
    ours = curve(one(EXPONENTIAL, 1 / eps))
    for scores in itertools.product([0.0, 3.0], repeat=3):
        for moves in itertools.product([-1.0, 0.0, 1.0], repeat=3):
            p = np.exp(eps * np.array(scores) / 2)
            q = np.exp(eps * (np.array(scores) + moves) / 2)
            assert np.all(ours >= divergences(p / p.sum(), q / q.sum()) - 1e-12)


@given(mechanisms)
def test_a_curve_rises_with_the_order_and_is_proportional_to_the_count(mechanism: Mechanism) -> None:
    values = curve(mechanism)
    assert np.all(values > 0)
    assert np.all(np.diff(values) >= -1e-9 * values[1:])
    single = curve(one(mechanism.kind, mechanism.noise_multiplier, q=mechanism.sample_rate))
    assert values == pytest.approx(single * mechanism.count)


def test_a_curve_cannot_be_changed_by_who_reads_it() -> None:
    with pytest.raises(ValueError, match="read-only"):
        curve(one(GAUSSIAN, 1.0))[0] = 0.0


# --- conversion ------------------------------------------------------------------------------------


@given(st.lists(mechanisms, min_size=1, max_size=3), st.sampled_from([1e-3, 1e-5, 1e-7]))
@settings(max_examples=10, deadline=None)
def test_the_quick_bound_is_never_below_the_accountant(several: list[Mechanism], delta: float) -> None:
    assert of(several, delta=delta) >= accounted(several, delta=delta)


@pytest.mark.parametrize("z", [300.0, 1e4])
@pytest.mark.parametrize("kind", list(MechanismKind))
def test_the_quick_bound_is_not_below_where_losses_are_smaller_than_the_grid(
    kind: MechanismKind, z: float
) -> None:
    tiny = one(kind, z, q=0.01 if kind == POISSON else 1.0, count=1000)
    assert of([tiny]) >= accounted([tiny], delta=DELTA)


def test_the_conversion_is_the_library_s() -> None:
    composed = curve(one(GAUSSIAN, 2.0, count=3)) + curve(one(LAPLACE, 5.0))
    expected, _ = dp_accounting.rdp.rdp_privacy_accountant.compute_epsilon(ORDERS, composed, DELTA)
    assert float(renyi.epsilon(composed, delta=DELTA)) == pytest.approx(expected, abs=3e-6)


def test_many_patients_are_converted_at_once() -> None:
    curves = np.array([curve(one(GAUSSIAN, 3.0, count=n)) for n in (1, 2, 5)] + [np.zeros(len(ORDERS))])
    together = renyi.epsilon(curves.reshape(2, 2, -1), delta=DELTA)
    assert together.shape == (2, 2)
    assert together.ravel().tolist() == [float(renyi.epsilon(c, delta=DELTA)) for c in curves]
    assert together[1, 1] == 0


@pytest.mark.parametrize("delta", [0.0, 1.0, math.nan])
def test_an_impossible_delta_is_refused(delta: float) -> None:
    with pytest.raises(GemelError, match="GEM303"):
        renyi.epsilon(curve(one(GAUSSIAN, 1.0)), delta=delta)


def test_a_mechanism_that_is_not_accounted_has_no_curve() -> None:
    with pytest.raises(GemelError, match="GEM303"):
        curve(one("report_noisy_max", 1.0))  # type: ignore[arg-type]


# --- the filter ------------------------------------------------------------------------------------


def test_a_filter_admits_almost_what_a_plan_fixed_beforehand_may_spend() -> None:
    filter_ = RenyiFilter(epsilon=3.0, delta=DELTA)
    step = one(GAUSSIAN, 20.0)
    admitted = 0
    while filter_.admits(step):
        filter_.spend(step)
        admitted += 1
    spent = accounted([one(GAUSSIAN, 20.0, count=admitted)], delta=DELTA)
    assert 2.6 < spent <= 3.0
    assert filter_.used > 0.99


def test_a_refused_mechanism_costs_nothing_and_a_smaller_one_may_follow() -> None:
    filter_ = RenyiFilter(epsilon=1.0, delta=DELTA)
    filter_.spend(one(GAUSSIAN, 10.0))
    before = filter_.used
    with pytest.raises(GemelError, match="GEM301"):
        filter_.spend(one(GAUSSIAN, 1.0))
    assert filter_.used == before
    assert filter_.admitted == (one(GAUSSIAN, 10.0),)
    filter_.spend(one(GAUSSIAN, 10.0))


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, DELTA), (math.inf, DELTA), (1.0, 0.0), (1e-4, DELTA)])
def test_a_filter_without_a_budget_is_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(GemelError, match="GEM305"):
        RenyiFilter(epsilon=epsilon, delta=delta)


Choice = Callable[[float, list[Mechanism]], Mechanism]
_MENU = [0.15, 0.3, 0.6, 1.0, 1.6]


def _spend_adaptively(choose: Choice, *, epsilon: float, delta: float, depth: int) -> float:
    """Exact hockey-stick divergence at ε of a whole run, every branch followed.

    Each mechanism is a discrete Laplace: its outcome is a loss of +1/z or -1/z, so a run is a path in a binary tree.
    The choice sees the loss so far, which is more than anybody who does not know the patient.
    """

    def follow(path: list[Mechanism], loss: float, log_p: float) -> float:
        state = RenyiFilter(epsilon=epsilon, delta=delta)
        for mechanism in path:
            state.spend(mechanism)
        following = choose(loss, path) if len(path) < depth else None
        if following is None or not state.admits(following):
            return math.exp(log_p) * max(0.0, -math.expm1(epsilon - loss))
        size = 1 / following.noise_multiplier
        truth = -math.log1p(math.exp(-size))
        return follow([*path, following], loss + size, log_p + truth) + follow(
            [*path, following], loss - size, log_p + truth - size
        )

    return follow([], 0.0, 0.0)


@given(st.randoms(use_true_random=False), st.sampled_from([(1.5, 1e-2), (2.5, 1e-3), (3.0, 0.1)]))
@settings(max_examples=15, deadline=None)
def test_choices_that_look_at_every_output_never_exceed_the_filter_s_limit(
    random: object, limit: tuple[float, float]
) -> None:
    table: dict[tuple[int, int], Mechanism] = {}

    def choose(loss: float, path: list[Mechanism]) -> Mechanism:
        key = (len(path), round(loss * 4))
        if key not in table:
            table[key] = one(DISCRETE_LAPLACE, 1 / random.choice(_MENU))  # type: ignore[attr-defined]
        return table[key]

    epsilon, delta = limit
    assert _spend_adaptively(choose, epsilon=epsilon, delta=delta, depth=7) <= delta


@pytest.mark.parametrize("limit", [(1.5, 1e-2), (2.5, 1e-3), (3.0, 0.1)])
def test_an_adversary_who_presses_on_when_the_loss_is_high_does_not_pass_the_limit(
    limit: tuple[float, float],
) -> None:
    def bold(loss: float, path: list[Mechanism]) -> Mechanism:
        return one(DISCRETE_LAPLACE, 1.0 if loss > 0 else 8.0)

    def timid(loss: float, path: list[Mechanism]) -> Mechanism:
        return one(DISCRETE_LAPLACE, 8.0 if loss > 0.5 else 1.0)

    for choose in (bold, timid):
        assert _spend_adaptively(choose, epsilon=limit[0], delta=limit[1], depth=8) <= limit[1]


def test_the_parts_of_delta_add_up_to_it() -> None:
    filter_ = RenyiFilter(epsilon=2.0, delta=1e-4)
    # The inverse of the conversion: what each order's budget leaves of δ.
    log_parts = (ORDERS - 1) * (filter_._budgets - 2.0 + np.log1p(-1 / ORDERS)) - np.log(ORDERS)
    assert math.fsum(np.exp(log_parts)) == pytest.approx(1e-4, rel=1e-9)
