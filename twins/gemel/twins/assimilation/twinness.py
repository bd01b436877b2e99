"""The test of a twin: does it fit an individual better with each observation?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemel.twins.assimilation.measurements import first_of_each
from gemel.twins.prediction import Prediction
from gemel.twins.twin import Observations, Twin

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Twinness:
    """A mean error over the same patients by how many observations of each kind were taken in.

    Attributes:
        counts: The numbers of observations; the first is 0.
        error: Mean error at each.
        change: What each count changes against none, and `step` against the count before: (counts, 3), mean and the two
            ends of the 95 % bootstrap interval over patients. Rows of the first count are 0.
    """

    counts: tuple[int, ...]
    error: Floats
    change: Floats
    step: Floats

    @property
    def falls(self) -> bool:
        """The mean error falls at every count, and the last is below the first beyond chance."""
        return bool((np.diff(self.error) < 0).all() and self.change[-1, 2] < 0)


def twinness(
    twin: Twin,
    values: NDArray[np.floating],
    observations: Observations,
    error: Callable[[Prediction], Floats],
    *,
    counts: Sequence[int] = (0, 1, 3),
    seed: int = 0,
) -> Twinness:
    """How the error of predictions changes as the first 0, 1, 3, ... observations of each patient and kind are taken in.

    `error` gives the error (n,) of a prediction, such as the distance to what was measured later: of observations that are
    not among those taken in.
    """

    def after(count: int) -> Floats:
        taken = first_of_each(observations, count)
        return error(twin.assimilate(values, taken).predict() if count else twin.predict(values))

    return error_by_count(after, counts=counts, seed=seed)


def error_by_count(
    error_after: Callable[[int], Floats],
    *,
    counts: Sequence[int] = (0, 1, 3),
    draws: int = 2000,
    seed: int = 0,
) -> Twinness:
    """The same from any function that gives the patients' errors (n,) after a number of observations."""
    if counts[0] != 0 or list(counts) != sorted(set(counts)):
        raise ValueError("counts start at 0 and increase")
    errors = np.stack([np.asarray(error_after(count), np.float64) for count in counts])
    if not np.isfinite(errors).all():
        raise ValueError("an error is no number")
    before = np.concatenate([errors[:1], errors[:-1]])
    return Twinness(
        tuple(counts),
        errors.mean(1),
        _mean_and_interval(errors - errors[0], draws, seed),
        _mean_and_interval(errors - before, draws, seed),
    )


def _mean_and_interval(differences: Floats, draws: int, seed: int) -> Floats:
    patients = differences.shape[1]
    random = np.random.default_rng(seed)
    # How often each patient is in each bootstrap sample.
    often = random.multinomial(patients, np.full(patients, 1 / patients), size=draws) / patients
    low, high = np.quantile(differences @ often.T, (0.025, 0.975), axis=1)
    return np.stack([differences.mean(1), low, high], axis=1)
