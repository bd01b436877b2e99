"""The public domain of a panel, and histories in it: at each visit a level of every field, visit after visit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemel.core.errors import GemelError

Levels = NDArray[np.int64]
NO_VISIT = -1
# As the first of a field's values: at some visits it is not measured.
NOT_MEASURED = math.nan


@dataclass(frozen=True)
class Field:
    """Something told at every visit: each level's value, in the field's unit, in increasing order (0 and 1 of a flag).

    The first may be `NOT_MEASURED`.
    """

    name: str
    values: tuple[float, ...]

    def level_of(self, value: float) -> int:
        """The level whose value is nearest."""
        return int(np.nanargmin(np.abs(np.asarray(self.values) - value)))

    @property
    def places(self) -> NDArray[np.float64]:
        """(levels,): where each level lies between the lowest, -1, and the highest, 1; in the middle where it is not measured."""
        measured = len(self.values) - math.isnan(self.values[0])
        ends = np.linspace(-1, 1, measured) if measured > 1 else np.zeros(1)
        return np.concatenate([np.zeros(len(self.values) - measured), ends])


@dataclass(frozen=True)
class Panel:
    """What may be in a history. All of it is public: nothing here is taken from data.

    Attributes:
        strata: How many kinds of patients there are at the start; a baseline is one of them.
        fields: In the order in which they come about within a visit: a treatment before what it changes.
        visits: The most that a history has; later ones are left out, which bounds what a patient contributes.
        days_between: From one visit to the next.
    """

    strata: int
    fields: tuple[Field, ...]
    visits: int
    days_between: int

    def __post_init__(self) -> None:
        """Raises GEM705 for a domain in which there is nothing to learn."""
        names = {field.name for field in self.fields}
        if not self.fields or len(names) < len(self.fields) or any(len(f.values) < 2 for f in self.fields):
            raise GemelError(
                "GEM705", "A panel needs fields of different names, each with two levels or more."
            )
        if self.strata < 1 or self.visits < 2 or self.days_between < 1:
            raise GemelError("GEM705", "A panel needs strata, two visits or more, and days between them.")

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many levels each field has."""
        return tuple(len(field.values) for field in self.fields)


@dataclass(frozen=True)
class Histories:
    """n patients in a panel's levels: `strata` (n,), and `levels` (n, visits, fields), `NO_VISIT` after the last visit."""

    panel: Panel
    strata: Levels
    levels: Levels

    def __post_init__(self) -> None:
        """Raises GEM705 for what is not in the domain, or has a visit after one that was not made."""
        panel, levels = self.panel, self.levels
        fits = levels.shape == (len(self.strata), panel.visits, len(panel.fields))
        fits = fits and bool(np.all((self.strata >= 0) & (self.strata < panel.strata)))
        if fits and levels.size:
            here = (levels != NO_VISIT).all(axis=2)
            inside = ((levels >= 0) & (levels < np.array(panel.sizes))).all(axis=2)
            gone = (levels == NO_VISIT).all(axis=2)
            fits = bool(np.all(np.where(here, inside, gone)) and here[:, 0].all())
            fits = fits and not bool(np.any(here[:, 1:] & ~here[:, :-1]))
        if not fits:
            raise GemelError("GEM705", "Histories do not lie in the panel's public domain.")

    def __len__(self) -> int:
        return len(self.strata)

    @property
    def here(self) -> NDArray[np.bool_]:
        """(n, visits): whether the visit was made."""
        return np.asarray(self.levels[:, :, 0] != NO_VISIT)

    def take(self, rows: NDArray[np.integer]) -> Histories:
        """The histories of these rows."""
        return Histories(self.panel, self.strata[rows], self.levels[rows])

    def tokens(self) -> Levels:
        """(n, visits): all fields of a visit as one number, the last field the fastest; `NO_VISIT` where there was none."""
        token = np.zeros(self.here.shape, np.int64)
        for j, size in enumerate(self.panel.sizes):
            token = token * size + self.levels[:, :, j]
        return np.where(self.here, token, NO_VISIT)
