"""What people look at, as data: survival, marginals, correlations, real beside virtual. Drawing them is another's.

Exact lines of real people are for the internal report, and for open data; a public figure of others shows virtual people and what
was released.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gemel.synthetic.anchored_tree.queries import Query, Table
from gemel.synthetic.report.marginals import ordered_columns, rank_correlation
from gemel.synthetic.report.people_table import Floats, PeopleTable
from gemel.synthetic.report.survival import (
    enough_at_risk,
    kaplan_meier,
    time_columns,
    time_grid,
    who_is_at_risk,
)

Figure = dict[str, Any]


def figures_of(
    draws: Sequence[PeopleTable],
    *,
    real: Mapping[str, PeopleTable],
    queries: tuple[Query, ...] = (),
    tables: Mapping[str, Table] | None = None,
) -> list[Figure]:
    """Figures of the draws and of `real` people by name ("real", "holdout"); none of those where all must be public.

    Each is {kind, name, title, lines, levels}; a line is {name, x, y}. "survival": x in days, y the share still free of the event.
    "marginal": y the share of each level. "matrix": y the rows of Spearman's correlations of the columns in `levels`, one after the other.
    """
    return [
        *_survival(draws, real),
        *_marginals(draws, real, queries, tables or {}),
        *_correlations(draws, real),
    ]


def _survival(draws: Sequence[PeopleTable], real: Mapping[str, PeopleTable]) -> Iterator[Figure]:
    for column in time_columns(draws[0]):
        grid = time_grid(column)
        lines = []
        for name, people in _named(draws, real):
            share, present = kaplan_meier(*who_is_at_risk(column, people), grid)
            shown = enough_at_risk(present)
            lines.append(_line(name, grid[shown], share[shown]))
        yield _figure("survival", column.name, column.title, lines)


def _marginals(
    draws: Sequence[PeopleTable],
    real: Mapping[str, PeopleTable],
    queries: tuple[Query, ...],
    tables: Mapping[str, Table],
) -> Iterator[Figure]:
    released = {q.columns[0]: tables[q.name] for q in queries if len(q.columns) == 1 and q.groups == (None,)}
    for column in draws[0].domain.columns:
        at = np.arange(column.size, dtype=np.float64)
        lines = []
        for name, people in _named(draws, real):
            counts = np.bincount(people.codes[column.name], minlength=column.size)
            lines.append(_line(name, at, counts / counts.sum()))
        if column.name in released:
            table = np.maximum(released[column.name].astype(np.float64), 0)
            lines.append(_line("released", at, table / max(table.sum(), 1.0)))
        yield _figure("marginal", column.name, column.title, lines, column.levels)


def _correlations(draws: Sequence[PeopleTable], real: Mapping[str, PeopleTable]) -> Iterator[Figure]:
    columns = ordered_columns(draws[0].domain)
    if len(columns) > 1:
        titles = tuple(column.title for column in columns)
        at = np.arange(len(columns) ** 2, dtype=np.float64)
        sides = [("virtual", draws[0]), *real.items()]
        lines = [_line(name, at, rank_correlation(people).ravel()) for name, people in sides]
        yield _figure("matrix", "correlations", "Spearman's correlations", lines, titles)


def _named(
    draws: Sequence[PeopleTable], real: Mapping[str, PeopleTable]
) -> Iterator[tuple[str, PeopleTable]]:
    yield from real.items()
    for draw in draws:
        yield "virtual", draw


def _line(name: str, x: Floats, y: Floats) -> dict[str, Any]:
    return {"name": name, "x": np.round(x, 6).tolist(), "y": np.round(y, 6).tolist()}


def _figure(
    kind: str, name: str, title: str, lines: list[dict[str, Any]], levels: tuple[str, ...] = ()
) -> Figure:
    return {"kind": kind, "name": name, "title": title, "lines": lines, "levels": list(levels)}
