"""How strongly two columns go together at one hospital, and the tree that noisy scores choose.

A hospital's score of two columns is the distance of their table from what it would be were they independent *there*:
a quarter of the sum of |M - a b' / n|, rounded down. Against the hospital's own independence, not everybody's: then summed
scores find what goes together however unlike the hospitals are.

Sensitivity. One patient more, in row i and column j, changes M - a b' / n by n / (n + 1) (e_i - a / n)(e_j - b / n)', whose
1-norm is less than 2 · 2. So a quarter of it changes by less than one, and rounded down by at most one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gemel.synthetic.domain import Codes, Domain

Pair = tuple[str, str]

_QUARTER = 4


def count_scores(domain: Domain, codes: Codes, pairs: Sequence[Pair]) -> NDArray[np.int64]:
    """The exact scores (pairs,) of one hospital, in whole numbers; a patient more or fewer moves each by at most one."""
    return np.array([_score(domain, codes, a, b) for a, b in pairs], dtype=np.int64)


def choose_tree(
    pairs: Sequence[Pair], scores: NDArray[np.integer], *, hubs: Collection[str] = ()
) -> dict[str, str]:
    """The parent of each column that has one: a hub, and among the others a maximum spanning forest (Chow & Liu 1968).

    The hub is whichever of `hubs` goes together most with all others. It is the only root: the roots of the forest have it
    as their parent. Without `hubs` the forest spans all columns, and each of its trees has a root.

    Args:
        pairs: Two columns each.
        scores: Noisy, summed over hospitals. A pair whose score is not above nothing is no edge.
        hubs: The columns that may be the hub.
    """
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    weight = dict.fromkeys(names, 0.0)
    for pair, score in zip(pairs, scores, strict=True):
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


def _score(domain: Domain, codes: Codes, first: str, second: str) -> int:
    rows, columns = domain.sizes[first], domain.sizes[second]
    table = np.bincount(codes[first] * columns + codes[second], minlength=rows * columns).reshape(
        rows, columns
    )
    n = int(table.sum())
    # n times the distance: whole numbers, without a rounding error.
    apart = n * table.astype(np.int64) - np.outer(table.sum(axis=1), table.sum(axis=0))
    return int(np.abs(apart).sum()) // (_QUARTER * max(n, 1))
