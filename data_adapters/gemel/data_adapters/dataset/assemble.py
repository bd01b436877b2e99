"""From facts to a data set: the arrays of a programme's cohort, by content alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.programme import Feature, FeatureKind, Missing, Programme, Target, TargetKind
from gemel.core.series import Series
from gemel.data_adapters.dataset.cohort import CohortCounts, select_cohort
from gemel.data_adapters.dataset.features import DAYS_PER_YEAR, feature_query, series_query
from gemel.data_adapters.dataset.targets import outcome_query, target_numbers, target_query
from gemel.data_adapters.meaning.facts import Facts

MINIMUM_KEY_BYTES = 16
_AT_ONCE = 65_536

Columns = dict[str, NDArray[np.float64]]


def assemble(facts: Facts, programme: Programme, *, pseudonym_key: bytes) -> tuple[Dataset, CohortCounts]:
    """The data set of a programme's cohort, and who is left out of it.

    It reads the tables `person`, `visit` and `fact` and nothing else. The same content gives the same snapshot,
    whatever the order of its rows, the source's ids of them or the machine. Beside pseudonyms, only numbers are kept.

    Args:
        facts: What the records say; the tables `member` and `record` are made in its database.
        programme: What to build.
        pseudonym_key: The hospital's secret, at least 16 bytes; the same key gives the same pseudonyms.

    Raises:
        GemelError: GEM212 with nobody in the cohort, GEM245 when a patient stands in the facts twice.
    """
    if len(pseudonym_key) < MINIMUM_KEY_BYTES:
        raise ValueError(f"pseudonym_key needs at least {MINIMUM_KEY_BYTES} bytes")
    counts = select_cohort(facts, programme, pseudonym_key=pseudonym_key)
    if not counts.included:
        raise GemelError("GEM212", f"None of {counts.patients} patients is in: {counts.excluded}.")
    n = counts.included
    time_years = np.zeros((n, len(programme.outcomes)), dtype=np.float32)
    event = np.zeros((n, len(programme.outcomes)), dtype=np.int8)
    for column, outcome in enumerate(programme.outcomes):
        for positions, found in _columns(facts, outcome_query(outcome)):
            time_years[positions, column] = found["days"] / DAYS_PER_YEAR
            event[positions, column] = found["event"]
    dataset = Dataset(
        programme.name,
        programme.version,
        programme.feature_names,
        programme.outcome_names,
        _patient_ids(facts),
        _values(facts, programme, n),
        time_years,
        event,
        programme.target_names,
        _targets(facts, programme, n),
        {part.name: _series(facts, part, n) for part in _series_parts(programme)},
    )
    return dataset, counts


def _patient_ids(facts: Facts) -> tuple[str, ...]:
    batches = facts.connection.sql("SELECT pseudonym FROM member ORDER BY position").to_arrow_reader(_AT_ONCE)
    return tuple(name for batch in batches for name in batch.column(0).to_pylist())


def _values(facts: Facts, programme: Programme, n: int) -> NDArray[np.float32]:
    values = np.full((n, len(programme.columns)), np.nan, dtype=np.float32)
    for column, feature in enumerate(programme.columns):
        if feature.missing_policy is Missing.ZERO:
            values[:, column] = 0.0
        for positions, found in _columns(facts, feature_query(programme, feature)):
            values[positions, column] = found["value"]
    return values


def _targets(facts: Facts, programme: Programme, n: int) -> NDArray[np.float32]:
    wanted = [target for target in programme.targets if target.kind is not TargetKind.SERIES]
    targets = np.full((n, len(wanted)), np.nan, dtype=np.float32)
    for column, target in enumerate(wanted):
        for positions, found in _columns(facts, target_query(target)):
            targets[positions, column] = target_numbers(target, found["value"])
    return targets


def _series_parts(programme: Programme) -> list[Feature | Target]:
    features = [feature for feature in programme.features if feature.kind is FeatureKind.SERIES]
    return [*features, *(target for target in programme.targets if target.kind is TargetKind.SERIES)]


def _series(facts: Facts, part: Feature | Target, n: int) -> Series:
    query = series_query(part)
    lengths = np.zeros(n, np.int64)
    counts = f"SELECT position, count(*) AS number FROM ({query}) GROUP BY position"
    for positions, found in _columns(facts, counts):
        lengths[positions] = found["number"].astype(np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    days, values = np.zeros(offsets[-1], np.float32), np.zeros(offsets[-1], np.float32)
    filled = 0
    for positions, found in _columns(facts, query):
        rows = slice(filled, filled + len(positions))
        days[rows], values[rows] = found["day"], found["value"]
        filled = rows.stop
    return Series(offsets, days, values)


def _columns(facts: Facts, sql: str) -> Iterator[tuple[NDArray[np.int64], Columns]]:
    """The column `position` of a query, and its other columns as numbers, some rows at a time."""
    for batch in facts.connection.sql(sql).to_arrow_reader(_AT_ONCE):
        columns = {
            name: batch.column(name).to_numpy(zero_copy_only=False).astype(np.float64)
            for name in batch.schema.names
        }
        yield columns.pop("position").astype(np.int64), columns
