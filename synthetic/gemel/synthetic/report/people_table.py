"""People of one kind, real or virtual, by values and by levels, and parts of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemel.synthetic.columns import Levels
from gemel.synthetic.domain import Domain
from gemel.synthetic.report.evidence import Columns, count_people

Floats = NDArray[np.float64]
Rows = NDArray[np.intp] | NDArray[np.bool_] | slice


@dataclass(frozen=True)
class PeopleTable:
    """A table of people with their public levels, which are worked out once."""

    domain: Domain
    columns: Columns

    def __len__(self) -> int:
        return count_people(self.columns)

    @cached_property
    def codes(self) -> Mapping[str, Levels]:
        """The level of each column, {name: (n,)}."""
        return self.domain.encode_columns(self.columns)

    def numbers(self, name: str) -> Floats:
        """The values (n,) of a number column, NaN where missing."""
        return np.asarray(self.columns[name], np.float64)

    def times(self, name: str) -> tuple[Floats, NDArray[np.int64]]:
        """Days (n,) and event (n,) of a time column."""
        days, event = self.columns[name]
        return np.nan_to_num(np.asarray(days, np.float64)), np.asarray(event, np.int64)

    def take(self, rows: Rows) -> PeopleTable:
        """Some of the people."""
        taken: dict[str, Any] = {
            name: tuple(np.asarray(part)[rows] for part in column)
            if isinstance(column, tuple)
            else np.asarray(column)[rows]
            for name, column in self.columns.items()
        }
        part = PeopleTable(self.domain, taken)
        part.__dict__["codes"] = {name: levels[rows] for name, levels in self.codes.items()}
        return part

    def first(self, count: int) -> PeopleTable:
        """At most so many of them, chosen by a fixed public rule."""
        if count >= len(self):
            return self
        return self.take(np.sort(np.random.default_rng(0).permutation(len(self))[:count]))
