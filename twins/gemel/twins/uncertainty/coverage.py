"""How often intervals and sets held the truth: in all, and by subgroup, with intervals and a flag by a stated rule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from gemel.twins.evaluation.estimate import Estimate, effective_number, wilson
from gemel.twins.evaluation.subgroups import Groups, each, number

FARTHEST_FROM_NOMINAL = 0.03
RULE = (
    "A group is flagged when its coverage lies more than 3 points from the nominal level and its Wilson interval, widened for the "
    "number of groups compared (Bonferroni), excludes that level."
)
EVERYBODY = "everybody"


@dataclass(frozen=True)
class Coverage:
    """The share of a group's patients whose truth was held; the interval is Wilson's, of the effective number of patients."""

    by: str
    name: str
    patients: int
    share: Estimate
    nominal: float
    flagged: bool


def coverage(
    covered: NDArray[np.bool_],
    *,
    nominal: float,
    weight: NDArray[np.float64] | None = None,
    groups: Groups | None = None,
) -> tuple[Coverage, ...]:
    """Of everybody, then of each group; `weight` (n,) is 0 for whose truth is not known."""
    weights = np.ones(len(covered)) if weight is None else weight
    known = weights > 0
    groups = groups or {}
    compared = 1 + (number(groups) if groups else 0)
    parts = [(EVERYBODY, EVERYBODY, known), *each(groups, known)]
    return tuple(_of(by, name, covered[mine], weights[mine], nominal, compared) for by, name, mine in parts)


def _of(
    by: str,
    name: str,
    covered: NDArray[np.bool_],
    weight: NDArray[np.float64],
    nominal: float,
    compared: int,
) -> Coverage:
    people = effective_number(weight)
    if not people:
        return Coverage(by, name, 0, Estimate.none(), nominal, flagged=False)
    share = float((weight * covered).sum() / weight.sum())
    wide = wilson(share * people, people, z=float(norm.isf(0.025 / compared)))
    far = abs(share - nominal) > FARTHEST_FROM_NOMINAL
    return Coverage(
        by, name, len(covered), wilson(share * people, people), nominal, far and wide.excludes(nominal)
    )
