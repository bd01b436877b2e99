"""Levels that are counted together, so that cells stand out from their noise: decided by noisy answers and public facts only.

Every cell of a table has the same noise, and what people ask of a table is a sum over cells. What happens within a group
comes from the levels of round 1 alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemel.synthetic.columns import Column, Numbers, Times
from gemel.synthetic.domain import Domain

Noisy = Mapping[str, NDArray[Any]]
Groups = tuple[int, ...] | None

_FEATURE_GROUPS, _EVENT_GROUPS = 8, 10
# Groups are so few that cells would have so many times their noise were patients spread evenly, but no fewer than three of a
# column. With the clock more of them pay: what is asked of those tables are sums along the clock.
_NOISES_A_CELL, _NOISES_A_CLOCK_CELL, _FEWEST = 8.0, 3.0, 3


def groups_of_clock(domain: Domain, clock: str, levels: Noisy, *, noise: float) -> Groups:
    """Groups of the clock's levels: ends of follow-up together, events in runs of about equally many patients.

    Args:
        domain: The public columns.
        clock: Its name.
        levels: Noisy one-ways by query name.
        noise: The sigma of the tables of features with the clock.
    """
    column, form = domain.column(clock), domain.column(clock).form
    weights = _people(levels, clock)
    if not isinstance(form, Times):
        return few_groups(column, weights, _FEATURE_GROUPS)
    cells = _cells(float(weights.sum()), _NOISES_A_CLOCK_CELL * noise)
    _, most = _sizes((_FEATURE_GROUPS, _EVENT_GROUPS + 1), (_FEWEST, _FEWEST), cells)
    events = _merged(weights[: form.events], form.events, most - 1)
    return (*events, *(max(events) + 1,) * (column.size - form.events))


def groups_with_clock(
    domain: Domain, pair: tuple[str, str], levels: Noisy, around: Groups, *, noise: float
) -> tuple[Groups, Groups]:
    """Groups of the levels of a column and of the clock, whose groups are `around`, for their table."""
    name, clock = pair
    weights, many = _people(levels, name), _size(domain, clock, around)
    cells = _cells(float(weights.sum()), _NOISES_A_CLOCK_CELL * noise)
    most, _ = _sizes((min(domain.sizes[name], _FEATURE_GROUPS), many), (_FEWEST, many), cells)
    return few_groups(domain.column(name), weights, most), around


def groups_of_pair(
    domain: Domain, pair: tuple[str, str], levels: Noisy, kept: Mapping[str, Groups], *, noise: float
) -> tuple[Groups, Groups]:
    """Groups of the levels of two columns for their table of that noise; those of some columns are `kept`."""
    first, second = (_size(domain, name, kept.get(name)) for name in pair)
    fewest = (first if pair[0] in kept else _FEWEST, second if pair[1] in kept else _FEWEST)
    cells = _cells(float(_people(levels, pair[0]).sum()), _NOISES_A_CELL * noise)
    few = [
        kept[name] if name in kept else few_groups(domain.column(name), _people(levels, name), most)
        for name, most in zip(pair, _sizes((first, second), fewest, cells), strict=True)
    ]
    return few[0], few[1]


def few_groups(column: Column, noisy: NDArray[Any], most: int) -> Groups:
    """At most so many groups of a column's levels, by merging neighbours (of categories: any) with the fewest patients."""
    if column.size <= most:
        return None
    ordered = len(column.form.edges) - 1 if isinstance(column.form, Numbers) else 0
    return _merged(np.maximum(np.asarray(noisy, np.float64), 0.0), ordered, most)


def _people(levels: Noisy, name: str) -> NDArray[np.float64]:
    return np.maximum(np.asarray(levels[f"levels/{name}"], np.float64), 0.0)


def _cells(people: float, least: float) -> float:
    return people / least if least > 0 else math.inf


def _size(domain: Domain, name: str, groups: Groups) -> int:
    return domain.sizes[name] if groups is None else max(groups) + 1


def _sizes(sizes: tuple[int, int], fewest: tuple[int, int], cells: float) -> tuple[int, int]:
    """Two numbers of groups whose table has at most so many cells: the larger one gives way, down to the fewest."""
    first, second = sizes
    while first * second > cells and (first > fewest[0] or second > fewest[1]):
        if first > fewest[0] and (first >= second or second <= fewest[1]):
            first -= 1
        else:
            second -= 1
    return first, second


def _merged(weights: NDArray[Any], ordered: int, most: int) -> tuple[int, ...]:
    """Groups (levels,) by merging the two neighbours of least weight together until they are so few.

    Levels from `ordered` on are categories ("missing" among them): merged with each other when none is ordered, else kept.
    """
    runs = [[i] for i in range(ordered or len(weights))]
    sums = [float(weights[i]) for (i,) in runs]
    while len(runs) > max(most, 1):
        if ordered:
            both = [a + b for a, b in itertools.pairwise(sums)]
            first = both.index(min(both))
            second = first + 1
        else:
            first, second = sorted(sorted(range(len(sums)), key=sums.__getitem__)[:2])
        runs[first] += runs.pop(second)
        sums[first] += sums.pop(second)
    groups = np.zeros(len(weights), np.intp)
    for number, run in enumerate(runs):
        groups[run] = number
    if ordered:
        groups[ordered:] = len(runs) + np.arange(len(weights) - ordered)
    return tuple(int(g) for g in groups)
