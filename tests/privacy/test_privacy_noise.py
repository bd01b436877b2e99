from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gemel.core.errors import GemelError
from gemel.privacy import noise as noise_module
from gemel.privacy.noise import NoiseSource
from gemel.privacy.statistics import noisy_counts


def exact_pmf(sigma: float) -> tuple[np.ndarray, np.ndarray]:
    support = np.arange(-math.ceil(15 * sigma) - 2, math.ceil(15 * sigma) + 3)
    weights = np.exp(-(support**2) / (2 * sigma**2))
    return support, weights / weights.sum()


def test_a_secure_source_is_secure_and_a_seeded_one_is_not() -> None:
    assert NoiseSource.secure().is_secure
    assert not NoiseSource.for_tests(0).is_secure


def test_two_secure_sources_differ_and_equal_seeds_agree() -> None:
    assert not np.array_equal(NoiseSource.secure().words(8), NoiseSource.secure().words(8))
    assert np.array_equal(NoiseSource.for_tests(5).words(8), NoiseSource.for_tests(5).words(8))
    assert not np.array_equal(NoiseSource.for_tests(5).words(8), NoiseSource.for_tests(6).words(8))


def test_words_are_the_aes_256_counter_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise_module.os, "urandom", lambda size: bytes(range(size)))
    stream = Cipher(algorithms.AES256(bytes(range(32))), modes.CTR(bytes(16))).encryptor()
    expected = np.frombuffer(stream.update(bytes(80)), dtype="<u8")
    source = NoiseSource.secure()
    assert np.array_equal(np.concatenate([source.words(3), source.words(7)]), expected)


def test_a_fork_never_repeats_its_parents_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    source = NoiseSource.secure()
    copied_state = source._stream
    monkeypatch.setattr(noise_module.os, "getpid", lambda: -1)  # what the child of a fork sees
    source.words(4)
    assert source._stream is not copied_state


def test_threads_never_share_a_word() -> None:
    source = NoiseSource.for_tests(1)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(source.words, [500] * 40))
    assert len(np.unique(np.concatenate(parts))) == 20_000


def test_gaussian_draws_are_standard_normal() -> None:
    draws = NoiseSource.for_tests(11).gaussian((200_000,))
    assert stats.kstest(draws, "norm").pvalue > 1e-3
    assert abs(draws.std() - 1) < 0.01
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.01


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2, 0, 4)])
def test_draws_have_the_asked_shape(shape: tuple[int, ...]) -> None:
    source = NoiseSource.for_tests(2)
    assert source.gaussian(shape).shape == shape
    assert source.gaussian(shape).dtype == np.float64
    assert source.discrete_gaussian(3.0, shape).shape == shape
    assert source.discrete_gaussian(3.0, shape).dtype == np.int64


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5, 40.0])
def test_discrete_gaussian_draws_follow_the_exact_probabilities(sigma: float) -> None:
    draws = NoiseSource.for_tests(int(sigma * 10)).discrete_gaussian(sigma, (200_000,))
    support, pmf = exact_pmf(sigma)
    often = pmf * len(draws) >= 10
    observed = np.array([(draws == value).sum() for value in support[often]] + [0])
    observed[-1] = len(draws) - observed.sum()
    expected = np.append(pmf[often], pmf[~often].sum()) * len(draws)
    if expected[-1] < 10:
        observed[-2], expected[-2] = observed[-2] + observed[-1], expected[-2] + expected[-1]
        observed, expected = observed[:-1], expected[:-1]
    assert stats.chisquare(observed, expected).pvalue > 1e-3


@given(st.floats(0.05, 60))
@settings(max_examples=25, deadline=None)
def test_the_table_is_the_exact_distribution_function_to_float_precision(sigma: float) -> None:
    table = noise_module._Table(sigma)
    support, pmf = exact_pmf(sigma)
    inside = np.abs(support) <= table.bound
    expected = np.cumsum(pmf[inside])[:-1]
    built = np.array([threshold / 2**128 for threshold in table.thresholds])
    assert built.shape == (2 * table.bound,)
    offset = table.bound - np.abs(support[inside]).max()
    assert np.allclose(built[offset : len(built) - offset], expected, atol=1e-12)
    assert np.all(np.diff(built) >= 0)
    tail = 2 * stats.norm.logsf(table.bound / sigma) / math.log(2)
    assert tail < -100


def test_equal_upper_halves_are_settled_by_the_lower_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    source = NoiseSource.for_tests(0)
    table = noise_module._discrete_gaussian_table(2.0)
    middle = table.thresholds[table.bound]  # P(X <= 0)
    high, low = middle >> 64, middle & (2**64 - 1)
    uniforms = [(high, low - 1), (high, low), (0, 0), (2**64 - 1, 2**64 - 1)]
    words = np.array([h for h, _ in uniforms] + [lo for _, lo in uniforms], dtype=np.uint64)
    monkeypatch.setattr(source, "words", lambda count: words)
    assert source.discrete_gaussian(2.0, (4,)).tolist() == [0, 1, -table.bound, table.bound]


def test_forty_thousand_cells_take_less_than_two_seconds() -> None:
    import time

    noise_module._discrete_gaussian_table.cache_clear()
    started = time.process_time()
    NoiseSource.secure().discrete_gaussian(35.5, (40_000,))
    assert time.process_time() - started < 2


@pytest.mark.parametrize("sigma", [0.0, -1.0, 10_001.0, math.inf, math.nan])
def test_an_impossible_sigma_is_refused(sigma: float) -> None:
    with pytest.raises(GemelError) as caught:
        NoiseSource.secure().discrete_gaussian(sigma, (1,))
    assert caught.value.code == "GEM305"


@pytest.mark.parametrize("probability", [0.001, 0.05, 0.5, 0.999])
def test_coins_have_their_probability(probability: float) -> None:
    coins = NoiseSource.for_tests(7).bernoulli(probability, 400_000)
    assert coins.dtype == np.bool_
    assert stats.binomtest(int(coins.sum()), len(coins), probability).pvalue > 1e-3


def test_certain_coins_are_certain_and_impossible_ones_refused() -> None:
    source = NoiseSource.for_tests(7)
    assert source.bernoulli(1.0, 100).all()
    assert not source.bernoulli(0.0, 100).any()
    for probability in (-0.1, 1.1, math.nan):
        with pytest.raises(GemelError, match="GEM305"):
            source.bernoulli(probability, 3)


def test_a_source_does_not_show_its_key() -> None:
    assert repr(NoiseSource.secure()) == "NoiseSource(is_secure=True)"
    assert os.getpid() > 0


def test_noisy_counts_add_the_sources_draws_to_every_cell() -> None:
    counts = np.arange(12, dtype=np.int64).reshape(3, 4)
    noisy = noisy_counts(counts, noise_multiplier=5.0, noise=NoiseSource.for_tests(3))
    assert noisy.dtype == np.int64
    assert np.array_equal(noisy - counts, NoiseSource.for_tests(3).discrete_gaussian(5.0, (3, 4)))


def test_noisy_counts_have_the_planned_spread_and_may_be_negative() -> None:
    noisy = noisy_counts(
        np.zeros((100, 500), dtype=np.int64), noise_multiplier=8.0, noise=NoiseSource.for_tests(4)
    )
    assert abs(noisy.std() / 8 - 1) < 0.02
    assert noisy.min() < 0


def test_counts_that_are_not_integers_are_refused() -> None:
    with pytest.raises(GemelError, match="GEM305"):
        noisy_counts(np.zeros(3), noise_multiplier=8.0, noise=NoiseSource.for_tests(4))  # type: ignore[arg-type]


def test_a_child_is_as_secure_as_its_parent_and_never_draws_the_same() -> None:
    parent = NoiseSource.secure()
    assert parent.child().is_secure
    assert not np.array_equal(parent.child().words(8), parent.child().words(8))
    first, second = NoiseSource.for_tests(3), NoiseSource.for_tests(3)
    child, twin = first.child(), second.child()
    assert not child.is_secure
    assert np.array_equal(child.words(8), twin.words(8))
    assert not np.array_equal(first.child().words(8), child.words(8))
    assert not np.array_equal(NoiseSource.for_tests(3).words(8), child.words(8))


def test_large_draws_are_normal_across_the_blocks_they_are_made_in() -> None:
    draws = NoiseSource.for_tests(12).gaussian((5 * noise_module._BLOCK + 3,))
    assert len(np.unique(draws)) == len(draws)
    assert stats.kstest(draws, "norm").pvalue > 1e-3
    halves = draws[: len(draws) // 2], draws[(len(draws) + 1) // 2 :]
    assert abs(np.corrcoef(*halves)[0, 1]) < 0.02
    assert abs(np.corrcoef(np.abs(halves[0]), np.abs(halves[1]))[0, 1]) < 0.02


def test_the_farthest_draws_are_finite_and_where_the_words_put_them(monkeypatch: pytest.MonkeyPatch) -> None:
    source = NoiseSource.for_tests(0)
    # Radii of the words 0 (the largest there is), 2^63 - 1 (none) and all ones (its low 63 bits); angles 0 and a quarter.
    words = np.array([0, 2**63 - 1, 2**64 - 1, 0, 0, 0, 1 << 62, 1 << 62], dtype=np.uint64)
    monkeypatch.setattr(source, "words", lambda count: words)
    draws = source.gaussian((8,))
    largest = math.sqrt(2 * 63 * math.log(2))
    assert np.isfinite(draws).all()
    assert draws == pytest.approx([largest, 0, 0, 0, 0, 0, 0, largest], abs=1e-9)


@pytest.mark.parametrize("sigma", [1e-6, 0.3, 1.0, 1.5, 1e5])
def test_the_lattice_is_fine_beside_the_noise(sigma: float) -> None:
    spacing = noise_module.lattice_spacing(sigma)
    assert math.frexp(spacing)[0] == 0.5  # a power of two
    assert 2.0**-21 < spacing / sigma <= 2.0**-20


@pytest.mark.skipif(noise_module.library() is None, reason="no C compiler was there")
def test_native_draws_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    words = NoiseSource.for_tests(4).words(40_000)
    # The ends of both ranges, and the angles where sine and cosine change places.
    words[:10] = [0, 2**64 - 1, 2**63 - 1, 2**63, 1, 2**62, 3 * 2**62, 2**61, 2**61 - 2048, 2**61 + 2048]
    words[-10:] = words[:10]

    def drawn() -> np.ndarray:
        source = NoiseSource.for_tests(0)
        monkeypatch.setattr(source, "words", lambda count: words.copy())
        return source.gaussian((40_000,))

    native = drawn()
    monkeypatch.setattr(noise_module, "library", lambda: None)
    assert np.abs(native - drawn()).max() < 1e-14
