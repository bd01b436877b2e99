"""What a programme declares: concepts, cohort, features, outcomes, targets. Data only; rooms interpret it.

Days are counted from the index date: negative before it, 0 on it, positive after it. Every window holds both its ends.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from gemel.core.concepts import Concept

DAYS_PER_YEAR = 365.25


class Comparison(StrEnum):
    """How a value is held against a limit."""

    BELOW = "<"
    AT_MOST = "<="
    ABOVE = ">"
    AT_LEAST = ">="


class Threshold(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A condition on a measured value, in the concept's unit.

    A bound that the laboratory gave instead of a value ("<5") meets it when every value that the bound allows does.
    """

    comparison: Comparison
    value: float


class Bounds(StrEnum):
    """What a bound ("<5", ">200") counts as where a value is needed."""

    LEAVE_OUT = "leave_out"  # as not measured
    HALF = "half"  # "<5" as 2.5; an upper bound (">200") as its limit
    LIMIT = "limit"  # as the limit itself


class Missing(StrEnum):
    """What a patient without a value gets."""

    MASK = "mask"  # NaN, or an empty series
    ZERO = "zero"  # 0: only for what is counted, where nothing recorded means none
    EXCLUDE = "exclude"  # the patient is out, and counted under "no value: NAME"


class FeatureKind(StrEnum):
    """How a feature is taken from a patient's record within its window, which ends on the index date or before.

    Ties are decided by content: of several values at one time the lowest is the first and the highest the last. A
    statement that is recorded twice, with the same time and value, counts once.
    """

    AGE = "age"  # years at the index date
    MALE = "male"  # 1 male, 0 female, missing otherwise
    LAST = "last"  # the last plausible value of a measured concept
    FIRST = "first"  # the first
    MEAN = "mean"  # the arithmetic mean
    MIN = "min"
    MAX = "max"
    SLOPE = (
        "slope"  # change per year by least squares, times to the second; missing with fewer than two of them
    )
    COUNT = "count"  # the number of statements, whatever their values
    TIME_SINCE = "time_since"  # days from the last statement to the index date
    PRESENT = "present"  # 1 when any of the concepts was recorded, else 0
    SERIES = "series"  # the whole irregular sequence of values: no column of its own


class Feature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One column (or series) of a data set, with the public numbers that scale it (nothing is fitted on patients).

    Scaled value = (clip(x, low, high) - reference_mean) / scale; a missing value becomes 0 with its mask 0.
    `bin_edges` are the public bins of virtual cohorts: strictly increasing, from low to high.
    The window is `from_days` (None: from the start of the record) to `to_days`; `window_days` = n is short for
    `from_days` = -n. `missing` None means zero for COUNT and PRESENT, and mask for the others.
    """

    name: str
    title: str
    kind: FeatureKind
    unit: str
    low: float
    high: float
    reference_mean: float
    scale: float
    bin_edges: tuple[float, ...] = ()
    source: str
    concepts: tuple[str, ...] = ()
    window_days: int | None = None
    from_days: int | None = None
    to_days: int = 0
    bounds: Bounds = Bounds.LEAVE_OUT
    missing: Missing | None = None

    @property
    def start_days(self) -> int | None:
        """The first day of the window, from the index date; None when it starts with the record."""
        return -self.window_days if self.window_days is not None else self.from_days

    @property
    def missing_policy(self) -> Missing:
        """`missing`, or what it means when it is not given."""
        if self.missing is not None:
            return self.missing
        return Missing.ZERO if self.kind in (FeatureKind.COUNT, FeatureKind.PRESENT) else Missing.MASK


class OutcomeKind(StrEnum):
    """What ends an outcome's clock."""

    DEATH = "death"
    FIRST_DIAGNOSIS = "first_diagnosis"
    FIRST_TREATMENT = "first_treatment"
    FIRST_MEASUREMENT = "first_measurement"  # beyond the outcome's threshold, where it has one
    NEXT_DIAGNOSIS = "next_diagnosis"  # the first after the index date; who had it before is at risk too


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One event whose time since the index date is predicted. Death is always the first outcome.

    A patient who had the event on the index date or before is prevalent: not at risk of it, unless the kind asks for the
    next one (for what strikes again, such as a stroke; a chronic disease that is coded at every visit has no next one).
    """

    name: str
    title: str
    kind: OutcomeKind
    concepts: tuple[str, ...] = ()
    threshold: Threshold | None = None


class TargetKind(StrEnum):
    """What is predicted beside the time to an outcome."""

    VALUE_AT = (
        "value_at"  # the value measured nearest to `at_days`; of two as near the earlier, then the lower
    )
    ORDINAL = "ordinal"  # the number of `levels` that this value reaches: 0 for the lowest level
    BINARY = "binary"  # 1 when any of the concepts is recorded after the index date within `at_days`, else 0
    DEATH = "death"  # 1 when the patient died within `at_days` after the index date, else 0
    SERIES = "series"  # the values from `from_days` to `to_days`, as a sequence


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One value, event or series after the index date.

    Attributes:
        at_days: VALUE_AT, ORDINAL: the day whose value is wanted. BINARY, DEATH: the last day that counts.
        tolerance_days: VALUE_AT, ORDINAL: how many days from it a measurement may lie.
        levels: ORDINAL: the lowest value of each level but the lowest, strictly increasing.
        threshold: BINARY: what a measured value must meet to be the event.
        incident: BINARY: missing for a patient who had the event on the index date or before.
        from_days, to_days: SERIES: the window, after the index date; `to_days` None: to the end of the record.

    BINARY and DEATH are missing when the patient was followed for less than `at_days` without the event; after a death
    the event can no longer come, so that it is 0 there.
    """

    name: str
    title: str
    kind: TargetKind
    unit: str = "1"
    concepts: tuple[str, ...] = ()
    at_days: int | None = None
    tolerance_days: int = 0
    levels: tuple[float, ...] = ()
    threshold: Threshold | None = None
    incident: bool = False
    from_days: int = 1
    to_days: int | None = None
    bounds: Bounds = Bounds.LEAVE_OUT


class Endpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing that a twin is scored on, at public horizons and over public bins: what `evaluate` counts.

    Either of an `outcome` by each of `horizons_days`, or of a `target` at its own day.

    Attributes:
        horizons_days: Outcome: one or two days of the programme's grid, increasing.
        at_least: ORDINAL target: reaching this level is the event.
        with_death: ORDINAL and BINARY target: who died by its day had the event, whatever was measured.
        risk_edges: Bins of the predicted risk, from 0 to 1 (at the last horizon). Few: every cell has noise.
        value_edges: VALUE_AT target, instead: bins of predicted and measured values, in the target's unit.
    """

    name: str
    title: str
    outcome: str = ""
    target: str = ""
    horizons_days: tuple[int, ...] = ()
    at_least: int = 1
    with_death: bool = False
    risk_edges: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.4, 1.0)
    value_edges: tuple[float, ...] = ()


class TreatmentKind(StrEnum):
    """How much of a treatment there can be."""

    BINARY = "binary"  # given or not: 1 or 0
    DOSE = "dose"  # an amount in the treatment's unit, 0 for none


class Assignment(StrEnum):
    """Why people in the data got it, which decides what a comparison may claim."""

    RANDOMISED = "randomised"  # by lot, at the stated `chance`
    OBSERVED = "observed"  # by indication: a comparison rests on the covariates that were measured


class Treatment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Something that can be done, which a plan may set: an input of the twin's physiology.

    Attributes:
        feature: The column of the data set that says what a patient got at the index date; empty for a treatment that
            no data set of this programme records (its effect then comes from the literature).
        low, high: The amounts that a plan may ask for.
        chance: RANDOMISED: the share of patients that got it.
        contraindications: Names of features (PRESENT) in whose presence a plan that gives it is refused.
        source: RANDOMISED: the trial. OBSERVED: the publications that the twin has the effect from; empty when it learnt it
            from its data.
    """

    name: str
    title: str
    kind: TreatmentKind
    assignment: Assignment
    unit: str = "1"
    low: float = 0.0
    high: float = 1.0
    feature: str = ""
    chance: float | None = None
    contraindications: tuple[str, ...] = ()
    source: str = ""

    @property
    def is_learnt(self) -> bool:
        """Whether the twin has the effect from its data, not from publications."""
        return bool(self.feature) and (self.assignment is Assignment.RANDOMISED or not self.source)


class IndexKind(StrEnum):
    """What may set a patient's index date."""

    VISIT = "visit"  # the start of a finished visit
    DIAGNOSIS = "diagnosis"
    TREATMENT = "treatment"
    MEASUREMENT = "measurement"  # a measured value, beyond the threshold where there is one


class Occurrence(StrEnum):
    """Which of a patient's index events sets the index date: each patient is in once."""

    FIRST = "first"  # the first that meets the age bounds and the look-back
    FIRST_EVER = "first_ever"  # the first of the record; who does not meet age and look-back then is out
    LAST = "last"  # the last that meets age bounds, look-back and follow-up
    ONE = "one"  # one of these, drawn by the patient's pseudonym: the same each time, neither early nor late


class IndexEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The event that sets the index date."""

    kind: IndexKind = IndexKind.VISIT
    which: Occurrence = Occurrence.FIRST
    concepts: tuple[str, ...] = ()
    threshold: Threshold | None = None


class Criterion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Something recorded, or not, within a window around the index date.

    `name` is what the patients who are out for it are counted under, and `reason` says it in a sentence. At least
    `minimum_count` statements must lie between `from_days` (None: the start of the record) and `to_days`
    (None: the end of the record).
    """

    name: str
    reason: str
    concepts: tuple[str, ...]
    from_days: int | None = None
    to_days: int | None = 0
    threshold: Threshold | None = None
    minimum_count: int = 1


class CohortDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who is in: by default from the first finished visit at `minimum_age_years` or older.

    The record starts with the first visit; follow-up ends at death, else at the end of the last visit. A patient is
    out by the first reason that applies: birth date, index event, age, look-back, dates of death, follow-up, then
    `required` (recorded, or out), then `exclusions` (recorded, so out), in their order, then features that exclude.
    """

    minimum_age_years: float
    maximum_age_years: float
    minimum_follow_up_days: int
    index: IndexEvent = IndexEvent()
    minimum_look_back_days: int = 0
    required: tuple[Criterion, ...] = ()
    exclusions: tuple[Criterion, ...] = ()


class VisitField(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Something measured at visits, in public bins.

    Attributes:
        series: A SERIES target, whose values are in it.
        edges: In its unit, increasing: two more than inner edges. Values beyond the ends are in the outermost bins.
    """

    series: str
    edges: tuple[float, ...]


class Stratum(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A column by which patients are told apart at the start; `cuts`, increasing, are where one group ends and the next begins.

    Whose value is missing is in the first group.
    """

    feature: str
    cuts: tuple[float, ...]


class VisitPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What virtual trajectories of a programme are made of; all of it is public.

    Follow-up is cut into periods of `days_between` from the index date on, `visits` of them at most. In each one, the last value
    of each field counts, or that there was none; a history ends with the patient's follow-up. `strata` are crossed.
    """

    fields: tuple[VisitField, ...]
    strata: tuple[Stratum, ...]
    visits: int
    days_between: int


class Programme(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An installed, reviewed twin for one clinical question.

    Predictions are made on a public grid of times: every year to `horizon_years`, or the days `grid_days` (one of the
    two is given).

    Raises:
        ValueError: A part does not fit the others; `programme_check.check_programme` says which.
    """

    name: str
    version: str
    title: str
    question: str
    cohort: CohortDefinition
    concepts: tuple[Concept, ...]
    features: tuple[Feature, ...]
    outcomes: tuple[Outcome, ...]
    horizon_years: int = 0
    grid_days: tuple[int, ...] = ()
    targets: tuple[Target, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    treatments: tuple[Treatment, ...] = ()
    # None: virtual patients of this programme have no visits but those that its twin simulates.
    visits: VisitPlan | None = None

    def __post_init__(self) -> None:
        from gemel.core.programme_check import check_programme

        problems = check_programme(self)
        if problems:
            raise ValueError(f"programme {self.name}: {'; '.join(problems)}")

    def concept(self, name: str) -> Concept:
        """The concept of that name; KeyError when the programme has none."""
        for concept in self.concepts:
            if concept.name == name:
                return concept
        raise KeyError(name)

    @property
    def times_years(self) -> tuple[float, ...]:
        """The grid, from 0 on: years since the index date."""
        if self.grid_days:
            return (0.0, *(day / DAYS_PER_YEAR for day in self.grid_days))
        return tuple(float(year) for year in range(self.horizon_years + 1))

    def step_at(self, days: float) -> int:
        """The number of the grid's time that is nearest to a day. Raises ValueError when it is over a day away."""
        gaps = [abs(years * DAYS_PER_YEAR - days) for years in self.times_years]
        if min(gaps) > 1:
            raise ValueError(f"day {days:g} is not on the grid of {self.name}")
        return gaps.index(min(gaps))

    def treatment(self, name: str) -> Treatment:
        """The treatment of that name; KeyError when the programme has none."""
        for treatment in self.treatments:
            if treatment.name == name:
                return treatment
        raise KeyError(name)

    @property
    def columns(self) -> tuple[Feature, ...]:
        """The features that are columns of the data set, in order: all but series."""
        return tuple(feature for feature in self.features if feature.kind is not FeatureKind.SERIES)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Column names of the data set, in order."""
        return tuple(feature.name for feature in self.columns)

    @property
    def outcome_names(self) -> tuple[str, ...]:
        """Outcome names, in order; the first is death."""
        return tuple(outcome.name for outcome in self.outcomes)

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of the targets that are one number for each patient, in order: all but series."""
        return tuple(target.name for target in self.targets if target.kind is not TargetKind.SERIES)

    @property
    def series_names(self) -> tuple[str, ...]:
        """Names of the features, then targets, that are series."""
        features = tuple(f.name for f in self.features if f.kind is FeatureKind.SERIES)
        return features + tuple(t.name for t in self.targets if t.kind is TargetKind.SERIES)
