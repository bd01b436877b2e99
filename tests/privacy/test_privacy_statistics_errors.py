"""Error bars are honest: they cover the truth as often as they say, and say when noise drowns the number."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest
from described_population import PROBABILITIES, draw, named, released, requests, truth
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gemel.core.statistic_request import (
    Binned,
    ContingencyRequest,
    CountRequest,
    HistogramRequest,
    MomentsRequest,
    SurvivalRequest,
)
from gemel.privacy.noise import NoiseSource
from gemel.privacy.statistics import estimates, tabulate
from gemel.privacy.statistics.distribution import central_coefficients
from gemel.privacy.statistics.release import add_noise
from gemel.privacy.statistics.uncertainty import ratio_limits, rising, spread


def coverage(*, patients: int, noise: float, hospitals: int, repeats: int, seed: int):
    """How often each interval holds the population's number, and how often it is called reliable."""
    true, asked = truth(), requests(noise)
    covered, reliable = defaultdict(list), defaultdict(list)
    for repeat in range(repeats):
        sample = draw(patients, seed=seed + repeat)
        at = np.arange(patients) % hospitals
        parts = [sample.take(at == h) for h in range(hospitals)]
        for name, found in named(released(asked, parts, seed=seed + repeat)).items():
            low = -math.inf if found.low is None else found.low
            high = math.inf if found.high is None else found.high
            covered[name].append(low <= true[name] <= high)
            reliable[name].append(found.reliable)
    shares = {name: float(np.mean(hits)) for name, hits in covered.items()}
    return shares, {name: float(np.mean(hits)) for name, hits in reliable.items()}


def check(shares, repeats):
    """Each interval within 90 to 99 % but for chance (four standard errors), all together close to 95 %."""
    assert set(shares) == set(truth())
    chance = 4 * math.sqrt(0.95 * 0.05 / repeats)
    bad = {n: share for n, share in shares.items() if not 0.95 - 0.02 - chance <= share <= 1}
    assert bad == {}
    assert 0.93 <= np.mean(list(shares.values())) <= 0.99


def test_intervals_cover_what_is_true_as_often_as_they_say():
    shares, reliable = coverage(patients=1_500, noise=5.0, hospitals=3, repeats=60, seed=0)
    check(shares, 60)
    assert np.mean(list(reliable.values())) > 0.7


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("patients", "noise", "hospitals"),
    [(400, 2.0, 1), (400, 8.0, 1), (2_000, 2.0, 1), (2_000, 8.0, 1), (2_000, 25.0, 1), (6_000, 8.0, 4)],
)
def test_intervals_cover_what_is_true_over_many_repetitions(patients, noise, hospitals):
    """The numbers of `docs/statistics.md` (run with -s)."""
    shares, reliable = coverage(
        patients=patients, noise=noise, hospitals=hospitals, repeats=1_000, seed=10**6 * patients
    )
    print(
        f"\n{patients} patients, noise {noise}, {hospitals} hospitals: share covered (share called reliable)"
    )
    print("  ".join(f"{name} {shares[name]:.3f} ({reliable[name]:.2f})" for name in shares))
    trusted = {name: share for name, share in shares.items() if reliable[name] > 0.9}
    assert {n: s for n, s in trusted.items() if not 0.90 <= s <= 0.99} == {}
    # What is called unreliable may cover more: its interval grows to all that is possible.
    assert min(shares.values()) >= 0.90


def test_noise_that_drowns_everything_is_said_and_the_intervals_span_what_is_possible():
    shares, reliable = coverage(patients=60, noise=100.0, hospitals=2, repeats=40, seed=7)
    assert min(shares.values()) >= 0.9
    assert np.mean(list(reliable.values())) < 0.03


def test_more_noise_never_makes_an_interval_narrower_on_average():
    sample = draw(2_000, seed=1)
    widths = []
    for noise in (1.0, 10.0, 60.0):
        rows = [named(released(requests(noise), [sample], seed=s)) for s in range(12)]
        ends = [[(e.low or 0.0, 1e3 if e.high is None else e.high) for e in row.values()] for row in rows]
        widths.append(np.diff(np.array(ends), axis=-1)[..., 0].mean(axis=0))
    assert (widths[0] < widths[1]).all()
    assert (widths[1] < widths[2] * 1.02).all()


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from([0.5, 3.0, 30.0, 300.0]), st.integers(0, 400))
def test_whatever_the_noise_results_are_consistent(seed, noise, patients):
    sample = draw(400, seed=seed).take(np.arange(patients))
    results = released(requests(noise), [sample], seed=seed)
    count, lab, moments, table, curve, timed, binary = results
    quantiles = [q.value.value for q in lab.quantiles]
    assert quantiles == sorted(quantiles)
    assert len(quantiles) == len(PROBABILITIES)
    survival = [1.0, *(e.value for e in curve.curves[0].survival), 0.0]
    assert survival == sorted(survival, reverse=True)
    at_risk = [e.value for e in curve.curves[0].at_risk]
    assert at_risk == sorted(at_risk, reverse=True)
    assert moments.variance.value >= 0
    assert 0 <= moments.mean.value <= 3
    assert 0 <= table.independence.p_value <= 1
    probabilities = [
        timed.auc,
        timed.brier,
        timed.c_index,
        binary.auc,
        binary.brier,
        *curve.curves[0].survival,
    ]
    assert all(0 <= e.low <= e.high <= 1 and 0 <= e.value <= 1 for e in probabilities)
    for found in [*named(results).values(), count.patients, *lab.patients, *table.patients]:
        assert math.isfinite(found.value)
        assert found.low is not None
        assert found.high is None or found.low <= found.high
        # An interval without a limit is never called reliable.
        assert not (found.reliable and (found.high is None or found.standard_error is None))


def noisy(request, sample, seed):
    table = add_noise(request, tabulate(request, sample)[request.name], NoiseSource.for_tests(seed))
    return estimates([request], {request.name: table}, hospitals=1)[0]


@pytest.mark.parametrize(("patients", "noise"), [(2_000, 3.0), (2_000, 30.0), (200, 10.0)])
def test_under_independence_p_values_are_uniform_noise_or_not(patients, noise):
    sexes, scores = (0.0, 0.5, 1.0), (0.0, 0.1, 0.2, 1.0)
    of = (Binned(variable="male", edges=sexes), Binned(variable="score", edges=scores))
    request = ContingencyRequest(name="c", noise_multiplier=noise, of=of)
    p = [noisy(request, draw(patients, seed=s), s).independence.p_value for s in range(120)]
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    # Pearson's test takes the noise for an association: this is why ours knows of it.
    table = tabulate(request, draw(patients, seed=0))["c"]
    naive = [
        stats.chi2_contingency(
            np.maximum(add_noise(request, table, NoiseSource.for_tests(s))[:-1, :-1], 1)
        ).pvalue
        for s in range(40)
    ]
    if noise**2 > patients / 6:
        assert np.median(naive) < 0.05


def test_an_association_is_found_through_moderate_noise():
    halves = (0.0, 0.5, 1.0)
    of = tuple(Binned(variable=name, edges=halves) for name in ("male", "treated"))
    found = noisy(ContingencyRequest(name="c", noise_multiplier=10.0, of=of), draw(2_000, seed=1), 1)
    assert found.independence.p_value < 1e-6
    assert found.independence.reliable


def test_counts_below_nothing_are_shown_as_nothing_with_an_interval_that_says_so():
    request = CountRequest(name="n", noise_multiplier=10.0)
    (result,) = estimates([request], {"n": np.array([-7])}, hospitals=1)
    assert (result.patients.value, result.patients.low, result.patients.reliable) == (0.0, 0.0, False)
    assert result.patients.high == pytest.approx(-7 + 19.6, abs=0.01)


def test_a_median_of_nothing_but_noise_may_be_anywhere():
    binned = Binned(variable="creatinine", edges=(0.0, 1.0, 2.0, 3.0))
    request = HistogramRequest(name="h", noise_multiplier=50.0, of=binned, probabilities=(0.5,))
    found = noisy(request, draw(20, seed=0), 0).quantiles[0].value
    assert (found.low, found.high, found.reliable) == (0.0, 3.0, False)


def test_a_curve_without_people_left_says_that_it_may_be_anywhere():
    request = SurvivalRequest(
        name="s", noise_multiplier=5.0, outcome="stroke", edges_years=(0.0, 5.0, 10.0, 15.9, 20.0)
    )
    curve = noisy(request, draw(1_000, seed=0), 0).curves[0].survival
    assert curve[0].reliable
    assert (curve[-1].low, curve[-1].high, curve[-1].reliable) == (0.0, 1.0, False)


@given(st.floats(-50, 50), st.floats(1, 50), st.floats(0.01, 20), st.floats(0.01, 20), st.floats(-0.99, 0.99))
def test_fiellers_limits_are_where_the_test_of_the_ratio_turns(a, b, sa, sb, correlation):
    covariance = np.array([[sa**2, correlation * sa * sb], [correlation * sa * sb, sb**2]])
    limits = ratio_limits(a, b, covariance)
    if limits is None:
        assert b <= 1.96 * sb
        return
    for r in limits:
        error = math.sqrt(max(sa**2 - 2 * r * correlation * sa * sb + r**2 * sb**2, 0.0))
        assert abs(a - r * b) == pytest.approx(1.959963984540054 * error, rel=1e-4, abs=1e-4)


def test_a_spread_is_exact_for_sums():
    random = np.random.default_rng(0)
    weights, table = random.normal(size=(12, 2)), random.poisson(30, (3, 4)).astype(float)
    value, sampling, noise = spread(lambda t: t.reshape(*t.shape[:-2], 12) @ weights, table, 4.0)
    assert value == pytest.approx(table.ravel() @ weights)
    assert noise == pytest.approx(16 * weights.T @ weights)
    assert sampling == pytest.approx((weights.T * table.ravel()) @ weights)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20))
def test_the_nearest_rising_series_rises_and_is_scikit_learns(values):
    from sklearn.isotonic import isotonic_regression

    found = rising(np.array(values))
    assert (np.diff(found) >= -1e-9).all()
    assert found == pytest.approx(isotonic_regression(np.array(values)), abs=1e-6)


@pytest.mark.parametrize("degree", [1, 2, 4])
@pytest.mark.parametrize("centre", [0.0, 0.3, 0.5])
def test_moments_are_read_from_the_cells_exactly(degree, centre):
    t = np.linspace(0, 1, 21)
    cells = np.stack([stats.binom.pmf(j, 4, t) for j in range(5)])
    assert central_coefficients(degree, centre) @ cells == pytest.approx((t - centre) ** degree, abs=1e-12)


def test_moments_beat_a_histogram_of_the_same_price():
    """Why five shared cells and not bins: the mean's error at the same noise."""
    sample = draw(500, seed=0)
    request = MomentsRequest(name="m", noise_multiplier=10.0, variable="creatinine", low=0.0, high=3.0)
    mean = noisy(request, sample, 0).mean
    middles = np.arange(0.05, 3.0, 0.1)
    n = np.isfinite(sample.values[:, 0]).sum()
    by_bins = 10.0 * math.sqrt(((middles - 1.06) ** 2).sum()) / n
    assert mean.standard_error < 0.7 * by_bins
