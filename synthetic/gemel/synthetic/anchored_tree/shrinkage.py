"""How much is held against the associations of a table: the more, the less they exceed its noise.

A prior of log associations around nothing, of a variance that the noisy table itself tells (empirical Bayes, by moments; Efron
& Morris 1973). Without it a feature that hardly goes together with an outcome brings the outcome's model nothing but noise, and
twenty of them drown the few that matter.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gemel.synthetic.anchored_tree.queries import Query

# At 1 the prior would be a table of as many patients without association as there are real ones.
_LEAST, _MOST = 0.003, 1.0


def weight_of(
    query: Query, table: NDArray[np.integer], levels: Mapping[str, NDArray[np.integer]], total: float
) -> float:
    """The weight of entropy for a noisy table of two columns, from it and from the columns' noisy levels.

    Args:
        query: What the table answers.
        table: Noisy counts, of the query's shape.
        levels: The noisy levels by column name.
        total: Of about how many patients.

    A log association λ misses a cell of E patients by E λ, so what squares exceed their noise by is E² times the variance of λ; and
    a weight of 1 / (E variance) leaves as much of λ as its posterior mean does.
    """
    shares = []
    for column, group in zip(query.columns, query.groups, strict=True):
        people = np.maximum(np.asarray(levels[column], np.float64), 0.0)
        grouped = people if group is None else np.bincount(np.asarray(group), weights=people)
        shares.append(grouped / max(float(grouped.sum()), 1.0))
    expected = total * np.outer(*shares)
    squares = float((expected**2).sum())
    beyond_noise = float(((table - expected) ** 2).sum()) - table.size * query.sigma**2
    if beyond_noise <= 0 or squares <= 0:
        return _MOST
    return float(np.clip(total / beyond_noise, _LEAST, _MOST))
