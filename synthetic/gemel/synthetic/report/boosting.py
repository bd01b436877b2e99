"""Boosted trees of two levels on columns of few public levels, in numpy: second-order boosting of the log odds.

Chen & Guestrin, KDD 2016, in its plainest form: every leaf is -G / (H + λ), every split maximises the gain in G² / (H + λ), no
sampling, no search over settings. Levels are split as thresholds in their order, which is what histogram boosting does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Floats = NDArray[np.float64]
Levels = NDArray[np.intp]

_TREES, _RATE, _RIDGE, _LEAST_WEIGHT = 150, 0.1, 1.0, 5.0


@dataclass(frozen=True)
class Tree:
    """Two splits under one: columns (3,), thresholds (3,): a level above goes right; leaves (4,) in log odds."""

    columns: tuple[int, int, int]
    thresholds: tuple[int, int, int]
    leaves: tuple[float, float, float, float]

    def log_odds(self, levels: Levels) -> Floats:
        """What it adds for each row (n,)."""
        right = levels[:, self.columns[0]] > self.thresholds[0]
        below = np.where(
            right,
            levels[:, self.columns[2]] > self.thresholds[2],
            levels[:, self.columns[1]] > self.thresholds[1],
        )
        return np.asarray(np.asarray(self.leaves)[2 * right + below], np.float64)


@dataclass(frozen=True)
class Trees:
    """A sum of trees over a prior's log odds."""

    start: float
    trees: tuple[Tree, ...]

    def log_odds(self, levels: Levels) -> Floats:
        """(n,) for levels (n, d)."""
        found = np.full(len(levels), self.start)
        for tree in self.trees:
            found += tree.log_odds(levels)
        return found


def boost(levels: Levels, cases: NDArray[np.bool_]) -> Trees:
    """Fit to levels (n, d) from 0 on and cases (n,), of which there are some of both."""
    y = cases.astype(np.float64)
    share = np.clip(y.mean(), 1e-9, 1 - 1e-9)
    start = float(np.log(share / (1 - share)))
    histogram = Histogram.of(levels)
    along, trees = np.full(len(y), start), []
    for _ in range(_TREES):
        chance = 1 / (1 + np.exp(-along))
        tree = _grow(histogram, levels, chance - y, chance * (1 - chance))
        trees.append(tree)
        along = along + tree.log_odds(levels)
    return Trees(start, tuple(trees))


@dataclass(frozen=True)
class Histogram:
    """Sums by column and level: a sparse matrix (columns * width, n) of who has which level."""

    has: sparse.csr_array
    columns: int
    width: int

    @classmethod
    def of(cls, levels: Levels) -> Histogram:
        """Of levels (n, d)."""
        people, columns = levels.shape
        width = int(levels.max()) + 1
        cells = (levels + np.arange(columns) * width).ravel()
        starts = np.arange(0, people * columns + 1, columns)
        rows = sparse.csr_array((np.ones(people * columns), cells, starts), shape=(people, columns * width))
        return cls(rows.T.tocsr(), columns, width)

    def sums(self, *weights: Floats) -> tuple[Floats, ...]:
        """(columns, width) for each weight (n,)."""
        found = self.has @ np.stack(weights, axis=1)
        return tuple(part.reshape(self.columns, self.width) for part in found.T)


def _grow(histogram: Histogram, levels: Levels, gradient: Floats, hessian: Floats) -> Tree:
    whole_g, whole_h = histogram.sums(gradient, hessian)
    column, threshold = _best_split(whole_g, whole_h)
    right = levels[:, column] > threshold
    left_g, left_h = histogram.sums(gradient * ~right, hessian * ~right)
    columns, thresholds, leaves = [column], [threshold], []
    for rows, g, h in ((~right, left_g, left_h), (right, whole_g - left_g, whole_h - left_h)):
        inner, cut = _best_split(g, h)
        above = levels[:, inner] > cut
        for leaf in (rows & ~above, rows & above):
            leaves.append(-_RATE * float(gradient[leaf].sum() / (hessian[leaf].sum() + _RIDGE)))
        columns, thresholds = [*columns, inner], [*thresholds, cut]
    return Tree(
        (columns[0], columns[1], columns[2]),
        (thresholds[0], thresholds[1], thresholds[2]),
        (leaves[0], leaves[1], leaves[2], leaves[3]),
    )


def _best_split(g: Floats, h: Floats) -> tuple[int, int]:
    """(column, level) by the sums of a node: who is above that level goes right. Without a split worth it, everybody goes left."""
    left_g, left_h = np.cumsum(g, axis=1), np.cumsum(h, axis=1)
    right_g, right_h = left_g[:, -1:] - left_g, left_h[:, -1:] - left_h
    gain = left_g**2 / (left_h + _RIDGE) + right_g**2 / (np.maximum(right_h, 0) + _RIDGE)
    gain[(left_h < _LEAST_WEIGHT) | (right_h < _LEAST_WEIGHT)] = -np.inf
    best = int(gain.argmax())
    width = g.shape[1]
    if not np.isfinite(gain.flat[best]):
        return 0, width
    return best // width, best % width
