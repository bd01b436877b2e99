"""What a programme declares: concepts, cohort, features, outcomes. Data only; rooms interpret it."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from gemel.core.concepts import Concept


class FeatureKind(StrEnum):
    """How a feature is taken from a patient's record before (and on) the index date."""

    AGE = "age"  # years at the index date
    MALE = "male"  # 1 male, 0 female, missing otherwise
    LAST = "last"  # the last plausible value of a measured concept within the window
    PRESENT = "present"  # 1 when any of the diagnoses was recorded up to the index date, else 0


class Feature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One column of a data set, with the public numbers that scale it (nothing is fitted on patients).

    Scaled value = (clip(x, low, high) - reference_mean) / scale; a missing value becomes 0 with its mask 0.
    `bin_edges` are the public bins of virtual cohorts: strictly increasing, from low to high.
    """

    name: str
    title: str
    kind: FeatureKind
    unit: str
    low: float
    high: float
    reference_mean: float
    scale: float
    bin_edges: tuple[float, ...]
    source: str
    concepts: tuple[str, ...] = ()
    window_days: int | None = None


class OutcomeKind(StrEnum):
    """What ends an outcome's clock."""

    DEATH = "death"
    FIRST_DIAGNOSIS = "first_diagnosis"


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One event whose time since the index date is predicted. Death is always the first outcome."""

    name: str
    title: str
    kind: OutcomeKind
    concepts: tuple[str, ...] = ()


class CohortDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who is in: the index date is the first finished encounter at `minimum_age_years` or older.

    Follow-up ends at death, else at the end of the last encounter.
    """

    minimum_age_years: float
    maximum_age_years: float
    minimum_follow_up_days: int


class Programme(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An installed, reviewed twin for one clinical question."""

    name: str
    version: str
    title: str
    question: str
    cohort: CohortDefinition
    concepts: tuple[Concept, ...]
    features: tuple[Feature, ...]
    outcomes: tuple[Outcome, ...]
    horizon_years: int

    def concept(self, name: str) -> Concept:
        """The concept of that name; KeyError when the programme has none."""
        for concept in self.concepts:
            if concept.name == name:
                return concept
        raise KeyError(name)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Column names of the data set, in order."""
        return tuple(feature.name for feature in self.features)

    @property
    def outcome_names(self) -> tuple[str, ...]:
        """Outcome names, in order; the first is death."""
        return tuple(outcome.name for outcome in self.outcomes)
