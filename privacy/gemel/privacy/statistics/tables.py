"""Counting: one integer table for each request, in which one patient moves a known, small amount.

Exact: add noise before anything leaves (`release.describe` does both).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemel.core.dataset import CENSORED, OCCURRED, PREVALENT, Dataset
from gemel.core.errors import GemelError
from gemel.core.statistic_request import (
    MOMENT_CELLS,
    STATUSES_OF_PREDICTION,
    STATUSES_OF_SURVIVAL,
    Binned,
    ContingencyRequest,
    CountRequest,
    HistogramRequest,
    MomentsRequest,
    PredictionRequest,
    StatisticRequest,
    SurvivalRequest,
    check_statistic_names,
    check_statistics,
)
from gemel.privacy.statistics.follow_up import interval_status

Table = NDArray[np.int64]
Predictions = Mapping[str, NDArray[np.floating[Any]]]
_NOWHERE = -1


def tabulate(
    request: StatisticRequest, dataset: Dataset, *, predictions: Predictions | None = None
) -> dict[str, Table]:
    """The exact table of one request, int64 of `request.shape`, under the request's name.

    A variable is a feature, a target, or one of `predictions` (n,), such as a twin's risk. One patient more or fewer
    changes the table by at most `request.grid` in 2-norm, and of people one cell by one. Raises GEM311 for a request
    out of bounds or for a name that is not there.
    """
    check_statistics([request])
    columns = _Columns(dataset, predictions or {})
    check_statistic_names([request], variables=columns.names, outcomes=dataset.outcomes)
    return {request.name: _count(request, columns).reshape(request.shape)}


class _Columns:
    """The variables of a data set by name, whatever they are."""

    def __init__(self, dataset: Dataset, predictions: Predictions) -> None:
        self.dataset, self._predictions = dataset, predictions
        self.names = [*dataset.features, *dataset.target_names, *predictions]
        if len(set(self.names)) != len(self.names):
            raise GemelError("GEM311", "Two variables of the data set have the same name.")
        for name, values in predictions.items():
            if values.shape != (len(dataset),):
                raise GemelError("GEM311", f"{name} must be one number for each of {len(dataset)} patients.")

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        dataset = self.dataset
        if name in self._predictions:
            return self._predictions[name].astype(np.float64)
        if name in dataset.features:
            return dataset.values[:, dataset.features.index(name)].astype(np.float64)
        return dataset.targets[:, dataset.target_names.index(name)].astype(np.float64)

    def cell(self, binned: Binned) -> NDArray[np.int64]:
        """The bin of each patient; the cell behind the last for a value that is missing or not finite."""
        values = self[binned.variable]
        known = np.isfinite(values)
        inside = np.clip(np.where(known, values, binned.edges[0]), binned.edges[0], binned.edges[-1])
        return np.where(known, np.digitize(inside, binned.edges[1:-1]), binned.bins).astype(np.int64)


def _count(request: StatisticRequest, columns: _Columns) -> Table:
    match request:
        case CountRequest():
            return np.array([len(columns.dataset)], dtype=np.int64)
        case HistogramRequest():
            return _cells(request, columns.cell(request.of))
        case MomentsRequest():
            return _moments(request, columns)
        case ContingencyRequest():
            return _cells(request, *map(columns.cell, request.of))
        case SurvivalRequest():
            nobody_apart = np.zeros(len(columns.dataset), dtype=np.int64)
            groups = nobody_apart if request.by is None else columns.cell(request.by)
            status = _status(request.outcome, request.edges_years, columns, kinds=STATUSES_OF_SURVIVAL)
            return _cells(request, groups, status)
        case PredictionRequest():
            return _cells(request, columns.cell(request.score), _outcome(request, columns))


def _cells(request: StatisticRequest, *index: NDArray[np.int64]) -> Table:
    """Count patients in the cell that their indices name; who has an index of -1 is in none."""
    present = reduce(np.logical_and, [part != _NOWHERE for part in index])
    cell = np.ravel_multi_index(tuple(part[present] for part in index), request.shape)
    return np.bincount(cell, minlength=int(np.prod(request.shape))).astype(np.int64)


def _outcome(request: PredictionRequest, columns: _Columns) -> NDArray[np.int64]:
    if request.edges_years:
        return _status(request.outcome, request.edges_years, columns, kinds=STATUSES_OF_PREDICTION)
    value = columns[request.outcome]
    # Case 0, control 1; who has no known outcome says nothing about the score.
    return np.where(np.isfinite(value), np.where(value > 0.5, 0, 1), _NOWHERE).astype(np.int64)


def _status(outcome: str, edges: tuple[float, ...], columns: _Columns, *, kinds: int) -> NDArray[np.int64]:
    """Status of those at risk at a time that is a number; an end of follow-up by death is one of three kinds, or leaving."""
    dataset = columns.dataset
    j = dataset.outcomes.index(outcome)
    time, event = dataset.time_years[:, j].astype(np.float64), dataset.event[:, j]
    present = (event != PREVALENT) & np.isfinite(time)
    kind = np.where(event == OCCURRED, 0, kinds - 1)
    if kinds == STATUSES_OF_PREDICTION and j > 0:
        kind = np.where((event == CENSORED) & (dataset.event[:, 0] == OCCURRED), 1, kind)
    after_start = np.maximum(np.where(present, time, 0), 0)
    status = interval_status(after_start, kind.astype(np.int64), edges[1:], kinds=kinds)
    return np.where(present, status, _NOWHERE)


def _moments(request: MomentsRequest, columns: _Columns) -> Table:
    """Each patient's `grid` parts over the five Bernstein cells, or all in the sixth.

    Parts are cut by rounding the running sum down after a shift in [0, 1) that hangs on the patient's pseudonym: on
    average over patients nothing is lost, and no patient's parts depend on another.
    """
    values = columns[request.variable]
    known = np.isfinite(values)
    place = (np.where(known, values, request.low) - request.low) / (request.high - request.low)
    t = np.clip(place, 0.0, 1.0)
    parts = np.stack([math.comb(4, j) * t**j * (1 - t) ** (4 - j) for j in range(MOMENT_CELLS - 1)])
    return _shared_out(request, parts, known, columns.dataset.patient_ids)


def _shared_out(
    request: MomentsRequest, parts: NDArray[np.float64], known: NDArray[np.bool_], ids: tuple[str, ...]
) -> Table:
    """Whole parts of all patients, from what each gives to all cells but the last (cells - 1, n), which gets the rest."""
    grid = request.grid
    running = np.minimum(np.cumsum(parts, axis=0), 1.0)
    cuts = np.minimum(np.floor(running * grid + _shifts(request.variable, ids)), grid).astype(np.int64)
    cuts = np.concatenate([np.zeros((1, len(ids)), np.int64), cuts, np.full((1, len(ids)), grid)])
    units = np.diff(cuts, axis=0)[:, known].sum(axis=1)
    missing = grid * np.count_nonzero(~known)
    return np.array([*units.tolist(), missing], dtype=np.int64)


def _shifts(variable: str, ids: tuple[str, ...]) -> NDArray[np.float64]:
    digests = [hashlib.sha256(f"shift:{variable}:{i}".encode()).digest()[:6] for i in ids]
    return np.array([int.from_bytes(d, "big") / 2**48 for d in digests], dtype=np.float64)
