"""What became of each patient at an endpoint's day, and for how many patients each one stands (`gemel.twins.scores`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemel.core.dataset import Dataset
from gemel.core.programme import Endpoint, Programme
from gemel.twins.scores import followed_to, target_of

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Observed:
    """Of an event: case bool (n,), weight (n,) of who is known and 0 of the others, at_risk bool (n,)."""

    case: Flags
    weight: Floats
    at_risk: Flags

    @property
    def known(self) -> Flags:
        """bool (n,): who counts."""
        return np.greater(self.weight, 0)

    @property
    def incidence(self) -> float:
        """The weighted share of cases; NaN when nobody is known."""
        total = float(self.weight.sum())
        return float((self.weight * self.case).sum() / total) if total > 0 else float("nan")

    def only(self, group: Flags) -> Observed:
        """Others weigh nothing and are not at risk."""
        return Observed(self.case, np.where(group, self.weight, 0.0), self.at_risk & group)


def days_of(programme: Programme, endpoint: Endpoint) -> tuple[int, ...]:
    """The days on which it is scored: an outcome's horizons, a target's own day."""
    if endpoint.outcome:
        return endpoint.horizons_days
    return (int(target_of(programme, endpoint).at_days or 0),)


def observed_events(programme: Programme, dataset: Dataset, endpoint: Endpoint) -> tuple[Observed, ...]:
    """An endpoint's event by each of `days_of`; for an endpoint that is a risk, not a value."""
    groups = followed_to(programme, endpoint, dataset)
    return tuple(Observed(group.case, group.weight, group.at_risk) for group in groups)
