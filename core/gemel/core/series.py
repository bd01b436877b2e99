"""Irregular series: for each patient a run of (day, value) pairs, all patients' runs in one array."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Series:
    """The runs of n patients, one behind the other: patient i has the pairs offsets[i] to offsets[i + 1].

    Attributes:
        offsets: int64 (n + 1,), from 0 to m, never falling.
        days: float32 (m,), from the index date on (negative before it), with the hour as a fraction.
        values: float32 (m,), in the unit of its feature or target. Each run is sorted by day, then value.
    """

    offsets: NDArray[np.int64]
    days: NDArray[np.float32]
    values: NDArray[np.float32]

    def __post_init__(self) -> None:
        whole = self.days.shape == self.values.shape == (self.days.size,)
        if not whole or self.offsets.ndim != 1 or not self.offsets.size:
            raise ValueError(f"inconsistent shapes {self.offsets.shape, self.days.shape, self.values.shape}")
        ordered = bool((np.diff(self.offsets) >= 0).all())
        if self.offsets[0] != 0 or self.offsets[-1] != self.days.size or not ordered:
            raise ValueError(f"the offsets do not run from 0 to {self.days.size}")

    def __len__(self) -> int:
        return self.offsets.size - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Pairs of each patient: int64 (n,)."""
        return np.diff(self.offsets)

    def of(self, position: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Days and values of one patient."""
        run = slice(int(self.offsets[position]), int(self.offsets[position + 1]))
        return self.days[run], self.values[run]

    def take(self, positions: NDArray[np.intp]) -> Series:
        """The runs of some of the patients, in that order.

        >>> series = Series(np.array([0, 2, 3]), np.float32([1, 2, 3]), np.float32([7, 8, 9]))
        >>> series.take(np.array([1, 0])).values.tolist()
        [9.0, 7.0, 8.0]
        """
        lengths = self.lengths[positions]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        pairs = np.repeat(self.offsets[:-1][positions] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Series(offsets, self.days[pairs], self.values[pairs])
