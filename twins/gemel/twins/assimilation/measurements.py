"""Observations of n patients as dense tensors: what was measured, when, of whom."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gemel.core.errors import GemelError
from gemel.core.series import Series
from gemel.twins.twin import Observations


@dataclass(frozen=True)
class MeasurementError:
    """How far a measured value lies from the true one: normal, with a part in its unit and a part of the value itself."""

    deviation: float
    relative: float = 0.0

    def variance(self, expected: Tensor) -> Tensor:
        """Of a measurement whose true value is `expected`: the same shape."""
        return self.deviation**2 + (self.relative * expected) ** 2

    def log_density(self, measured: Tensor, expected: Tensor) -> Tensor:
        """Log-likelihood of a true value, given what was measured."""
        variance = self.variance(expected)
        return -0.5 * ((measured - expected) ** 2 / variance + variance.log() + math.log(2 * math.pi))


@dataclass(frozen=True)
class Measurements:
    """All observations of n patients, each patient's by day; M is the most that any has.

    Attributes:
        names: What is observed.
        day: float64 (n, M), never falling; a patient's last day where nothing is left.
        value: float64 (n, M), 0 where nothing is left.
        which: int64 (n, M), the number of the name.
        known: bool (n, M), false where nothing is left.
    """

    names: tuple[str, ...]
    day: Tensor
    value: Tensor
    which: Tensor
    known: Tensor

    def __len__(self) -> int:
        return len(self.day)

    @property
    def days(self) -> tuple[float, ...]:
        """The days on which anything was observed of anybody, increasing."""
        return tuple(np.unique(self.day[self.known].numpy()).tolist())

    def is_of(self, name: str) -> Tensor:
        """bool (n, M): observations of this."""
        return self.known & (self.which == self.names.index(name))


def measurements_of(observations: Observations, names: Iterable[str], *, persons: int) -> Measurements:
    """Observations of `persons` patients, by name of what is observed.

    Raises GEM604 for a name that is not among `names`, for an observation before the index date, and for a value or a
    day that is no number; ValueError when the series are not of so many patients.
    """
    known = tuple(names)
    for name, series in observations.items():
        if name not in known:
            raise GemelError("GEM604", f"{name} is not observed; this twin observes {list(known)}.")
        if len(series) != persons:
            raise ValueError(f"{name}: {len(series)} patients, expected {persons}")
        if not (np.isfinite(series.days).all() and np.isfinite(series.values).all()):
            raise GemelError("GEM604", f"{name}: an observation is no number.")
        if (series.days < 0).any():
            raise GemelError("GEM604", f"{name}: an observation lies before the index date.")
    owner, day, value, which = (_joined(observations, known, part) for part in range(4))
    order = np.lexsort((value, which, day, owner))
    owner, day, value, which = owner[order].astype(np.int64), day[order], value[order], which[order]
    lengths = np.bincount(owner, minlength=persons)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    shape = (persons, int(lengths.max(initial=0)))
    dense = {part: np.zeros(shape) for part in ("day", "value", "which", "known")}
    for part, column in (("day", day), ("value", value), ("which", which), ("known", np.ones(len(owner)))):
        dense[part][owner, place] = column
    return Measurements(
        known,
        torch.from_numpy(np.maximum.accumulate(dense["day"], axis=1) if shape[1] else dense["day"]),
        torch.from_numpy(dense["value"]),
        torch.from_numpy(dense["which"]).long(),
        torch.from_numpy(dense["known"]).bool(),
    )


def first_of_each(observations: Observations, count: int) -> dict[str, Series]:
    """The first `count` observations of each patient and name."""
    return {name: _first(series, count) for name, series in observations.items()}


def _first(series: Series, count: int) -> Series:
    place = np.arange(series.days.size) - np.repeat(series.offsets[:-1], series.lengths)
    kept = place < count
    offsets = np.concatenate([[0], np.cumsum(np.minimum(series.lengths, count))]).astype(np.int64)
    return Series(offsets, series.days[kept], series.values[kept])


def _joined(observations: Observations, known: tuple[str, ...], part: int) -> np.ndarray:
    columns = [np.zeros(0)]
    for name, series in observations.items():
        owner = np.repeat(np.arange(len(series)), series.lengths)
        number = np.full(series.days.size, known.index(name))
        columns.append(np.asarray((owner, series.days, series.values, number)[part], np.float64))
    return np.concatenate(columns)
