"""What a data set made from the records says: the table that every format must agree with.

The same rules as `gemel data build`, on the columns of `records.Records`; a test builds the written files and compares.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemel.core.dataset import CENSORED, OCCURRED, PREVALENT
from gemel.core.programme import (
    DAYS_PER_YEAR,
    Feature,
    FeatureKind,
    Missing,
    Outcome,
    OutcomeKind,
    Target,
    TargetKind,
    Threshold,
)
from gemel.synthetic.export.records import Days, Numbers, Records, meets

if TYPE_CHECKING:
    from gemel.synthetic.cohort import VirtualCohort

_LATE = 1_000_000


class _Said(NamedTuple):
    rows: Days
    days: Days
    values: Numbers


@dataclass(frozen=True)
class Table:
    """One row per virtual patient, as in `core.dataset.Dataset`.

    Attributes:
        values: float32 (n, d). time_years: float32 (n, k). event: int8 (n, k). targets: float32 (n, t).
    """

    values: NDArray[np.float32]
    time_years: NDArray[np.float32]
    event: NDArray[np.int8]
    targets: NDArray[np.float32]


def table_of(records: Records) -> Table:
    """What the records say, feature by feature, outcome by outcome, target by target."""
    reader = _Reader(records)
    programme = records.programme
    values = [reader.feature(feature) for feature in programme.columns]
    outcomes = [reader.outcome(outcome) for outcome in programme.outcomes]
    by_name = {target.name: target for target in programme.targets}
    targets = [reader.target(by_name[name]) for name in programme.target_names]
    n = len(records)
    return Table(
        np.stack(values, axis=1).astype(np.float32),
        (np.stack([days for days, _ in outcomes], axis=1) / DAYS_PER_YEAR).astype(np.float32),
        np.stack([event for _, event in outcomes], axis=1).astype(np.int8),
        np.stack(targets, axis=1).astype(np.float32) if targets else np.zeros((n, 0), np.float32),
    )


def changed(cohort: VirtualCohort, table: Table) -> dict[str, int]:
    """In how many rows a record says something else than was drawn, by column; columns that agree are left out.

    Such rows were drawn with values that no one record can have: a last HbA1c and no day of a last HbA1c.
    """
    programme, counts = cohort.programme, {}
    for j, name in enumerate(programme.feature_names):
        close = np.isclose(cohort.values[:, j], table.values[:, j], rtol=1e-5, atol=1e-5, equal_nan=True)
        if programme.columns[j].kind is FeatureKind.AGE:
            close = np.abs(cohort.values[:, j] - table.values[:, j]) <= 1.01 / DAYS_PER_YEAR
        counts[name] = int(np.sum(~close))
    for j, name in enumerate(programme.outcome_names):
        late = np.abs(cohort.time_years[:, j] - table.time_years[:, j]) > 0.5 / DAYS_PER_YEAR
        counts[f"outcome {name}"] = int(np.sum(late | (cohort.event[:, j] != table.event[:, j])))
    for j, name in enumerate(programme.target_names):
        close = np.isclose(cohort.targets[:, j], table.targets[:, j], rtol=1e-5, atol=1e-5, equal_nan=True)
        counts[f"target {name}"] = int(np.sum(~close))
    return {name: count for name, count in counts.items() if count}


class _Reader:
    def __init__(self, records: Records) -> None:
        self.records, self.n = records, len(records)

    def said(self, concepts: Iterable[str], threshold: Threshold | None = None) -> _Said:
        """Every statement (s,) of these concepts, each once: the row, the day, and the value (NaN without one)."""
        wanted, parts = set(concepts), [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
        for statement in self.records.statements:
            if statement.means & wanted:
                values = statement.values
                kept = np.broadcast_to(meets(threshold, values), statement.rows.shape)
                numbers = np.full(len(statement.rows), np.nan) if values is None else values
                rows = statement.rows - self.records.first
                parts.append((rows[kept], statement.days[kept], numbers[kept]))
        rows, days, numbers = (np.concatenate([part[at] for part in parts]) for at in range(3))
        if len(parts) > 2:  # One statement says a thing once, in the order of rows.
            order = np.lexsort((numbers, days, rows))
            rows, days, numbers = rows[order], days[order], numbers[order]
            again = (np.diff(rows) == 0) & (np.diff(days) == 0) & ~(np.diff(numbers) > 0)
            first = np.append(True, ~again)[: len(rows)]
            rows, days, numbers = rows[first], days[first], numbers[first]
        return _Said(rows, days, numbers)

    def feature(self, feature: Feature) -> Numbers:
        if feature.kind is FeatureKind.AGE:
            return self.records.born_days / DAYS_PER_YEAR
        if feature.kind is FeatureKind.MALE:
            return np.where(self.records.male < 0, np.nan, self.records.male)
        rows, days, values = self.said(feature.concepts)
        inside = (days <= feature.to_days) & (
            days >= (-_LATE if feature.start_days is None else feature.start_days)
        )
        if feature.kind in (FeatureKind.PRESENT, FeatureKind.COUNT, FeatureKind.TIME_SINCE):
            found = self._counted(feature, rows[inside], days[inside])
        else:
            inside &= ~np.isnan(values)
            found = self._measured(feature, rows[inside], days[inside], values[inside])
        return np.where(np.isnan(found), 0.0, found) if feature.missing_policy is Missing.ZERO else found

    def _counted(self, feature: Feature, rows: Days, days: Days) -> Numbers:
        counts = np.bincount(rows, minlength=self.n).astype(np.float64)
        if feature.kind is FeatureKind.TIME_SINCE:
            last = np.full(self.n, -np.inf)
            np.maximum.at(last, rows, days)
            return np.where(counts > 0, -last, np.nan)
        return np.where(counts > 0, 1.0 if feature.kind is FeatureKind.PRESENT else counts, np.nan)

    def _measured(self, feature: Feature, rows: Days, days: Days, values: Numbers) -> Numbers:
        """By row, of values in the order of row, day and value."""
        found, counts = np.full(self.n, np.nan), np.bincount(rows, minlength=self.n)
        total = np.bincount(rows, weights=values, minlength=self.n)
        match feature.kind:
            case FeatureKind.FIRST:
                found[rows[::-1]] = values[::-1]
            case FeatureKind.MEAN:
                np.divide(total, counts, out=found, where=counts > 0)
            case FeatureKind.MIN:
                np.fmin.at(found, rows, values)
            case FeatureKind.MAX:
                np.fmax.at(found, rows, values)
            case FeatureKind.SLOPE:
                years = days / DAYS_PER_YEAR
                centre = np.bincount(rows, weights=years, minlength=self.n) / np.maximum(counts, 1)
                away = years - centre[rows]
                spread = np.bincount(rows, weights=away**2, minlength=self.n)
                slope = np.bincount(rows, weights=away * values, minlength=self.n)
                np.divide(slope, spread, out=found, where=spread > 1e-12)
            case _:
                found[rows] = values
        return found

    def outcome(self, outcome: Outcome) -> tuple[Days, NDArray[np.int64]]:
        end = self.records.end_days
        if outcome.kind is OutcomeKind.DEATH:
            return end, np.where(self.records.died, OCCURRED, CENSORED)
        rows, days, values = self.said(outcome.concepts, outcome.threshold)
        kept = (
            ~np.isnan(values) if outcome.kind is OutcomeKind.FIRST_MEASUREMENT else np.ones(len(rows), bool)
        )
        if outcome.kind is OutcomeKind.NEXT_DIAGNOSIS:
            kept &= days > 0
        first = np.full(self.n, _LATE)
        np.minimum.at(first, rows[kept], days[kept])
        event = np.where(first <= 0, PREVALENT, np.where(first <= end, OCCURRED, CENSORED))
        return np.where(first <= 0, 0, np.minimum(first, end)), event

    def target(self, target: Target) -> Numbers:
        at, end, died = target.at_days or 0, self.records.end_days, self.records.died
        if target.kind is TargetKind.DEATH:
            return np.where(died & (end <= at), 1.0, np.where(end >= at, 0.0, np.nan))
        rows, days, values = self.said(target.concepts, target.threshold)
        if target.kind is TargetKind.BINARY:
            first, before = np.full(self.n, _LATE), np.zeros(self.n, bool)
            np.minimum.at(first, rows[days > 0], days[days > 0])
            before[rows[days <= 0]] = True
            found = np.where(first <= np.minimum(at, end), 1.0, np.where((end >= at) | died, 0.0, np.nan))
            return np.where(before, np.nan, found) if target.incident else found
        near = (days > 0) & (np.abs(days - at) <= target.tolerance_days) & ~np.isnan(values)
        rows, days, values = rows[near], days[near], values[near]
        order = np.lexsort((values, days, np.abs(days - at), rows))[::-1]
        found = np.full(self.n, np.nan)
        found[rows[order]] = values[order]
        if target.kind is TargetKind.ORDINAL:
            levels = np.searchsorted(np.array(target.levels), found, side="right").astype(np.float64)
            return np.where(np.isnan(found), np.nan, levels)
        return found
