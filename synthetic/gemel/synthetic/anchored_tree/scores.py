"""How strongly two columns go together at one hospital, and the tree that noisy scores choose.

A hospital's score of two columns is the distance of their table from what it would be were they independent *there*:
a quarter of the sum of |M - a b' / n|, rounded down. Against the hospital's own independence, not everybody's: then summed
scores find what goes together however unlike the hospitals are.

Sensitivity. One patient more, in row i and column j, changes M - a b' / n by n / (n + 1) (e_i - a / n)(e_j - b / n)', whose
1-norm is less than 2 · 2. So a quarter of it changes by less than one, and rounded down by at most one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gemel.synthetic.domain import Codes, Domain

Pair = tuple[str, str]

_QUARTER = 4


def count_scores(domain: Domain, codes: Codes, pairs: Sequence[Pair]) -> NDArray[np.int64]:
    """The exact scores (pairs,) of one hospital, in whole numbers; a patient more or fewer moves each by at most one."""
    return np.array([_score(domain, codes, a, b) for a, b in pairs], dtype=np.int64)


def choose_tree(
    pairs: Sequence[Pair],
    scores: NDArray[np.integer],
    levels: Mapping[str, NDArray[np.integer]],
    *,
    noise_of_pair: float = 0.0,
) -> dict[str, str]:
    """The parent of each column that has one, parents nearer to the column with most neighbours.

    A maximum spanning forest (Chow & Liu 1968) of what each score holds beyond chance: of independent columns the score
    of n patients is about sqrt(2 / pi) times the sum of the roots of the expected counts. A pair that is left with
    nothing, or with less than the noise of its table would add, is no edge.

    Args:
        pairs: Two columns each.
        scores: Noisy, summed over hospitals.
        levels: Noisy one-ways by column.
        noise_of_pair: The sigma of a table of the tree.
    """
    gains = [
        _QUARTER * float(score) - _by_chance(levels[a], levels[b], noise_of_pair)
        for (a, b), score in zip(pairs, scores, strict=True)
    ]
    root: dict[str, str] = {name: name for pair in pairs for name in pair}
    near: dict[str, list[str]] = {name: [] for name in root}
    for number in sorted(range(len(pairs)), key=lambda i: (-gains[i], pairs[i])):
        a, b = pairs[number]
        if gains[number] > 0 and root[a] != root[b]:
            old = root[b]
            root = {name: root[a] if r == old else r for name, r in root.items()}
            near[a].append(b)
            near[b].append(a)
    return _rooted(near)


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


def _by_chance(first: NDArray[np.integer], second: NDArray[np.integer], sigma: float) -> float:
    a, b = (np.maximum(np.asarray(x, np.float64), 0.0) for x in (first, second))
    n = max((a.sum() + b.sum()) / 2, 1.0)
    chance = np.sqrt(a).sum() * np.sqrt(b).sum() / math.sqrt(n)
    # Where noise exceeds what is expected, a cell's estimate errs by no more than the cell.
    noise = np.minimum(sigma, np.outer(a, b) / n).sum()
    return math.sqrt(2 / math.pi) * float(chance + noise)


def _score(domain: Domain, codes: Codes, first: str, second: str) -> int:
    rows, columns = domain.sizes[first], domain.sizes[second]
    table = np.bincount(codes[first] * columns + codes[second], minlength=rows * columns).reshape(
        rows, columns
    )
    n = int(table.sum())
    # n times the distance: whole numbers, without a rounding error.
    apart = n * table.astype(np.int64) - np.outer(table.sum(axis=1), table.sum(axis=0))
    return int(np.abs(apart).sum()) // (_QUARTER * max(n, 1))
