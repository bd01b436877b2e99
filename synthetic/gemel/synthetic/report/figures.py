"""What people look at in a report, as numbers: survival, the levels of each column, correlations. Drawn in `charts`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemel.synthetic.anchored_tree.queries import Query, Table
from gemel.synthetic.columns import Categories, Column, Times
from gemel.synthetic.domain import Codes, Domain
from gemel.synthetic.report.evidence import Columns, Evidence
from gemel.synthetic.report.survival import kaplan_meier

Floats = NDArray[np.float64]

_STEPS = 60
# A curve ends where fewer are at risk: what follows is one person's fate.
_FEWEST_AT_RISK = 20
# Levels of one column that still fit beside each other, and labelled pairs.
_MOST_LEVELS = 40


def figures_of(
    domain: Domain,
    draws: Sequence[Columns],
    evidence: Evidence | None,
    *,
    queries: Sequence[Query] = (),
    tables: Mapping[str, Table] | None = None,
) -> list[dict[str, Any]]:
    """The figures of some draws, as JSON values, beside patients where there are any.

    Args:
        domain: The public columns.
        draws: Virtual people of each draw.
        evidence: Patients, where this audience may see exact numbers about them.
        queries: What hospitals counted.
        tables: What they released, by query: noisy levels stand beside the virtual ones, and anybody may see them.

    "survival": years, virtual {middle, low, high} over draws, training, holdout. "marginal": levels, the same and released.
    "correlations": names, pairs of places in these, virtual, training, holdout. What is not there is null.
    """
    codes = [domain.encode_columns(people) for people in draws]
    real: dict[str, Columns | None] = {
        "training": evidence.training if evidence else None,
        "holdout": evidence.holdout if evidence else None,
    }
    real_codes = {
        side: None if people is None else domain.encode_columns(people) for side, people in real.items()
    }
    return [
        *(_survival(domain, name, draws, real) for name in _outcomes(domain)),
        *(
            _marginal(domain, name, codes, real_codes, _released(name, queries, tables or {}))
            for name in domain.names
            if not isinstance(domain.column(name).form, Times) and domain.sizes[name] <= _MOST_LEVELS
        ),
        _correlations(domain, codes, real_codes),
    ]


def _outcomes(domain: Domain) -> list[str]:
    return [column.name for column in domain.columns if isinstance(column.form, Times)]


def _survival(
    domain: Domain, name: str, draws: Sequence[Columns], real: Mapping[str, Columns | None]
) -> dict[str, Any]:
    form = domain.column(name).form
    assert isinstance(form, Times)  # noqa: S101  # of `_outcomes`
    grid = np.linspace(0.0, form.event_days[-1], _STEPS + 1)
    curves = [_curve(people[name], grid) for people in draws]
    shown = np.all([at_risk >= _FEWEST_AT_RISK for _, at_risk in curves], axis=0)
    sides: dict[str, Any] = {}
    for side, people in real.items():
        if people is None:
            sides[side] = None
            continue
        curve, at_risk = _curve(people[name], grid)
        sides[side] = curve
        shown &= at_risk >= _FEWEST_AT_RISK
    return {
        "kind": "survival",
        "name": name,
        "title": domain.column(name).title,
        "days": grid[shown].tolist(),
        "virtual": _spread(np.stack([curve for curve, _ in curves])[:, shown]),
        **{side: None if curve is None else curve[shown].tolist() for side, curve in sides.items()},
    }


def _curve(column: tuple[NDArray[Any], NDArray[Any]], grid: Floats) -> tuple[Floats, Floats]:
    days, event = column
    return kaplan_meier(days, event, grid)


def _marginal(
    domain: Domain,
    name: str,
    draws: Sequence[Codes],
    real: Mapping[str, Codes | None],
    released: Floats | None,
) -> dict[str, Any]:
    size, column = domain.sizes[name], domain.column(name)

    def shares(codes: Codes) -> Floats:
        return np.bincount(codes[name], minlength=size) / len(codes[name])

    return {
        "kind": "marginal",
        "name": name,
        "title": column.title,
        "levels": _named(column),
        "virtual": _spread(np.stack([shares(codes) for codes in draws])),
        **{side: None if codes is None else shares(codes).tolist() for side, codes in real.items()},
        "released": None if released is None else released.tolist(),
    }


def _named(column: Column) -> list[str]:
    """The names of a column's levels; of a yes-or-no in words."""
    words = {"0.0": "no", "1.0": "yes"}
    return [
        words.get(level, level) if isinstance(column.form, Categories) else level for level in column.levels
    ]


def _released(name: str, queries: Sequence[Query], tables: Mapping[str, Table]) -> Floats | None:
    """The shares of a column's levels as hospitals released them, noise and all; None where its levels were not counted."""
    for query in queries:
        if query.columns == (name,) and query.groups == (None,) and query.name in tables:
            counts = np.maximum(np.asarray(tables[query.name], np.float64), 0.0)
            return counts / counts.sum() if counts.sum() > 0 else None
    return None


def _correlations(domain: Domain, draws: Sequence[Codes], real: Mapping[str, Codes | None]) -> dict[str, Any]:
    """Spearman's, of levels in their order; of a category of more than two values there is none."""
    names = [
        column.name
        for column in domain.columns
        if not isinstance(column.form, Times) and (column.is_ordered or column.size <= 3)
    ]
    pairs = list(combinations(range(len(names)), 2))

    def of(codes: Codes) -> Floats:
        ranks = np.stack([_ranks(codes[name]) for name in names])
        found = ranks @ ranks.T / ranks.shape[1]
        return np.array([found[i, j] for i, j in pairs])

    return {
        "kind": "correlations",
        "name": "correlations",
        "title": "Rank correlations of two columns",
        "names": [domain.column(name).title for name in names],
        "pairs": [list(pair) for pair in pairs],
        "virtual": _spread(np.stack([of(codes) for codes in draws])),
        **{side: None if codes is None else of(codes).tolist() for side, codes in real.items()},
    }


def _ranks(levels: NDArray[np.intp]) -> Floats:
    """Middle ranks with mean 0 and spread 1; all 0 where everybody has the same level."""
    _, place, counts = np.unique(levels, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[place]
    spread = ranks.std()
    return (ranks - ranks.mean()) / spread if spread > 0 else np.zeros(len(ranks))


def _spread(rows: Floats) -> dict[str, list[float]]:
    """The middle of some draws (m, k), and the least and the most of them."""
    return {
        "middle": np.median(rows, axis=0).tolist(),
        "low": rows.min(axis=0).tolist(),
        "high": rows.max(axis=0).tolist(),
    }
