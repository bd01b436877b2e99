"""The one interface of all tiers: a baseline, a horizon and a policy become virtual trajectories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gemel.core.dataset import OCCURRED
from gemel.core.errors import GemelError
from gemel.core.programme import DAYS_PER_YEAR
from gemel.synthetic.provenance import PrivacyStatement
from gemel.synthetic.trajectory.policy import Policy

Randomness = int | np.random.Generator


@dataclass(frozen=True)
class Trajectories:
    """What happened to n virtual patients: v visits, and events where the model has them.

    Attributes:
        patients: n. rows: int64 (v,), whose visit it is, in order; days: int64 (v,) from the index date, increasing within a row.
        values: By name, float64 (v,) in its unit; NaN where it was not measured.
        outcomes: The names of k events, death first. time_years, event: (n, k) as in `core.dataset.Dataset`.
        targets: By name, (n,), of a model that has them; NaN where they are not known.
        assigned: int64 (n,), which of the policy's plans each patient got.
    """

    patients: int
    rows: NDArray[np.int64]
    days: NDArray[np.int64]
    values: Mapping[str, NDArray[np.float64]]
    assigned: NDArray[np.int64]
    outcomes: tuple[str, ...] = ()
    time_years: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    event: NDArray[np.int8] = field(default_factory=lambda: np.zeros((0, 0), np.int8))
    targets: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


class TrajectoryModel(Protocol):
    """A tier. What it takes as a baseline is its own: raw values (n, d) of a programme, or strata (n,) of a panel."""

    def trajectory(
        self, baseline: NDArray[np.generic], horizon_days: int, policy: Policy, rng: Randomness
    ) -> Trajectories:
        """Draw a trajectory for each baseline row, as far as `horizon_days`; equal seeds give equal ones."""
        ...

    def statement(self) -> PrivacyStatement | None:
        """What the model cost its patients; None where it comes from publications alone. GEM702 where nobody can say."""
        ...


def possible(drawn: Trajectories) -> Trajectories:
    """The trajectories without what cannot be: a visit after death or before the index date, or twice on a day.

    Post-processing: the first of two visits on a day stays, and visits are put in order. Raises GEM705 for a visit of nobody.
    """
    rows, days = drawn.rows, drawn.days
    if len(rows) and not (rows.min() >= 0 and rows.max() < drawn.patients):
        raise GemelError("GEM705", "A visit is of a patient that is not there.")
    last = np.full(drawn.patients, np.inf)
    if drawn.outcomes:
        died = drawn.event[:, 0] == OCCURRED
        last[died] = np.rint(drawn.time_years[died, 0].astype(np.float64) * DAYS_PER_YEAR)
    order = np.lexsort((days, rows))
    rows, days = rows[order], days[order]
    again = np.zeros(len(rows), bool)
    again[1:] = (rows[1:] == rows[:-1]) & (days[1:] == days[:-1])
    kept = ~again & (days >= 0) & (days <= last[rows])
    chosen = order[kept]
    return replace(
        drawn,
        rows=drawn.rows[chosen],
        days=drawn.days[chosen],
        values={name: value[chosen] for name, value in drawn.values.items()},
    )


def generator(rng: Randomness) -> np.random.Generator:
    """A generator of its own stream for a seed; a generator as it is."""
    if isinstance(rng, np.random.Generator):
        return rng
    return np.random.default_rng(np.random.SeedSequence(rng, spawn_key=(5,)))
