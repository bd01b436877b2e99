from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gemel.privacy.engine import sampling
from gemel.privacy.engine.sampling import poisson_samples
from gemel.privacy.noise import NoiseSource


def samples(rate: float, patients: int, steps: int, seed: int = 0) -> list[np.ndarray]:
    return list(poisson_samples(NoiseSource.for_tests(seed), rate=rate, patients=patients, steps=steps))


@given(rate=st.floats(1e-6, 1.0, exclude_max=True), patients=st.integers(0, 400), steps=st.integers(1, 150))
@settings(max_examples=60, deadline=None)
def test_every_step_gets_ascending_rows_of_patients_that_are_there(
    rate: float, patients: int, steps: int
) -> None:
    drawn = samples(rate, patients, steps)
    assert len(drawn) == steps
    for rows in drawn:
        assert rows.dtype == np.int64
        assert np.all(np.diff(rows) > 0)
        assert len(rows) == 0 or (rows[0] >= 0 and rows[-1] < patients)


@pytest.mark.parametrize("rate", [0.0003, 0.004, 0.05, 0.19, 0.21, 0.7])
def test_each_patient_is_taken_at_its_rate_and_sizes_are_binomial(rate: float) -> None:
    patients, steps = 2_000, 1_500
    drawn = samples(rate, patients, steps, seed=int(rate * 1e4))
    sizes = np.array([len(rows) for rows in drawn])
    assert stats.binomtest(int(sizes.sum()), patients * steps, rate).pvalue > 1e-3
    # The variance is that of independent coins: neither a fixed size nor clumps.
    assert abs(sizes.var() / (patients * rate * (1 - rate)) - 1) < 5 * np.sqrt(2 / steps) + 2 / sizes.sum()
    often = np.bincount(np.concatenate(drawn), minlength=patients)
    expected = stats.binom(steps, rate)
    assert abs(often.var() / expected.var() - 1) < 0.25
    assert stats.kstest(np.arange(patients).repeat(often) / patients, "uniform").pvalue > 1e-4


def test_neighbours_and_following_steps_are_taken_independently() -> None:
    taken = np.zeros((4_000, 50), dtype=bool)
    for step, rows in enumerate(samples(0.1, 50, 4_000, seed=5)):
        taken[step, rows] = True
    for pairs in (taken[:, :-1] & taken[:, 1:], taken[:-1] & taken[1:]):
        assert stats.binomtest(int(pairs.sum()), pairs.size, 0.01).pvalue > 1e-3


@pytest.mark.parametrize("rate", [1e-9, 3e-4, 0.0128, 0.15])
def test_the_table_of_gaps_is_exact_to_2_to_the_minus_64(rate: float) -> None:
    table = sampling._gap_table(rate)
    stay = 1 - Fraction(rate)
    for k in {0, 1, 2, 17, len(table) // 2, len(table) - 1}:
        exact = (1 - stay ** (k + 1)) * 2**64
        assert 0 <= exact - int(table[k]) < 1 + Fraction(1, 10**6)
    assert np.all(np.diff(table.astype(object)) >= 0)
    assert len(table) <= 4096


def test_a_gap_past_the_table_goes_on_where_the_table_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    # A table of two gaps: P(0) = 1/4, P(1) = 1/4, and half of all draws are past it: two failures and on.
    monkeypatch.setattr(sampling, "_gap_table", lambda rate: np.array([1 << 62, 1 << 63], dtype=np.uint64))

    class Scripted(NoiseSource):
        def words(self, count: int) -> np.ndarray:
            values = [1 << 63, 1 << 63, 1 << 62, 0, (1 << 63) - 1, *[0] * count]
            return np.array(values[:count], dtype=np.uint64)

    source = Scripted(lambda: bytes(32), is_secure=False)
    # Past, past, gap 1, gap 0, gap 1, then every trial: 2 + 2 failures, then trial 5, 6, 8, 9, …
    (rows,) = poisson_samples(source, rate=0.1, patients=11, steps=1)
    assert rows.tolist() == [5, 6, 8, 9, 10]


def test_a_run_of_small_draws_is_continued_to_the_end_of_the_patients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sampling, "_draws", lambda rate, trials, longest: 1)
    drawn = samples(0.1, 500, 40)
    total = sum(len(rows) for rows in drawn)
    assert stats.binomtest(total, 500 * 40, 0.1).pvalue > 1e-3
    assert max(int(rows[-1]) for rows in drawn if len(rows)) > 490


def test_a_sample_costs_words_for_those_it_takes_and_not_for_all() -> None:
    class Counting(NoiseSource):
        asked = 0

        def words(self, count: int) -> np.ndarray:
            self.asked += count
            return super().words(count)

    source = Counting(lambda: bytes(32), is_secure=False)
    list(poisson_samples(source, rate=0.001, patients=100_000, steps=20))
    assert source.asked < 20 * 100_000 * 0.001 * 2
