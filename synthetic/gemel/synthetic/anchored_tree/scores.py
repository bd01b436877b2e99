"""How strongly two columns go together, counted so that hospitals' counts add up, and the tree that noisy scores choose.

A column is scored by a few marks of its levels, whole numbers -1, 0 or 1 that follow from the noisy levels of round 1: a
number lies in its upper or lower half, and in its inner or outer half; where many have none, is there or not. Categories have
a mark each, the rarest one together. A hospital counts the products of the marks of two columns, summed over its patients.

Sums are linear in patients: those of hospitals add up to what one table of all would have given, however unlike the
hospitals are, and what goes together only between them is found too. What independence explains is taken off afterwards,
by the noisy levels.

Sensitivity. The marks of a level have at most `most` of them that are not 0, so the products of one patient's marks of two columns
have a 2-norm of at most the root of both `most`: whatever the levels of round 1 are said to be. The noise of each two
columns is that many times the round's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemel.synthetic.columns import Column, Numbers, Times
from gemel.synthetic.domain import Codes, Domain

Pair = tuple[str, str]
Whole = NDArray[np.int64]

# Of a list of categories so many have a mark; a number's missing value has one where so large a share of patients has it.
_CATEGORIES, _OFTEN_MISSING = 6, 10
# Noisy counts are of people: at least none, and so few that sums of them stay exact.
_MOST = 2**40


@dataclass(frozen=True)
class Marks:
    """What the levels of a column are scored by: int64 (levels, marks), each -1, 0 or 1."""

    of_level: Whole

    @cached_property
    def most(self) -> int:
        """At most so many marks of a level are not 0."""
        return int(np.abs(self.of_level).sum(axis=1).max())


@dataclass(frozen=True)
class Strengths:
    """How strongly each two columns go together (pairs,), as edges of the tree and as what draws a column to be its hub."""

    edges: Whole
    hubs: Whole


@dataclass(frozen=True)
class Scoring:
    """The marks by which each two of some columns are scored."""

    domain: Domain
    pairs: tuple[Pair, ...]
    marks: Mapping[str, Marks]

    def count(self, codes: Codes) -> list[Whole]:
        """The exact sums of products (marks of one, marks of the other) of one hospital: private until noise is added."""
        return [self._count(codes, a, b) for a, b in self.pairs]

    def sigmas(self, sigma: float) -> list[float]:
        """The parameter of the discrete Gaussian on each pair's sums, where a count of sensitivity one has `sigma`."""
        return [sigma * math.sqrt(self.marks[a].most * self.marks[b].most) for a, b in self.pairs]

    def strengths(self, levels: Mapping[str, NDArray[Any]], sums: Sequence[Whole], sigma: float) -> Strengths:
        """How strongly each two columns go together, about in patients: 0 where half the noise explains it all.

        Where nearly everybody is alike there is little to go together, and what is seen is the noise of many marks: an edge is weighed
        by the geometric mean of its two columns' variety (how likely two people differ), a hub, whose noise is a mean of many, by
        the fourth root of that.

        Args:
            levels: The noisy levels by column name.
            sums: Noisy sums of products, as `count` gives them.
            sigma: As for `sigmas`, of these sums.

        Of how many patients the sums are follows from the sums themselves: hospitals may have dropped out since the levels. No
        order of additions is left to a library, so that everybody finds the same to the last bit.
        """
        apart = self._independent(levels)
        variety = {name: _variety(levels[name]) for name in self.marks}
        weights = [1.0 / (self.marks[a].most * self.marks[b].most) for a, b in self.pairs]
        people = _people_in(sums, apart, weights)
        edges, hubs = [], []
        each = zip(self.pairs, sums, apart, weights, self.sigmas(sigma), strict=True)
        for (a, b), table, expected, weight, noise in each:
            square = 0.0
            for seen, share in zip(table.ravel().tolist(), expected, strict=True):
                square += max(abs(seen - people * share) - noise / 2, 0.0) ** 2
            strength, varied = math.sqrt(square * weight), math.sqrt(variety[a] * variety[b])
            edges.append(round(strength * varied))
            hubs.append(round(strength * math.sqrt(math.sqrt(varied))))
        return Strengths(np.array(edges, np.int64), np.array(hubs, np.int64))

    def _independent(self, levels: Mapping[str, NDArray[Any]]) -> list[list[float]]:
        """What one patient would bring to each sum of each pair on average, were columns independent."""
        shares = {name: _marked(self.marks[name], levels[name]) for name in self.marks}
        return [[x * y for x in shares[a] for y in shares[b]] for a, b in self.pairs]

    def _count(self, codes: Codes, first: str, second: str) -> Whole:
        rows, columns = self.domain.sizes[first], self.domain.sizes[second]
        flat = np.bincount(codes[first] * columns + codes[second], minlength=rows * columns)
        table = flat.astype(np.int64).reshape(rows, columns)
        return self.marks[first].of_level.T @ table @ self.marks[second].of_level


class Scores(NamedTuple):
    """What round 2 led to: what was scored, the noisy sums of each two columns, and the sigma of a sum of sensitivity one."""

    scoring: Scoring
    sums: Sequence[Whole]
    sigma: float


def scoring_of(domain: Domain, pairs: Sequence[Pair], levels: Mapping[str, NDArray[Any]]) -> Scoring:
    """The marks that noisy levels (by column name) lead to: everybody who has them decides the same."""
    names = dict.fromkeys(itertools.chain.from_iterable(pairs))
    marks = {name: marks_of(domain.column(name), levels[name]) for name in names}
    return Scoring(domain, tuple(pairs), marks)


def sums_shape(domain: Domain, pair: Pair) -> tuple[int, int]:
    """(marks of one, marks of the other): a public fact, whatever the levels are."""
    first, second = (
        marks_of(domain.column(name), np.ones(domain.sizes[name])).of_level.shape[1] for name in pair
    )
    return first, second


def marks_of(column: Column, noisy: NDArray[Any]) -> Marks:
    """The marks of a column's levels, of which so many patients (levels,) have each."""
    counts, form = _people(noisy), column.form
    if isinstance(form, Numbers) and column.size > 2:
        return _marks_of_number(counts, len(form.edges) - 1)
    groups = _outline(form) if isinstance(form, Times) else _commonest(counts)
    one_hot = np.eye(max(groups) + 1, dtype=np.int64)[list(groups)]
    # Of two one is enough: who is not the one is the other.
    return Marks(one_hot[:, :1] - one_hot[:, 1:] if one_hot.shape[1] == 2 else one_hot)


def choose_tree(
    pairs: Sequence[Pair],
    scores: NDArray[np.integer],
    *,
    hubs: Collection[str] = (),
    pull: NDArray[np.integer] | None = None,
) -> dict[str, str]:
    """The parent of each column that has one: a hub, and among the others a maximum spanning forest (Chow & Liu 1968).

    The hub is whichever of `hubs` goes together most with all others. It is the only root: the roots of the forest have it
    as their parent. Without `hubs` the forest spans all columns, and each of its trees has a root.

    Args:
        pairs: Two columns each.
        scores: How strongly each two go together (`Scoring.strengths`). A pair whose score is not above nothing is no edge.
        hubs: The columns that may be the hub.
        pull: What is summed over the others to choose it; the scores when None.
    """
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    weight = dict.fromkeys(names, 0.0)
    for pair, score in zip(pairs, scores if pull is None else pull, strict=True):
        for name in pair:
            weight[name] += float(score)
    hub = max((name for name in names if name in hubs), key=lambda name: weight[name], default=None)
    root = {name: name for name in names if name != hub}
    near: dict[str, list[str]] = {name: [] for name in root}
    for number in sorted(range(len(pairs)), key=lambda i: (-int(scores[i]), pairs[i])):
        a, b = pairs[number]
        if scores[number] > 0 and hub not in (a, b) and root[a] != root[b]:
            old = root[b]
            root = {name: root[a] if r == old else r for name, r in root.items()}
            near[a].append(b)
            near[b].append(a)
    parent = _rooted(near)
    return parent if hub is None else {name: parent.get(name, hub) for name in near}


def _marks_of_number(counts: Whole, ordered: int) -> Marks:
    """Upper or lower half; and inner or outer half, or else missing or not."""
    there, missing = counts[:ordered], int(counts[ordered:].sum())
    twice = 2 * there.cumsum() - there  # where the middle of a level's patients is, in half patients
    total = int(there.sum())
    half = np.where(twice < total, 1, -1)
    marks = np.zeros((len(counts), 2), np.int64)
    marks[:ordered, 0] = half
    if len(counts) > ordered and missing * _OFTEN_MISSING >= total + missing:
        marks[:, 1] = np.where(np.arange(len(counts)) < ordered, -1, 1)
    else:
        marks[:ordered, 1] = np.where((total < 2 * twice) & (2 * twice < 3 * total), 1, -1)
    return Marks(marks)


def _outline(form: Times) -> tuple[int, ...]:
    """The event came, did not, was there before."""
    rest = len(form.levels) - form.events - int(form.prevalent)
    return (*(0,) * form.events, *(1,) * rest, *((2,) if form.prevalent else ()))


def _commonest(counts: Whole) -> tuple[int, ...]:
    """Groups (levels,): the commonest levels by themselves, the others in one."""
    order = sorted(range(len(counts)), key=lambda level: (-int(counts[level]), level))
    return tuple(min(order.index(level), _CATEGORIES - 1) for level in range(len(counts)))


def _people(noisy: NDArray[Any]) -> Whole:
    people: Whole = np.clip(np.asarray(noisy), 0, _MOST).astype(np.int64)
    return people


def _marked(marks: Marks, noisy: NDArray[Any]) -> list[float]:
    """The mean of each mark over the patients that noisy levels speak of."""
    counts = _people(noisy)
    return [int(mark) / max(int(counts.sum()), 1) for mark in counts @ marks.of_level]


def _variety(noisy: NDArray[Any]) -> float:
    """How likely two of the people that noisy levels speak of have different ones."""
    counts = [int(count) for count in _people(noisy)]
    return 1.0 - sum(count * count for count in counts) / max(sum(counts), 1) ** 2


def _people_in(sums: Sequence[Whole], shares: Sequence[Sequence[float]], weights: Sequence[float]) -> float:
    """The number of patients by which independence comes nearest to most sums: least absolute deviations over their noise.

    The weighted median of sum over share: the few pairs that go together strongly do not move it.
    """
    found = []
    for table, expected, weight in zip(sums, shares, weights, strict=True):
        for seen, share in zip(table.ravel().tolist(), expected, strict=True):
            if share != 0:
                found.append((seen / share, abs(share) * math.sqrt(weight)))
    found.sort()
    half = math.fsum(weight for _, weight in found) / 2
    reached = 0.0
    for people, weight in found:
        reached += weight
        if reached >= half:
            return max(people, 0.0)
    return 0.0


def _rooted(near: Mapping[str, Sequence[str]]) -> dict[str, str]:
    parent: dict[str, str] = {}
    seen: set[str] = set()
    for start in sorted(near, key=lambda name: (-len(near[name]), name)):
        stack = [] if start in seen else [start]
        while stack:
            name = stack.pop()
            seen.add(name)
            for other in near[name]:
                if other not in seen:
                    parent[other] = name
                    stack.append(other)
    return parent
