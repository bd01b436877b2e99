"""What a programme declares: concepts, cohort, features, outcomes. Data only; rooms interpret it."""

from __future__ import annotations

from enum import StrEnum

import msgspec

LOINC = "http://loinc.org"
SNOMED_CT = "http://snomed.info/sct"
ICD_10 = "http://hl7.org/fhir/sid/icd-10"
ICD_10_CM = "http://hl7.org/fhir/sid/icd-10-cm"
ICD_10_GM = "http://fhir.de/CodeSystem/bfarm/icd-10-gm"


class Code(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One code of a terminology.

    `system` is the FHIR URI. `prefix` makes the code match its children too ("I48" takes "I48.0").
    `verified` says whether the code was checked against a source; an unverified one supports no claim alone.
    """

    system: str
    code: str
    verified: bool
    source: str
    prefix: bool = False


class Concept(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One clinical idea and the codes by which hospitals record it.

    A measured concept has a UCUM `unit` and public clinical bounds `low` and `high` in that unit; a diagnosis has none.
    `molar_mass_g_mol` allows mass/molar conversion (mg/dL to mmol/L).
    """

    name: str
    title: str
    codes: tuple[Code, ...]
    unit: str | None = None
    low: float | None = None
    high: float | None = None
    molar_mass_g_mol: float | None = None
    source: str = ""


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
