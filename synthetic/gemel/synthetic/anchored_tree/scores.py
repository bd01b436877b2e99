"""Which columns go together: scores that add up over hospitals, and the tree that follows from noisy ones.

A hospital scores a pair against its own independence, ||M - a b'/n||_1 with its table M, margins a and b, and n patients.
Scores against everybody's independence would find hospitals that differ, not columns that go together. Measured on
SUPPORT2 over five hospitals: of the mutual information of the best tree the first keep nine tenths however skewed the
hospitals, the second 57 % under strong skew (`docs/virtual_cohorts.md`). Blind spot: what goes together between hospitals only.

Sensitivity. One patient more, in row i and column j, changes M - a b'/n by n/(n+1) (e_i - a/n)(e_j - b/n)', whose 1-norm
is less than 2 · 2. A score is rounded down, and two numbers less than 4 apart are at most 4 apart when rounded down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from gemel.core.errors import GemelError
from gemel.synthetic.domain import Codes

Pair = tuple[str, str]
Scores = NDArray[np.int64]

SCORE_SENSITIVITY = 4
# Of all pairs, how many are scored again: measured, fewer lose edges and more lose noise.
_AGAIN = 0.4


def scored_pairs(columns: Sequence[str]) -> tuple[Pair, ...]:
    """All pairs of columns, in the order of their scores."""
    return tuple(combinations(columns, 2))


def candidate_count(columns: Sequence[str]) -> int:
    """How many pairs are scored a second time: known from the number of columns alone."""
    pairs = len(scored_pairs(columns))
    return min(pairs, max(len(columns) - 1, round(_AGAIN * pairs)))


def count_scores(codes: Codes, sizes: Mapping[str, int], pairs: Sequence[Pair]) -> Scores:
    """The exact scores of one hospital, int64 in the order of `pairs`: private until noise is added.

    One patient changes each of them by at most `SCORE_SENSITIVITY`. Whole numbers throughout: n M - a b' has no rounding.
    """
    scores = np.zeros(len(pairs), np.int64)
    for number, (first, second) in enumerate(pairs):
        shape = (sizes[first], sizes[second])
        patients = len(codes[first])
        if patients == 0:
            continue
        flat = np.ravel_multi_index((codes[first], codes[second]), shape)
        table = np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape).astype(np.int64)
        apart = patients * table - np.outer(table.sum(axis=1), table.sum(axis=0))
        scores[number] = int(np.abs(apart).sum()) // patients
    return scores


def spanning_tree(
    columns: Sequence[str], pairs: Sequence[Pair], scores: NDArray[np.floating]
) -> tuple[Pair, ...]:
    """The tree over all columns with the largest sum of scores (Kruskal), its pairs in the order of `pairs`.

    Equal scores go by that order, so that everybody finds the same tree. Raises GEM720 when the pairs do not connect.
    """
    part = {name: name for name in columns}

    def root(name: str) -> str:
        while part[name] != name:
            name = part[name]
        return name

    taken = set()
    for number in np.argsort(-np.asarray(scores, np.float64), kind="stable"):
        first, second = (root(name) for name in pairs[number])
        if first != second:
            part[first] = second
            taken.add(int(number))
    if len(taken) != len(columns) - 1:
        raise GemelError("GEM720", f"The pairs connect {len(taken) + 1} of {len(columns)} columns at most.")
    return tuple(pairs[number] for number in sorted(taken))


def candidates(columns: Sequence[str], first: Scores) -> tuple[Pair, ...]:
    """The pairs to score again: the tree of the first noisy scores, then the best of the others."""
    pairs = scored_pairs(columns)
    tree = set(spanning_tree(columns, pairs, first))
    order = [pairs[number] for number in np.argsort(-first, kind="stable")]
    others = [pair for pair in order if pair not in tree][: candidate_count(columns) - len(tree)]
    chosen = tree.union(others)
    return tuple(pair for pair in pairs if pair in chosen)


def chosen_tree(
    columns: Sequence[str],
    first: Scores,
    again: Sequence[Pair],
    second: Scores,
    *,
    sigmas: tuple[float, float],
) -> tuple[Pair, ...]:
    """The tree by both scores of the candidates, each weighted by its noise, `sigmas` of first and second."""
    position = {pair: number for number, pair in enumerate(scored_pairs(columns))}
    weights = np.array(sigmas, np.float64) ** -2
    earlier = np.array([first[position[pair]] for pair in again], np.float64)
    both = (weights[0] * earlier + weights[1] * second) / weights.sum()
    return spanning_tree(columns, again, both)


def check_pairs(columns: Sequence[str], pairs: Sequence[Pair], *, count: int) -> None:
    """Refuse (GEM720) pairs that are not `count` different ones of public columns, or that leave a column unconnected.

    With one pair fewer than columns that is a spanning tree. Nothing is counted before this.
    """
    public = set(scored_pairs(columns))
    if len(pairs) != count or len(set(pairs)) != count or not public.issuperset(pairs):
        raise GemelError("GEM720", f"Expected {count} different pairs of the public columns.")
    spanning_tree(columns, pairs, np.zeros(len(pairs)))
