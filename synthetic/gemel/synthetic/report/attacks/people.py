"""People as an attacker lays them side by side: numbers with public spans, and categories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemel.synthetic.columns import Categories, Numbers, Times
from gemel.synthetic.domain import Codes, Domain

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Flags = NDArray[np.bool_]

# A block of distances stays in the cache.
_CELLS_AT_ONCE = 1 << 16
# Farther than any number over its span.
_MISSING = -1e3


@dataclass(frozen=True)
class People:
    """A table of people, real or virtual.

    Attributes:
        names: Column names; the time and the event of an outcome are two columns.
        values: (n, d), NaN where missing; categories as level numbers.
        spans: For each column how far apart two values can lie, a public number; 0 for categories.
    """

    names: tuple[str, ...]
    values: Floats
    spans: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, index: Rows | slice) -> People:
        """Some of the people."""
        return People(self.names, self.values[index], self.spans)

    @cached_property
    def _columns(self) -> NDArray[np.float32]:
        """(d, n): numbers over their spans and missing far from all, so that what two people add is min(|a - b|, 1)."""
        spans = np.array([span or 1.0 for span in self.spans])
        scaled = np.where(np.isnan(self.values), _MISSING, self.values / spans)
        return np.ascontiguousarray(scaled.T, np.float32)

    def distances(
        self, others: People, columns: Sequence[int]
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Gower distances (rows, others) over these columns, by slices of rows: each column adds 0 to 1.

        Missing beside missing is 0, missing beside anything else 1.
        """
        step = max(1, _CELLS_AT_ONCE // max(len(others), 1))
        mine, theirs = self._columns, others._columns
        for start in range(0, len(self), step):
            part = slice(start, min(start + step, len(self)))
            total = np.zeros((part.stop - start, len(others)), np.float32)
            apart = np.empty_like(total)
            for j in columns:
                np.subtract(mine[j, part, None], theirs[j], out=apart)
                np.abs(apart, out=apart)
                np.minimum(apart, 1, out=apart)
                total += apart
            yield part, total

    def nearest(self, others: People, columns: Sequence[int], count: int = 1) -> tuple[Floats, Rows]:
        """Distances (n, count) to the nearest of the others, and which they are; nearest first, ties as they come."""
        count = min(count, len(others))
        away, which = np.empty((len(self), count)), np.empty((len(self), count), np.intp)
        for part, distance in self.distances(others, columns):
            if count == 1:
                found = distance.argmin(axis=1)[:, None]
            else:
                found = np.argpartition(distance, count - 1, axis=1)[:, :count]
            there = np.take_along_axis(distance, found, axis=1)
            order = np.argsort(there, axis=1, kind="stable")
            away[part] = np.take_along_axis(there, order, axis=1)
            which[part] = np.take_along_axis(found, order, axis=1)
        return away, which


def people_of_codes(domain: Domain, codes: Codes) -> People:
    """People by their levels, as a mechanism over public bins sees them; `codes` is {column: (n,)}."""
    names: list[str] = []
    values: list[Any] = []
    spans: list[float] = []
    for column in domain.columns:
        levels, form = np.asarray(codes[column.name]), column.form
        if isinstance(form, Numbers):
            last = len(form.edges) - 1
            number = np.where(levels == last, np.nan, levels) if form.stand_in is None else levels
            names, values, spans = [*names, column.name], [*values, number], [*spans, float(max(last - 1, 1))]
        elif isinstance(form, Categories):
            names, values, spans = [*names, column.name], [*values, levels], [*spans, 0.0]
        else:
            kind = np.where(levels < form.events, 1, np.where(_is_prevalent(form, levels), 2, 0))
            days = np.unique(form.span[1], return_inverse=True)[1]
            names += [f"{column.name}, time", f"{column.name}, event"]
            values, spans = [*values, days[levels], kind], [*spans, float(max(days.max(), 1)), 0.0]
    return People(tuple(names), np.column_stack(values).astype(np.float64), tuple(spans))


def people_of_values(domain: Domain, raw: Mapping[str, Any]) -> People:
    """People by their values, as `Domain.encode_columns` takes and `decode_columns` gives them."""
    names: list[str] = []
    values: list[Any] = []
    spans: list[float] = []
    for column in domain.columns:
        form, found = column.form, raw[column.name]
        if isinstance(form, Numbers):
            names, values = [*names, column.name], [*values, np.asarray(found, np.float64)]
            spans.append(float(form.edges[-1] - form.edges[0]))
        elif isinstance(form, Categories):
            names, values, spans = [*names, column.name], [*values, form.encode(found)], [*spans, 0.0]
        else:
            names += [f"{column.name}, time", f"{column.name}, event"]
            values, spans = [*values, *map(np.asarray, found)], [*spans, float(form.span[1].max()), 0.0]
    return People(tuple(names), np.column_stack(values).astype(np.float64), tuple(spans))


def _is_prevalent(form: Times, levels: Rows) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (levels == len(form.levels) - 1) & form.prevalent
    return found
