"""What is counted: one exact integer table for each query, in which one patient adds one to one cell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemel.core.errors import GemelError
from gemel.synthetic.domain import Codes, Domain

Table = NDArray[np.int64]


@dataclass(frozen=True)
class Query:
    """One table over one to four columns.

    Attributes:
        name: The name under which the table travels.
        columns: The axes.
        groups: For each axis the cell of each level, where levels are counted together; None counts each by itself.
        sigma: The discrete Gaussian's parameter of the table's noise, the sum of all hospitals' noise; its sensitivity is 1.
    """

    name: str
    columns: tuple[str, ...]
    groups: tuple[tuple[int, ...] | None, ...]
    sigma: float

    def shape(self, domain: Domain) -> tuple[int, ...]:
        """Cells along each axis."""
        pairs = zip(self.columns, self.groups, strict=True)
        return tuple(domain.sizes[c] if g is None else max(g) + 1 for c, g in pairs)

    def check(self, domain: Domain) -> None:
        """Refuse (GEM705) a query that is not about the domain: nothing is counted before this."""
        for column, group in zip(self.columns, self.groups, strict=True):
            size = domain.sizes.get(column)
            if size is None or (
                group is not None and (len(group) != size or min(group) < 0 or max(group) >= size)
            ):
                raise GemelError("GEM705", f"The table {self.name} does not fit the column {column}.")
        if len(set(self.columns)) != len(self.columns) or not self.columns or not self.sigma > 0:
            raise GemelError("GEM705", f"The table {self.name} is no table of a plan.")

    def count(self, domain: Domain, codes: Codes) -> Table:
        """The exact table, int64 of `shape`: private until noise is added. One patient changes one cell by one."""
        self.check(domain)
        shape = self.shape(domain)
        axes = tuple(
            codes[c] if g is None else np.asarray(g)[codes[c]]
            for c, g in zip(self.columns, self.groups, strict=True)
        )
        flat = np.ravel_multi_index(axes, shape)
        return np.bincount(flat, minlength=math.prod(shape)).astype(np.int64).reshape(shape)


def check_table(query: Query, domain: Domain, table: NDArray[np.generic]) -> None:
    """Refuse (GEM701) a table that is not an answer to the query."""
    if table.shape != query.shape(domain) or table.dtype.kind not in "iu":
        raise GemelError("GEM701", f"{query.name} must be integers {query.shape(domain)}, got {table.shape}.")


def total_of(tables: Mapping[str, NDArray[np.integer]], queries: tuple[Query, ...]) -> float:
    """The number of patients that noisy tables speak of: the minimum-variance unbiased mean of their sums."""
    variances = np.array([tables[q.name].size * q.sigma**2 for q in queries])
    sums = np.array([float(tables[q.name].sum()) for q in queries])
    return max(1.0, float((sums / variances).sum() / (1 / variances).sum()))
