"""How near distributions are: one column, two, and a column with time and event, beside as many hold-out patients.

Total variation is half the sum of the absolute differences of two tables of shares: 0 the same, 1 nothing in common.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from gemel.core.dataset import OCCURRED, PREVALENT
from gemel.synthetic.anchored_tree.queries import Query, Table
from gemel.synthetic.columns import Column, Levels, Times
from gemel.synthetic.domain import Codes, Domain
from gemel.synthetic.report.findings import Finding
from gemel.synthetic.report.measures import Limit, measured
from gemel.synthetic.report.people_table import Floats, PeopleTable
from gemel.synthetic.report.thresholds import MOST_PAIR_RATIO, MOST_RANK_ERROR, MOST_TRIPLE_RATIO

PAIRS, CORRELATIONS, RELEASED = "pairs", "correlations", "released tables"
_NORMAL_MEAN_SIZE = np.sqrt(2 / np.pi)


def pair_rows(
    training: PeopleTable, holdout: PeopleTable, draws: Sequence[PeopleTable], *, internal: bool
) -> Iterator[Finding]:
    """Distances of as many virtual people as there are hold-out patients, over the hold-out's."""
    size = min(len(holdout), *map(len, draws))
    held, drawn = holdout.first(size), [draw.first(size) for draw in draws]
    for measure, distance, most in (
        ("one column: mean total variation over the hold-out's", mean_one_way, None),
        ("two columns: mean total variation over the hold-out's", mean_two_way, MOST_PAIR_RATIO),
        (
            "a column with time and event: mean total variation over the hold-out's",
            mean_with_time,
            MOST_TRIPLE_RATIO,
        ),
    ):
        floor = distance(training, held)
        found = [distance(training, draw) for draw in drawn]
        yield measured(
            PAIRS,
            measure,
            [_over(value, floor) for value in found],
            Limit(most=most),
            baseline=1.0,
            internal=internal,
            detail=f"{np.median(found):.4f} of {size} virtual, {floor:.4f} of as many hold-out people",
        )


def correlation_rows(
    training: PeopleTable, holdout: PeopleTable, draws: Sequence[PeopleTable], *, internal: bool
) -> Iterator[Finding]:
    """Spearman's correlations of all columns whose levels have an order."""
    yield measured(
        CORRELATIONS,
        "Spearman's correlations: mean absolute difference",
        [rank_error(training, draw) for draw in draws],
        Limit(most=MOST_RANK_ERROR),
        baseline=rank_error(training, holdout),
        against_chance=True,
        internal=internal,
    )


def released_rows(
    domain: Domain, queries: tuple[Query, ...], tables: Mapping[str, Table], draws: Sequence[Codes]
) -> Iterator[Finding]:
    """Virtual people beside the noisy tables that were released: public, for it is all DP already.

    Who follows the tables exactly is as far from them as their noise and the chance of drawing are.
    """
    released = [query for query in queries if query.name in tables]
    for words, single in (("one column", True), ("two columns and more", False)):
        chosen = [query for query in released if (len(query.columns) == 1) is single]
        if chosen:
            found = [np.mean([_from_released(domain, q, tables[q.name], d) for q in chosen]) for d in draws]
            yield measured(
                RELEASED,
                f"{words}: distance to the noisy tables over what their noise alone makes",
                [float(value) for value in found],
                baseline=1.0,
                internal=False,
                detail=f"mean of {len(chosen)} tables",
            )


def mean_one_way(one: PeopleTable, other: PeopleTable) -> float:
    """Mean total variation of the columns' levels."""
    codes = _finer(one), _finer(other)
    return float(np.mean([_distance(codes, (name,)) for name in one.domain.names]))


def mean_two_way(one: PeopleTable, other: PeopleTable) -> float:
    """Mean total variation of all two columns."""
    codes = one.codes, other.codes
    return float(np.mean([_distance(codes, pair) for pair in combinations(one.domain.names, 2)]))


def mean_with_time(one: PeopleTable, other: PeopleTable) -> float:
    """Mean total variation of each other column with time and event of an outcome; NaN without an outcome.

    Time is in bins half as wide as the public ones, so the measure does not see time as the model does.
    """
    codes = _finer(one), _finer(other)
    outcomes = [c.name for c in one.domain.columns if isinstance(c.form, Times)]
    pairs = [(name, o) for o in outcomes for name in one.domain.names if name not in outcomes]
    return float(np.mean([_distance(codes, pair) for pair in pairs])) if pairs else float("nan")


def rank_error(one: PeopleTable, other: PeopleTable) -> float:
    """Mean absolute difference of Spearman's correlations."""
    first, second = (rank_correlation(people) for people in (one, other))
    above = np.triu_indices(len(first), 1)
    return float(np.abs(first - second)[above].mean()) if len(above[0]) else float("nan")


def ordered_columns(domain: Domain) -> tuple[Column, ...]:
    """The columns that can go up together: those whose levels have an order, or are two."""
    return tuple(column for column in domain.columns if column.is_ordered or column.size == 2)


def rank_correlation(people: PeopleTable) -> Floats:
    """Spearman's correlations (k, k) of the ordered columns' levels; a constant column counts as unrelated."""
    columns = []
    for column in ordered_columns(people.domain):
        _, place, counts = np.unique(people.codes[column.name], return_inverse=True, return_counts=True)
        rank = (np.cumsum(counts) - (counts - 1) / 2.0)[place]
        spread = rank.std()
        columns.append((rank - rank.mean()) / spread if spread > 0 else np.zeros(len(rank)))
    stacked = np.stack(columns) if columns else np.zeros((0, 1))
    correlation: Floats = stacked @ stacked.T / stacked.shape[1]
    return correlation


def _finer(people: PeopleTable) -> Codes:
    """Levels, those of times in halves of their bins with the event beside them."""
    found = dict(people.codes)
    for column in people.domain.columns:
        if isinstance(column.form, Times):
            found[column.name] = _halves(column.form, *people.times(column.name))
    return found


def _halves(form: Times, days: Floats, event: NDArray[np.int64]) -> Levels:
    edges = np.asarray(form.event_days)
    finer = np.unique(np.concatenate([edges, (edges[:-1] + edges[1:]) / 2]))
    bins = np.clip(np.searchsorted(finer, days, side="left") - 1, 0, len(finer) - 2)
    kind = np.where(event == PREVALENT, 2, (event == OCCURRED).astype(np.intp))
    return np.asarray(np.where(kind == 2, 2 * (len(finer) - 1), kind * (len(finer) - 1) + bins), np.intp)


def _distance(codes: tuple[Codes, Codes], names: tuple[str, ...]) -> float:
    shape = tuple(1 + max(int(side[name].max()) for side in codes) for name in names)
    cells = int(np.prod(shape))
    shares = []
    for side in codes:
        flat = np.ravel_multi_index(tuple(side[name] for name in names), shape)
        shares.append(np.bincount(flat, minlength=cells) / len(flat))
    return float(0.5 * np.abs(shares[0] - shares[1]).sum())


def _from_released(domain: Domain, query: Query, table: Table, codes: Codes) -> float:
    """The distance of virtual shares to a noisy table, over its mean when the table is right but for noise."""
    counted = query.count(domain, codes).astype(np.float64)
    people, total = counted.sum(), max(float(table.sum()), 1.0)
    apart = np.abs(counted / people - table / total).sum()
    chance = np.sqrt((query.sigma / total) ** 2 + counted / people**2)
    return float(apart / (_NORMAL_MEAN_SIZE * chance.sum()))


def _over(value: float, floor: float) -> float:
    return value / floor if floor > 0 else float("nan")
