"""The public domain of virtual cohorts: every column of a programme, or of a plain table, as a few public levels.

Time and event of an outcome are one column, for hazards are facts about both. "Missing" is a level. Nothing here is
read off data, and nothing knows how many patients there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemel.core.dataset import OCCURRED, Dataset
from gemel.core.errors import GemelError
from gemel.core.programme import (
    DAYS_PER_YEAR,
    Feature,
    FeatureKind,
    Missing,
    Outcome,
    OutcomeKind,
    Programme,
    Target,
    TargetKind,
)
from gemel.synthetic.columns import Categories, Column, Floats, Form, Levels, Numbers, Role, Times

Codes = Mapping[str, Levels]

_MOST_BINS_OF_TIME = 10
_BINARY = (FeatureKind.MALE, FeatureKind.PRESENT)
# Of a feature that declares no bins: where they end, in scales from the reference mean.
_USUAL_EDGES = (-1.5, -0.5, 0.5, 1.5)


@dataclass(frozen=True)
class DecodedTable:
    """Virtual patients as a data set holds them: shapes and meanings of `core.dataset.Dataset`.

    Attributes:
        values: float32 (n, d). time_years: float32 (n, k), whole days over 365.25. event: int8 (n, k).
        targets: float32 (n, t) in the order of the programme's `target_names`; NaN where not known or not modelled.
    """

    values: NDArray[np.float32]
    time_years: NDArray[np.float32]
    event: NDArray[np.int8]
    targets: NDArray[np.float32]


@dataclass(frozen=True)
class Domain:
    """Named columns of public levels; with a `programme`, those of its data sets."""

    columns: tuple[Column, ...]
    programme: Programme | None = None

    def __post_init__(self) -> None:
        if len({column.name for column in self.columns}) != len(self.columns):
            raise ValueError("two columns of a domain have one name")

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Levels of each column, by name."""
        return {column.name: column.size for column in self.columns}

    @property
    def names(self) -> tuple[str, ...]:
        """Column names, in order."""
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column:
        """The column of that name; KeyError when there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    def with_roles(self, *roles: Role) -> tuple[Column, ...]:
        """The columns of these roles, in the order of the roles."""
        return tuple(column for role in roles for column in self.columns if column.role is role)

    @property
    def clock(self) -> str | None:
        """The column whose time ends everybody's follow-up: the first that says when people left, else the first time."""
        times = [c for c in self.columns if isinstance(c.form, Times)]
        leaving = [c for c in times if isinstance(c.form, Times) and c.form.censor_days]
        return next((column.name for column in (*leaving, *times)), None)

    @cached_property
    def told_by(self) -> dict[str, str]:
        """Histories that an outcome's "prevalent" level tells as well: a feature's name -> the outcome's column."""
        if self.programme is None:
            return {}
        outcomes = {
            o.concepts: _outcome_column(o.name)
            for o in self.programme.outcomes
            if o.kind is OutcomeKind.FIRST_DIAGNOSIS
        }
        return {
            f.name: outcomes[f.concepts]
            for f in self.programme.columns
            if f.concepts in outcomes
            and f.kind is FeatureKind.PRESENT
            and (f.start_days, f.to_days, f.missing_policy) == (None, 0, Missing.ZERO)
        }

    def impossible(self, first: str, second: str) -> NDArray[np.bool_] | None:
        """Level pairs (levels of first, levels of second) that cannot be: an event after the end of follow-up, a history
        that its outcome denies.
        """
        if self.told_by.get(second) == first:
            before = np.arange(self.sizes[first]) == self.sizes[first] - 1
            told: NDArray[np.bool_] = before[:, None] != (np.arange(self.sizes[second]) == 1)
            return told
        if second == self.clock != first or self.told_by.get(first) == second:
            turned = self.impossible(second, first)
            return None if turned is None else turned.T
        end, other = self.column(first).form, self.column(second).form
        if (
            first != self.clock
            or not isinstance(end, Times)
            or not isinstance(other, Times)
            or other.censor_days
        ):
            return None
        starts = np.where(np.arange(len(other.levels)) < other.events, other.span[0], -1.0)
        mask: NDArray[np.bool_] = starts[None, :] >= end.span[1][:, None]
        return mask if mask.any() else None

    def encode(self, dataset: Dataset) -> dict[str, Levels]:
        """The levels of every column for a hospital's data set: {name: (n,)}. Raises GEM701 for another programme's."""
        return self.encode_columns(self.columns_of(dataset))

    def columns_of(self, dataset: Dataset) -> dict[str, Any]:
        """A data set's people by column, as `encode_columns` takes them. Raises GEM701 for another programme's."""
        programme = self.programme
        if programme is None or (dataset.features, dataset.outcomes) != (
            programme.feature_names,
            programme.outcome_names,
        ):
            raise GemelError("GEM701", "The data set's columns are not those of the domain's programme.")
        raw: dict[str, Any] = {name: dataset.values[:, j] for j, name in enumerate(dataset.features)}
        for j, outcome in enumerate(dataset.outcomes):
            days = np.rint(dataset.time_years[:, j].astype(np.float64) * DAYS_PER_YEAR)
            raw[_outcome_column(outcome)] = (days, dataset.event[:, j])
        for j, name in enumerate(dataset.target_names):
            raw[_target_column(name)] = dataset.targets[:, j]
        return raw

    def encode_features(self, values: NDArray[np.floating]) -> dict[str, Levels]:
        """The levels of the programme's features for raw values (n, d), as a data set holds them."""
        if self.programme is None:
            raise GemelError("GEM701", "A plain table is encoded by its columns: encode_columns.")
        raw = {name: values[:, j] for j, name in enumerate(self.programme.feature_names)}
        return {
            column.name: column.form.encode(raw[column.name])
            for column in self.columns
            if column.name in raw and not isinstance(column.form, Times)
        }

    def encode_columns(self, raw: Mapping[str, Any]) -> dict[str, Levels]:
        """The levels of a plain table: values (n,) by column name, (days, event) for a time column."""
        codes = {}
        for column in self.columns:
            found = raw[column.name]
            codes[column.name] = (
                column.form.encode(*found) if isinstance(column.form, Times) else column.form.encode(found)
            )
        return codes

    def decode(self, codes: Codes, *, seed: int) -> DecodedTable:
        """Values, times and targets of drawn levels; equal seeds give equal tables. Needs a programme's domain."""
        if self.programme is None:
            raise GemelError("GEM701", "A plain table is decoded by its columns: decode_columns.")
        programme, raw = self.programme, self.decode_columns(codes, seed=seed)
        times = [raw[_outcome_column(name)] for name in programme.outcome_names]
        days, event = (np.stack([t[part] for t in times], axis=1) for part in (0, 1))
        targets = [_decode_target(t, raw, days[:, 0], event[:, 0]) for t in _targets_of(programme)]
        return DecodedTable(
            np.stack([raw[name] for name in programme.feature_names], axis=1).astype(np.float32),
            (days / DAYS_PER_YEAR).astype(np.float32),
            event.astype(np.int8),
            np.stack(targets, axis=1).astype(np.float32) if targets else np.zeros((len(days), 0), np.float32),
        )

    def decode_columns(self, codes: Codes, *, seed: int) -> dict[str, Any]:
        """Values (n,) by column name, (days, event) for a time column."""
        streams = np.random.SeedSequence(seed, spawn_key=(2,)).spawn(len(self.columns))
        generators = dict(zip(self.names, map(np.random.default_rng, streams), strict=True))
        raw: dict[str, Any] = {}
        # The clock first: no other event comes after it.
        for column in sorted(self.columns, key=lambda column: column.name != self.clock):
            levels, generator = codes[column.name], generators[column.name]
            if isinstance(column.form, Times):
                follows = not column.form.censor_days and column.name != self.clock
                end = raw[str(self.clock)][0] if follows else None
                raw[column.name] = column.form.decode(levels, generator, end)
            else:
                raw[column.name] = column.form.decode(levels, generator)
        return raw

    def within(self, name: str, low: float = -math.inf, high: float = math.inf) -> tuple[int, ...]:
        """The levels of a number column that make up [low, high], for `TreeModel.sample(given=...)`. Raises GEM704."""
        form = self._form(name)
        if not isinstance(form, Numbers):
            raise GemelError("GEM704", f"{name} is no number: name its level instead.")
        try:
            return form.within(low, high)
        except ValueError as error:
            raise GemelError("GEM704", f"{name}: {error}.") from error

    def equal(self, name: str, value: Any) -> tuple[int, ...]:
        """The level of a category, a yes-or-no or a named level, for `TreeModel.sample(given=...)`. Raises GEM704."""
        form = self._form(name)
        if isinstance(form, Categories) and value in form.values:
            return (form.values.index(value),)
        if value in form.levels:
            return (form.levels.index(value),)
        raise GemelError("GEM704", f"{name} has no level {value!r}: it has {', '.join(form.levels)}.")

    def _form(self, name: str) -> Form:
        if name not in self.names:
            raise GemelError("GEM704", f"There is no column {name!r}.")
        return self.column(name).form


def table_domain(columns: Iterable[tuple[str, Form, Role]]) -> Domain:
    """The domain of a plain table whose public bins are declared by whoever knows it: (name, form, role) each."""
    return Domain(tuple(Column(name, name.replace("_", " "), role, form) for name, form, role in columns))


def domain_of(programme: Programme) -> Domain:
    """The domain of a programme: its features, outcomes and targets. Series are not part of it."""
    given = {t.feature for t in programme.treatments if t.feature}
    features = tuple(
        Column(f.name, f.title, Role.TREATMENT if f.name in given else Role.FEATURE, form_of(f))
        for f in programme.columns
    )
    outcomes = tuple(
        Column(_outcome_column(o.name), o.title, Role.OUTCOME, _times_of(programme, o, first=i == 0))
        for i, o in enumerate(programme.outcomes)
    )
    targets = []
    for target in _targets_of(programme):
        form = _form_of_target(programme, target)
        if form is not None:
            targets.append(Column(_target_column(target.name), target.title, Role.TARGET, form))
    return Domain((*features, *outcomes, *targets), programme)


def form_of(feature: Feature) -> Form:
    """How a feature is binned: its declared public bins, else some around its reference mean."""
    missing = feature.kind is not FeatureKind.AGE and feature.missing_policy is Missing.MASK
    if feature.kind in _BINARY:
        return Categories((0.0, 1.0), None if missing else 0.0)
    edges = feature.bin_edges
    if not edges:
        inner = (feature.reference_mean + step * feature.scale for step in _USUAL_EDGES)
        edges = (feature.low, *(e for e in inner if feature.low < e < feature.high), feature.high)
    return Numbers(tuple(map(float, edges)), step_of(feature), None if missing else feature.reference_mean)


def step_of(feature: Feature) -> float:
    """The finest step at which a value is told: days of age, whole counts and scores, else two figures of the scale."""
    if feature.kind is FeatureKind.AGE:
        return 1.0 / DAYS_PER_YEAR
    # UCUM writes the points of a score, and what is counted, in braces.
    if feature.kind in (FeatureKind.COUNT, FeatureKind.TIME_SINCE) or feature.unit.startswith("{"):
        return 1.0
    return float(10.0 ** (math.floor(math.log10(feature.scale)) - 1))


def _outcome_column(name: str) -> str:
    return f"outcome/{name}"


def _target_column(name: str) -> str:
    return f"target/{name}"


def _times_of(programme: Programme, outcome: Outcome, *, first: bool) -> Times:
    """Bins on the programme's grid; the first outcome, death, also says when follow-up ended."""
    grid = [float(round(years * DAYS_PER_YEAR)) for years in programme.times_years]
    incident = outcome.kind not in (OutcomeKind.DEATH, OutcomeKind.NEXT_DIAGNOSIS)
    return Times(
        event_days=_thinned(grid, _MOST_BINS_OF_TIME),
        censor_days=_thinned(grid, _MOST_BINS_OF_TIME) if first else (),
        prevalent=incident,
    )


def _thinned(edges: list[float], bins: int) -> tuple[float, ...]:
    """At most `bins` of the grid's intervals, narrow ones early, where most happens."""
    if len(edges) - 1 <= bins:
        return tuple(edges)
    last = len(edges) - 1
    chosen, number = [0], 0
    while len(chosen) < bins:
        number = max(number + 1, round(number * (last / max(number, 1)) ** (1 / (bins - len(chosen) + 1))))
        chosen.append(min(number, last - (bins - len(chosen))))
    return tuple(edges[i] for i in (*chosen, last))


def _targets_of(programme: Programme) -> tuple[Target, ...]:
    """The targets that are columns of a data set, in their order."""
    by_name = {target.name: target for target in programme.targets}
    return tuple(by_name[name] for name in programme.target_names)


def _form_of_target(programme: Programme, target: Target) -> Form | None:
    """Public bins of a target; None where it follows from another column, or where nobody declared any."""
    if target.kind is TargetKind.BINARY:
        return Categories((0.0, 1.0))
    if target.kind is TargetKind.ORDINAL:
        return Categories(tuple(float(level) for level in range(len(target.levels) + 1)))
    if target.kind is not TargetKind.VALUE_AT:
        return None
    declared = [e.value_edges for e in programme.endpoints if e.target == target.name and e.value_edges]
    like = [
        f
        for f in programme.columns
        if f.bin_edges and f.unit == target.unit and f.concepts == target.concepts
    ]
    step = step_of(like[0]) if like else 1.0 if target.unit.startswith("{") else 0.01
    edges = declared[0] if declared else like[0].bin_edges if like else None
    return None if edges is None else Numbers(tuple(map(float, edges)), step)


def _decode_target(target: Target, raw: Mapping[str, Any], days: Floats, death: NDArray[np.int8]) -> Floats:
    """A target (n,) that agrees with the end of follow-up: nobody is measured after death."""
    due = float(target.at_days or 0)
    died, left = (death == OCCURRED) & (days <= due), (death != OCCURRED) & (days < due)
    if target.kind is TargetKind.DEATH:
        return np.where(died, 1.0, np.where(left, np.nan, 0.0))
    found = raw.get(_target_column(target.name))
    if found is None:
        return np.full(len(days), np.nan)
    values = np.array(found, np.float64)
    if target.kind is TargetKind.BINARY:
        return np.where(died & np.isnan(values), 0.0, np.where(left & (values == 0), np.nan, values))
    return np.where(died, np.nan, values)
