"""What is counted of each endpoint: the table that a node may let out, noised and charged.

A risk's table is bins of predicted risk x what became of the patient; a value's is bins of the predicted x bins of the
measured value. A patient not at risk is in no cell, every other in exactly one, so adding or removing a patient changes
each table by at most 1 in one cell.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gemel.core.arrays import ArraySpec
from gemel.core.dataset import CENSORED, OCCURRED, Dataset
from gemel.core.programme import DAYS_PER_YEAR, Endpoint, Programme, TargetKind
from gemel.privacy.statistics.follow_up import cases_and_controls, interval_status
from gemel.twins.prediction import Prediction
from gemel.twins.scores import (
    Fate,
    at_risk,
    fates,
    horizon_labels,
    is_risk,
    measured_target,
    target_of,
)

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


class EndpointTable(ABC):
    """The table of one endpoint: its rows and columns, and where each patient belongs.

    Attributes:
        columns: Names of the columns.
        possible: bool (columns,), false where nobody can be: what is in those cells is noise, and known to be.
    """

    columns: tuple[str, ...]
    possible: NDArray[np.bool_]

    def __init__(self, programme: Programme, endpoint: Endpoint) -> None:
        self.programme, self.endpoint = programme, endpoint

    @property
    def edges(self) -> Floats:
        """Edges of the bins of what is predicted: the rows."""
        return np.array(self.endpoint.risk_edges)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return len(self.edges) - 1, len(self.columns)

    def rows(self, predicted: Floats) -> Counts:
        """The row (n,) of each prediction (n,); what is no number or beyond the edges is in an outermost row."""
        # Clipping first: a risk that is 1 + 1e-9, or not a number, must not fall out of every cell.
        within = np.clip(np.nan_to_num(predicted), self.edges[0], self.edges[-1])
        return np.digitize(within, self.edges[1:-1]).astype(np.int64)

    def count(self, prediction: Prediction, dataset: Dataset) -> Counts:
        """The exact table, int64 (rows, columns): private until noise is added."""
        predicted = prediction.risk(self.programme, self.endpoint)[:, -1]
        column = self.column_of(dataset)
        cells = (self.rows(predicted) * len(self.columns) + column)[column >= 0]
        counts = np.bincount(cells, minlength=self.shape[0] * self.shape[1])
        return counts.reshape(self.shape).astype(np.int64)

    @abstractmethod
    def column_of(self, dataset: Dataset) -> Counts:
        """The column (n,) of each patient, -1 for whoever is in none."""


class RiskTable(EndpointTable, ABC):
    """Of an event: from its cells follow cases and controls at each horizon."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the horizons: `5y`, `182d`."""
        return horizon_labels(self.programme, self.endpoint)

    @cached_property
    def horizons_years(self) -> tuple[float, ...]:
        """Times of the horizons."""
        days = self.endpoint.horizons_days or (target_of(self.programme, self.endpoint).at_days or 0,)
        return tuple(day / DAYS_PER_YEAR for day in days)

    @abstractmethod
    def cases_and_controls(self, counts: Floats, horizon: int) -> tuple[Floats, Floats]:
        """Weighted cases and controls (..., rows) at a horizon, of tables (..., rows, columns), linear but for the weights.

        Who is not known is stood for by the others, by the table's own totals.
        """


class OutcomeTable(RiskTable):
    """Of an outcome: for each interval up to a horizon the event, death before it, follow-up ended; then: beyond."""

    def __init__(self, programme: Programme, endpoint: Endpoint) -> None:
        super().__init__(programme, endpoint)
        self._outcome = programme.outcome_names.index(endpoint.outcome)
        kinds = ("case", "died_first", "left")
        self.columns = tuple(f"{kind}_{label}" for label in self.labels for kind in kinds)
        self.columns += (f"beyond_{self.labels[-1]}",)
        # Nobody dies before death.
        self.possible = np.array([self._outcome > 0 or "died_first" not in name for name in self.columns])

    def column_of(self, dataset: Dataset) -> Counts:  # noqa: D102
        j = self._outcome
        event = dataset.event[:, j]
        died_first = (event == CENSORED) & (dataset.event[:, 0] == OCCURRED) & (j != 0)
        kind = np.where(event == OCCURRED, 0, np.where(died_first, 1, 2)).astype(np.int64)
        days = np.rint(dataset.time_years[:, j].astype(np.float64) * DAYS_PER_YEAR)
        status = interval_status(days, kind, self.endpoint.horizons_days, kinds=3)
        return np.where(at_risk(dataset, j), status, -1)

    def cases_and_controls(self, counts: Floats, horizon: int) -> tuple[Floats, Floats]:  # noqa: D102
        return cases_and_controls(counts, horizon)


class EventTable(RiskTable):
    """Of an ordinal, binary or death target: its `Fate` on its day."""

    columns = tuple(fate.name.lower() for fate in Fate if fate >= 0)

    def __init__(self, programme: Programme, endpoint: Endpoint) -> None:
        super().__init__(programme, endpoint)
        self._ordinal = target_of(programme, endpoint).kind is TargetKind.ORDINAL
        self.possible = np.ones(len(self.columns), dtype=bool)
        self.possible[Fate.DIED], self.possible[Fate.UNMEASURED] = endpoint.with_death, self._ordinal

    def column_of(self, dataset: Dataset) -> Counts:  # noqa: D102
        return fates(self.programme, self.endpoint, dataset)

    def cases_and_controls(self, counts: Floats, horizon: int) -> tuple[Floats, Floats]:
        """As `scores.followed_to` weighs patients, from totals: deaths half-way, leaving in a straight line until the day."""
        totals = np.maximum(counts.sum(axis=-2), 0)
        event, _, none, unmeasured, left = (totals[..., fate] for fate in range(len(self.columns)))
        through = np.maximum(event + none + unmeasured, 1.0)
        still = through / (through + left)
        half_way = (1 + still) / 2
        known = still * (through - unmeasured).clip(1.0) / through
        weight = [1 / known if self._ordinal else 1 / half_way, 1 / half_way, 1 / known]
        cases = counts[..., Fate.EVENT] * weight[0][..., None] + counts[..., Fate.DIED] * weight[1][..., None]
        return cases, counts[..., Fate.NONE] * weight[2][..., None]


class ValueTable(EndpointTable):
    """Of a VALUE_AT target: bins of the measured value, then "not measured", which those who died before are too."""

    def __init__(self, programme: Programme, endpoint: Endpoint) -> None:
        super().__init__(programme, endpoint)
        self.columns = (*(f"from_{edge:g}" for edge in endpoint.value_edges[:-1]), "not_measured")
        self.possible = np.ones(len(self.columns), dtype=bool)

    @property
    def edges(self) -> Floats:  # noqa: D102
        return np.array(self.endpoint.value_edges)

    @property
    def middles(self) -> Floats:
        """The middle of each bin, (bins,)."""
        return (self.edges[1:] + self.edges[:-1]) / 2

    def column_of(self, dataset: Dataset) -> Counts:  # noqa: D102
        value = measured_target(dataset, self.endpoint.target)
        return np.where(np.isfinite(value), self.rows(value), len(self.columns) - 1)


def table_of(programme: Programme, endpoint: Endpoint) -> EndpointTable:
    """The table of an endpoint."""
    if endpoint.outcome:
        return OutcomeTable(programme, endpoint)
    return (
        EventTable(programme, endpoint) if is_risk(programme, endpoint) else ValueTable(programme, endpoint)
    )


def metric_tables(programme: Programme) -> dict[str, ArraySpec]:
    """The declared tables, int64 (rows, columns), by name of the endpoint; sensitivity 1 each."""
    return {e.name: ArraySpec(table_of(programme, e).shape, "int64") for e in programme.endpoints}


def count_metric_tables(programme: Programme, prediction: Prediction, dataset: Dataset) -> dict[str, Counts]:
    """Count the tables of what a twin predicts for these patients, exactly: add noise before they leave."""
    return {e.name: table_of(programme, e).count(prediction, dataset) for e in programme.endpoints}
