"""What leaves a node: noisy tables only, as declared, at the price that was said before."""

from __future__ import annotations

import json
import math

import msgspec
import numpy as np
import pytest
from described_population import draw, requests
from scipy import stats

from gemel.core.arrays import check_arrays
from gemel.core.errors import GemelError
from gemel.core.mechanism import MechanismKind
from gemel.core.statistic_request import CountRequest, MomentsRequest
from gemel.privacy.accounting import epsilon
from gemel.privacy.noise import NoiseSource
from gemel.privacy.statistics import charges, declared, describe, estimates, sum_tables, tabulate
from gemel.privacy.statistics.release import add_noise

SECURE = NoiseSource.secure()


@pytest.fixture(scope="module")
def dataset():
    return draw(300, seed=11)


def test_a_node_refuses_to_describe_patients_with_noise_that_can_be_guessed(dataset):
    with pytest.raises(GemelError) as caught:
        describe(requests(5.0), dataset, noise=NoiseSource.for_tests(0))
    assert caught.value.code == "GEM307"


@pytest.mark.parametrize("multiplier", [0.0, -1.0, float("nan"), 1e-9])
def test_a_node_refuses_to_describe_patients_without_noise(dataset, multiplier):
    for request in requests(multiplier):
        with pytest.raises(GemelError) as caught:
            describe([request], dataset, noise=SECURE)
        assert caught.value.code == "GEM311"


def test_one_bad_request_among_many_stops_all_before_a_patient_is_touched():
    with pytest.raises(GemelError):
        describe([*requests(5.0), CountRequest(name="BAD", noise_multiplier=5.0)], None, noise=SECURE)


def test_what_is_released_is_what_was_declared(dataset):
    asked = requests(5.0)
    released = describe(asked, dataset, noise=SECURE)
    check_arrays(released, declared(asked))
    assert list(released) == [r.name for r in asked]


def test_no_exact_table_leaves_and_every_cell_has_the_noise_that_was_charged(dataset):
    asked = requests(5.0)
    exact = {r.name: tabulate(r, dataset)[r.name] for r in asked}
    errors = {r.name: [] for r in asked}
    for _ in range(120):
        for name, table in describe(asked, dataset, noise=SECURE).items():
            errors[name].append(table - exact[name])
    for request in asked:
        noise = np.array(errors[request.name]).reshape(120, -1)
        # Each cell is noised (a cell without noise would never move), with the variance that the price is for.
        assert (noise.std(axis=0) > 0.5 * request.noise_sigma).all(), request.name
        degrees = noise.size
        square = (noise.astype(float) ** 2).sum() / request.noise_sigma**2
        assert 1e-6 < stats.chi2.cdf(square, degrees) < 1 - 1e-6, request.name
        # Cells are noised independently.
        flat = noise / request.noise_sigma
        assert np.abs(flat.sum(axis=1)).std() < 1.5 * math.sqrt(noise.shape[1])


def test_the_price_is_known_before_anything_is_computed_and_is_the_accountants():
    asked = requests(8.0)
    price = charges(asked)
    assert [m.kind for m in price].count(MechanismKind.GAUSSIAN) == 1
    assert len(price) == len(asked)
    one = epsilon(charges(asked[:1]), delta=1e-5)
    assert one < epsilon(price, delta=1e-5) < len(asked) * one


def gaussian_delta(multiplier: float, eps: float) -> float:
    """Balle & Wang 2018: the exact δ(ε) of the Gaussian mechanism."""
    shift = 1 / (2 * multiplier)
    upper, lower = (stats.norm.cdf(side * shift - eps * multiplier) for side in (1, -1))
    return float(upper - math.exp(eps) * lower)


def discrete_delta(sigma: float, shift: int, eps: float) -> float:
    """The exact hockey-stick divergence of a discrete Gaussian moved by `shift` against one that was not."""
    bound = math.ceil(16 * sigma) + shift
    x = np.arange(-bound, bound + 1)
    weight = np.exp(-(x**2) / (2 * sigma**2))
    loss = (2 * x * shift + shift**2) / (2 * sigma**2)
    return float((weight / weight.sum() * -np.expm1(np.minimum(eps - loss, 0))).sum())


@pytest.mark.parametrize("multiplier", [0.3, 1.0, 4.0, 15.0, 100.0])
def test_moments_cost_less_than_the_gaussian_that_is_charged_at_every_epsilon(multiplier):
    request = MomentsRequest(name="m", noise_multiplier=multiplier, variable="x", low=0.0, high=1.0)
    for z in np.linspace(-2, 5, 15):
        eps = max(z / multiplier + 1 / (2 * multiplier**2), 0.0)
        charged = gaussian_delta(multiplier, eps)
        if charged > 1e-12:
            assert discrete_delta(request.noise_sigma, request.grid, eps) < charged


def test_a_coarse_discrete_gaussian_would_not_cover_the_moments():
    """Why the charge is the Gaussian's: at some ε the coarse one has a smaller δ than the fine one really has."""
    fine = MomentsRequest(name="m", noise_multiplier=3.0, variable="x", low=0.0, high=1.0)
    assert discrete_delta(3.0, 1, 1.2711) < discrete_delta(fine.noise_sigma, fine.grid, 1.2711)


def test_the_noise_of_a_release_is_the_requests_own_and_grows_with_it(dataset):
    for multiplier in (2.0, 40.0):
        (request,) = requests(multiplier)[:1]
        noise = NoiseSource.for_tests(3)
        exact = tabulate(request, dataset)[request.name]
        draws = np.array([add_noise(request, exact, noise)[0] - exact[0] for _ in range(4_000)])
        assert draws.std() == pytest.approx(multiplier, rel=0.05)


def test_a_sum_over_hospitals_refuses_a_table_that_nobody_declared(dataset):
    asked = requests(5.0)
    good = describe(asked, dataset, noise=SECURE)
    with pytest.raises(GemelError) as caught:
        sum_tables(asked, [good, {**good, "patients": np.zeros(2, np.int64)}])
    assert caught.value.code == "GEM403"
    with pytest.raises(GemelError) as caught:
        estimates(asked, {**good, "more": np.zeros(1, np.int64)}, hospitals=1)
    assert caught.value.code == "GEM403"


@pytest.mark.parametrize("wrong", [{"hospitals": 0}, {"hospitals": 2, "noise_share": 0.0}])
def test_a_sum_over_nobody_is_refused(dataset, wrong):
    asked = requests(5.0)
    with pytest.raises(GemelError) as caught:
        estimates(asked, describe(asked, dataset, noise=SECURE), **wrong)
    assert caught.value.code == "GEM311"


def test_results_are_json_and_say_what_they_are(dataset):
    asked = requests(5.0)
    results = estimates(asked, describe(asked, dataset, noise=SECURE), hospitals=1)
    written = json.loads(json.dumps(msgspec.to_builtins(results), allow_nan=False))
    assert [one["name"] for one in written] == [r.name for r in asked]
    kinds = ["count", "histogram", "moments", "contingency", "survival", "prediction", "prediction"]
    assert [one["kind"] for one in written] == kinds


def test_the_errors_of_a_sum_grow_with_the_root_of_the_hospitals_and_shrink_when_they_share_noise(dataset):
    asked = requests(5.0)[:1]
    table = {"patients": np.array([1_000], np.int64)}
    for hospitals, share, error in ((1, 1.0, 5.0), (4, 1.0, 10.0), (4, 0.5, 5.0)):
        (result,) = estimates(asked, table, hospitals=hospitals, noise_share=share)
        assert result.patients.standard_error == pytest.approx(error)
