"""What a virtual cohort says, as columns: dated statements about each virtual patient. The formats only spell it.

What is said is what the platform's readers read: the index date is the start of the first finished visit (or what the
cohort asks for on that day), follow-up ends with the last visit or with death, histories stand on the last day of their
window, targets are measured on their day.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gemel.core.concepts import Code, Concept
from gemel.core.dataset import OCCURRED, PREVALENT
from gemel.core.errors import GemelError
from gemel.core.programme import (
    DAYS_PER_YEAR,
    Comparison,
    Feature,
    FeatureKind,
    IndexKind,
    Programme,
    Target,
    TargetKind,
    Threshold,
)
from gemel.synthetic.export.codes import Kind, chosen_code, kind_of, meaning_of, own_concept

if TYPE_CHECKING:
    from gemel.synthetic.cohort import VirtualCohort

Days = NDArray[np.int64]
Numbers = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Everybody's first visit: a public date that belongs to nobody.
INDEX_DATE = datetime.date(2000, 1, 1)
# Where a window starts with the record: no virtual record says anything earlier.
LONG_AGO = -14_610
_FOR_EVER = 1_000_000
# What one value says as well as many.
_SINGLE = (FeatureKind.LAST, FeatureKind.FIRST, FeatureKind.MEAN, FeatureKind.MIN, FeatureKind.MAX)


@dataclass(frozen=True)
class Visits:
    """Visits after the index date: what a simulated trajectory measured.

    Attributes:
        rows: int64 (v,), which virtual patient. days: int64 (v,), from the index date, 1 or later.
        values: By name of a measured concept of the programme, float64 (v,) in its unit; NaN where not measured then.
    """

    rows: Days
    days: Days
    values: Mapping[str, Numbers] = field(default_factory=dict)


@dataclass(frozen=True)
class Statement:
    """The same thing said in some records: one code, a day each, and a value each where it is measured.

    Attributes:
        name: Of the statement within a record; with the row it makes an id.
        means: The programme's concepts that the code stands for. kind: As what it is recorded.
        rows: int64 (m,), increasing. days: int64 (m,) from the index date. values: float64 (m,) in the concept's unit.
        visit: The number of the further visit that it belongs to, within its row.
    """

    name: str
    title: str
    concept: Concept
    code: Code
    means: frozenset[str]
    kind: Kind
    rows: Days
    days: Days
    values: Numbers | None
    visit: int | None = None

    def part(self, first: int, last: int) -> Statement:
        """What the records of rows first to last - 1 say of it."""
        start, stop = np.searchsorted(self.rows, (first, last))
        values = None if self.values is None else self.values[start:stop]
        return replace(self, rows=self.rows[start:stop], days=self.days[start:stop], values=values)


@dataclass(frozen=True)
class Records:
    """The records of n virtual patients.

    Attributes:
        release: The cohort's name. first: the number of the first row here.
        born_days: int64 (n,), days from birth to the index date. male: int8 (n,), -1 where not said.
        end_days: int64 (n,), the end of follow-up; a death where `died`.
        look_back_days: How long before the index date everybody had another visit; 0 for none.
        statements: In the order in which a record says them.
        visit_rows, visit_days: int64 (v,), further visits.
    """

    programme: Programme
    release: str
    first: int
    born_days: Days
    male: NDArray[np.int8]
    end_days: Days
    died: Mask
    look_back_days: int
    statements: tuple[Statement, ...]
    visit_rows: Days
    visit_days: Days

    def __len__(self) -> int:
        return len(self.end_days)

    def part(self, first: int, last: int) -> Records:
        """The records of rows first to last - 1, which keep their numbers."""
        some = slice(first - self.first, last - self.first)
        visits = (self.visit_rows >= first) & (self.visit_rows < last)
        return replace(
            self,
            first=first,
            born_days=self.born_days[some],
            male=self.male[some],
            end_days=self.end_days[some],
            died=self.died[some],
            statements=tuple(statement.part(first, last) for statement in self.statements),
            visit_rows=self.visit_rows[visits],
            visit_days=self.visit_days[visits],
        )


def records_of(cohort: VirtualCohort, visits: Visits | None = None) -> Records:
    """The records of a virtual cohort. Raises GEM740 for visits that do not fit it."""
    programme, recorder = cohort.programme, _Recorder(cohort)
    visits = visits or Visits(np.zeros(0, np.int64), np.zeros(0, np.int64))
    recorder.visits(visits)
    recorder.measured()
    recorder.counted()
    recorder.present()
    recorder.means()
    recorder.admission()
    recorder.outcomes()
    recorder.targets()
    look_back = programme.cohort.minimum_look_back_days
    return Records(
        programme,
        cohort.release,
        0,
        recorder.born,
        _male(cohort),
        recorder.end,
        recorder.died,
        look_back,
        tuple(recorder.statements),
        visits.rows,
        visits.days,
    )


class _Recorder:
    """Builds the statements, those first that later ones must agree with."""

    def __init__(self, cohort: VirtualCohort) -> None:
        self.programme = cohort.programme
        self.everybody = np.arange(len(cohort))
        self.values = dict(
            zip(cohort.programme.feature_names, cohort.values.T.astype(np.float64), strict=True)
        )
        self.found = dict(
            zip(cohort.programme.target_names, cohort.targets.T.astype(np.float64), strict=True)
        )
        self.event = cohort.event
        self.days = np.rint(cohort.time_years.astype(np.float64) * DAYS_PER_YEAR).astype(np.int64)
        self.end = np.maximum(self.days[:, 0], cohort.programme.cohort.minimum_follow_up_days)
        self.died = cohort.event[:, 0] == OCCURRED
        self.born = _born_days(cohort)
        self.statements: list[Statement] = []

    def say(
        self,
        name: str,
        concept_name: str,
        title: str,
        mask: Mask,
        days: Days | int,
        values: Numbers | float | None = None,
        visit: int | None = None,
    ) -> None:
        """Let the records of a mask (n,) say something; what is measured and has no value gets a usual one."""
        rows = self.everybody[mask]
        if not len(rows):
            return
        concept = self.programme.concept(concept_name)
        if concept.unit is not None and values is None:
            values = meeting(None, concept)
        code = chosen_code(self.programme, concept_name)
        self.statements.append(
            Statement(
                name,
                title,
                concept,
                code,
                meaning_of(self.programme, code),
                kind_of(self.programme, concept_name, code),
                rows,
                np.maximum(np.broadcast_to(np.asarray(days, np.int64), mask.shape), -self.born)[mask],
                None
                if concept.unit is None or values is None
                else told(np.broadcast_to(np.asarray(values, np.float64), mask.shape)[mask]),
                visit,
            )
        )

    def said(
        self, concepts: Iterable[str], first: int | None, last: int, threshold: Threshold | None = None
    ) -> Days:
        """How often (n,) a record says any of these within a window so far."""
        counts, wanted = np.zeros(len(self.everybody), np.int64), set(concepts)
        for statement in self.statements:
            if statement.means & wanted:
                inside = (statement.days >= (-_FOR_EVER if first is None else first)) & (
                    statement.days <= last
                )
                np.add.at(counts, statement.rows[inside & meets(threshold, statement.values)], 1)
        return counts

    def visits(self, visits: Visits) -> None:
        """What further visits measured; each is a statement of its own number within the visit's row."""
        rows, days = visits.rows, visits.days
        sound = rows.shape == days.shape and all(v.shape == rows.shape for v in visits.values.values())
        if not sound or np.any((rows < 0) | (rows >= len(self.everybody)) | (days < 1)):
            raise GemelError("GEM740", "Rows, days and values of the visits do not fit the cohort.")
        if np.any((days > self.end[rows]) & self.died[rows]):
            raise GemelError("GEM740", "Somebody is visited after death.")
        if np.any((np.diff(rows) < 0) | ((np.diff(rows) == 0) & (np.diff(days) <= 0))):
            raise GemelError("GEM740", "Visits stand in the order of rows and days, each day once.")
        measured = {concept.name for concept in self.programme.concepts if concept.unit is not None}
        if unknown := sorted(visits.values.keys() - measured):
            raise GemelError("GEM740", f"{unknown[0]} is no measured concept of {self.programme.name}.")
        number = np.arange(len(rows)) - np.searchsorted(rows, rows)
        for concept, values in visits.values.items():
            for visit in range(int(number.max(initial=-1)) + 1):
                here = (number == visit) & ~np.isnan(values)
                mask, day, value = (
                    np.zeros(len(self.everybody), bool),
                    self.end.copy(),
                    np.zeros(len(self.end)),
                )
                mask[rows[here]], day[rows[here]], value[rows[here]] = True, days[here], values[here]
                title = self.programme.concept(concept).title
                self.say(f"visit/{visit}/{concept}", concept, title, mask, day, value, visit)

    def measured(self) -> None:
        """Values of a feature that is one value, but means: on the day that a feature of the same concept names."""
        for feature in self._of_kinds(*(kind for kind in _SINGLE if kind is not FeatureKind.MEAN)):
            value = self.values[feature.name]
            day: Days | int = self._usual_day(feature)
            timed = self._timed(feature)
            if timed is not None:
                since = np.where(np.isnan(self.values[timed.name]), -day, self.values[timed.name])
                low = LONG_AGO if feature.start_days is None else feature.start_days
                day = np.clip(-np.rint(since), low, feature.to_days).astype(np.int64)
            self.say(feature.name, feature.concepts[0], feature.title, ~np.isnan(value), day, value)

    def counted(self) -> None:
        """Times since a last statement, and numbers of statements."""
        for feature in self._of_kinds(FeatureKind.TIME_SINCE):
            since = self.values[feature.name]
            if any(set(f.concepts) & set(feature.concepts) for f in self._of_kinds(*_SINGLE)):
                continue  # Their own values say it.
            known = ~np.isnan(since)
            day = np.maximum(-np.rint(np.where(known, since, 0)), LONG_AGO).astype(np.int64)
            self.say(
                f"history/{feature.name}", own_concept(self.programme, feature), feature.title, known, day
            )
        for feature in self._of_kinds(FeatureKind.COUNT):
            wanted = np.nan_to_num(self.values[feature.name])
            low = LONG_AGO if feature.start_days is None else feature.start_days
            for number in range(int(np.rint(wanted.max(initial=0)))):
                name, at = f"history/{feature.name}/{number}", max(feature.to_days - number, low)
                concept = own_concept(self.programme, feature)
                self.say(name, concept, feature.title, np.rint(wanted) > number, at)

    def present(self) -> None:
        """What was recorded, each on the last day of its window, where nothing said it yet."""
        for feature in self._of_kinds(FeatureKind.PRESENT):
            said = self.said(feature.concepts, feature.start_days, feature.to_days) > 0
            concept = own_concept(self.programme, feature)
            mask = (self.values[feature.name] == 1) & ~said
            self.say(f"history/{feature.name}", concept, feature.title, mask, feature.to_days)

    def means(self) -> None:
        """One more value, so that the mean of all in the window is the feature's; plausible ones only."""
        for feature in self._of_kinds(FeatureKind.MEAN):
            concept, mean = self.programme.concept(feature.concepts[0]), self.values[feature.name]
            count, total = np.zeros(len(mean)), np.zeros(len(mean))
            for statement in self.statements:
                if statement.means & set(feature.concepts) and statement.values is not None:
                    inside = (statement.days <= feature.to_days) & (
                        statement.days >= (LONG_AGO if feature.start_days is None else feature.start_days)
                    )
                    np.add.at(count, statement.rows[inside], 1)
                    np.add.at(total, statement.rows[inside], statement.values[inside])
            value = np.clip(mean * (count + 1) - total, concept.low, concept.high)
            self.say(
                feature.name, concept.name, feature.title, ~np.isnan(mean), self._usual_day(feature), value
            )

    def admission(self) -> None:
        """What puts the patient into the cohort, where nothing said it yet."""
        cohort, programme = self.programme.cohort, self.programme
        index = cohort.index
        if index.kind is not IndexKind.VISIT and index.concepts:
            missing = self.said(index.concepts, 0, 0, index.threshold) == 0
            concept = programme.concept(self._least_telling(index.concepts))
            value = meeting(index.threshold, concept)
            self.say("index", concept.name, concept.title, missing, 0, value)
        for criterion in cohort.required:
            last = _FOR_EVER if criterion.to_days is None else criterion.to_days
            concept = programme.concept(self._least_telling(criterion.concepts))
            value = meeting(criterion.threshold, concept)
            # After the index date where that is allowed: there it changes no feature.
            day = np.minimum(min(last, 1), self.end) if last > 0 else np.full(len(self.end), last)
            for number in range(criterion.minimum_count):
                count = self.said(criterion.concepts, criterion.from_days, last, criterion.threshold)
                name = f"required/{criterion.name}/{number}"
                enough = count >= criterion.minimum_count
                self.say(name, concept.name, concept.title, ~enough, day - (last <= 0) * number, value)

    def outcomes(self) -> None:
        """What happened, on its day; and what had happened before where no feature is there to say so."""
        features = self._of_kinds(FeatureKind.PRESENT)
        for j, outcome in enumerate(self.programme.outcomes):
            if not outcome.concepts:
                continue
            wanted = set(outcome.concepts)
            concept = self.programme.concept(outcome.concepts[0])
            value = meeting(outcome.threshold, concept)
            occurred = self.event[:, j] == OCCURRED
            day = np.minimum(self.days[:, j], self.end)
            self.say(f"outcome/{outcome.name}", concept.name, outcome.title, occurred, day, value)
            if not any(
                wanted & set(f.concepts) and f.to_days == 0 and f.start_days is None for f in features
            ):
                before = self.said(outcome.concepts, None, 0, outcome.threshold) > 0
                prevalent = (self.event[:, j] == PREVALENT) & ~before
                self.say(f"before/{outcome.name}", concept.name, outcome.title, prevalent, 0, value)

    def targets(self) -> None:
        """The targets, each on its day, or on the last that its tolerance allows before follow-up ends."""
        exact = {
            c
            for t in self.programme.targets
            if t.kind is TargetKind.VALUE_AT and t.name in self.found
            for c in t.concepts
        }
        for target in self.programme.targets:
            if target.name not in self.found or not target.concepts:
                continue
            found, at = self.found[target.name], target.at_days or 0
            concept = self.programme.concept(target.concepts[0])
            day = np.where(self.end >= at - target.tolerance_days, np.clip(self.end, 1, at), at)
            if target.kind is TargetKind.BINARY:
                day = np.clip(self.end, 1, at)
                said = self.said(target.concepts, 1, at, target.threshold) > 0
                mask, value = (found == 1) & ~said, meeting(target.threshold, concept)
                self.say(f"target/{target.name}", concept.name, target.title, mask, day, value)
            elif target.kind is TargetKind.VALUE_AT:
                self.say(f"target/{target.name}", concept.name, target.title, ~np.isnan(found), day, found)
            elif target.kind is TargetKind.ORDINAL and not exact & set(target.concepts):
                levels = np.array([value_of_level(target, concept, k) for k in range(len(target.levels) + 1)])
                value_at = levels[np.nan_to_num(found).astype(np.intp)]
                self.say(f"target/{target.name}", concept.name, target.title, ~np.isnan(found), day, value_at)

    def _of_kinds(self, *kinds: FeatureKind) -> list[Feature]:
        return [feature for feature in self.programme.columns if feature.kind in kinds]

    def _timed(self, feature: Feature) -> Feature | None:
        """The feature that tells how long ago the last statement of the same concept was."""
        since = self._of_kinds(FeatureKind.TIME_SINCE)
        same = [f for f in since if set(f.concepts) & set(feature.concepts)]
        return same[0] if same and feature.kind is FeatureKind.LAST else None

    def _usual_day(self, feature: Feature) -> int:
        """The last day of a feature's window on which it says nothing about another feature of its concept."""
        others = [
            f
            for f in self._of_kinds(*_SINGLE)
            if f is not feature and set(f.concepts) & set(feature.concepts)
        ]

        def apart(day: int) -> bool:
            return not any((f.start_days or LONG_AGO) <= day <= f.to_days for f in others)

        low = feature.start_days or LONG_AGO
        days = [feature.to_days, *((f.start_days or LONG_AGO) - 1 for f in others)]
        return max((d for d in days if low <= d <= feature.to_days and apart(d)), default=feature.to_days)

    def _least_telling(self, concepts: tuple[str, ...]) -> str:
        """The concept whose code changes the fewest features."""

        def told_by(name: str) -> int:
            means = meaning_of(self.programme, chosen_code(self.programme, name))
            return sum(bool(means & set(feature.concepts)) for feature in self.programme.columns)

        return min(concepts, key=told_by)


def _born_days(cohort: VirtualCohort) -> Days:
    """Ages in whole days, within what the cohort asks for to the day."""
    limits = cohort.programme.cohort
    middle = (limits.minimum_age_years + limits.maximum_age_years) / 2
    age = np.full(len(cohort), middle)
    for j, feature in enumerate(cohort.programme.columns):
        if feature.kind is FeatureKind.AGE:
            age = np.where(np.isnan(cohort.values[:, j]), middle, cohort.values[:, j].astype(np.float64))
    # Up to whole days, so that nobody is born too late to meet the minimum.
    days = np.ceil(age * DAYS_PER_YEAR - 0.01).astype(np.int64)
    oldest = INDEX_DATE - datetime.date(INDEX_DATE.year - int(limits.maximum_age_years), 1, 1)
    return np.minimum(days, oldest.days)


def _male(cohort: VirtualCohort) -> NDArray[np.int8]:
    male = np.full(len(cohort), np.nan)
    for j, feature in enumerate(cohort.programme.columns):
        if feature.kind is FeatureKind.MALE:
            male = cohort.values[:, j].astype(np.float64)
    return np.where(np.isnan(male), -1, male == 1).astype(np.int8)


def told(values: Numbers) -> Numbers:
    """Values as they are written: six digits say what a float32 holds; more would print its binary tail."""
    unique, place = np.unique(values, return_inverse=True)
    return np.array([float(f"{value:.6g}") for value in unique.tolist()])[place]


def meeting(threshold: Threshold | None, concept: Concept) -> float | None:
    """A plausible value of a concept that meets a threshold: half-way to its bound; None for what is not measured."""
    if concept.unit is None:
        return None
    low, high = concept.low, concept.high
    if threshold is not None:
        upward = threshold.comparison in (Comparison.ABOVE, Comparison.AT_LEAST)
        low, high = (threshold.value, high) if upward else (low, threshold.value)
    bounds = [bound for bound in (low, high) if bound is not None]
    return sum(bounds) / len(bounds) if bounds else 0.0


def meets(threshold: Threshold | None, values: Numbers | None) -> Mask | bool:
    """Which values (m,) meet a threshold; everything meets none."""
    if threshold is None:
        return True
    if values is None:
        return False
    limit = threshold.value
    return {
        Comparison.BELOW: values < limit,
        Comparison.AT_MOST: values <= limit,
        Comparison.ABOVE: values > limit,
        Comparison.AT_LEAST: values >= limit,
    }[threshold.comparison]


def value_of_level(target: Target, concept: Concept, level: int) -> float:
    """The lowest value of a level of an ordinal target; of the lowest level the concept's bound, else one below the next."""
    if level > 0:
        return target.levels[level - 1]
    below = target.levels[0] - 1
    return concept.low if concept.low is not None and below < concept.low < target.levels[0] else below
