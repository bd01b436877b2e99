"""Boosted trees of two levels on columns of few public levels, in numpy: second-order boosting of the log odds.

Chen & Guestrin, KDD 2016, in its plainest form: every leaf is -G / (H + λ), every split maximises the gain in G² / (H + λ), no
sampling, no search over settings. Levels are split as thresholds in their order, which is what histogram boosting does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    width = int(levels.max()) + 1
    # Column j's level l lies in cell j * width + l of every histogram.
    cells = levels + np.arange(levels.shape[1]) * width
    along, trees = np.full(len(y), start), []
    for _ in range(_TREES):
        chance = 1 / (1 + np.exp(-along))
        tree = _grow(levels, cells, width, chance - y, chance * (1 - chance))
        trees.append(tree)
        along = along + tree.log_odds(levels)
    return Trees(start, tuple(trees))


def _grow(levels: Levels, cells: Levels, width: int, gradient: Floats, hessian: Floats) -> Tree:
    column, threshold = _best_split(cells, width, gradient, hessian)
    right = levels[:, column] > threshold
    columns, thresholds, leaves = [column], [threshold], []
    for rows in (~right, right):
        g, h = gradient[rows], hessian[rows]
        inner, cut = _best_split(cells[rows], width, g, h)
        above = levels[rows, inner] > cut
        leaves += [-_RATE * float(g[s].sum() / (h[s].sum() + _RIDGE)) for s in (~above, above)]
        columns, thresholds = [*columns, inner], [*thresholds, cut]
    return Tree(
        (columns[0], columns[1], columns[2]),
        (thresholds[0], thresholds[1], thresholds[2]),
        (leaves[0], leaves[1], leaves[2], leaves[3]),
    )


def _best_split(cells: Levels, width: int, gradient: Floats, hessian: Floats) -> tuple[int, int]:
    """(column, level): who is above that level goes right. Without a split worth it, everybody goes left."""
    columns, flat = cells.shape[1], cells.ravel()
    g, h = (
        np.bincount(flat, np.repeat(each, columns), minlength=columns * width).reshape(columns, width)
        for each in (gradient, hessian)
    )
    left_g, left_h = np.cumsum(g, axis=1), np.cumsum(h, axis=1)
    right_g, right_h = gradient.sum() - left_g, hessian.sum() - left_h
    gain = left_g**2 / (left_h + _RIDGE) + right_g**2 / (right_h + _RIDGE)
    gain[(left_h < _LEAST_WEIGHT) | (right_h < _LEAST_WEIGHT)] = -np.inf
    best = int(gain.argmax())
    if not np.isfinite(gain.flat[best]):
        return 0, width
    return best // width, best % width
