"""What `gemel data check` says about an export: values only; how they are found and drawn is in the other modules."""

from __future__ import annotations

import msgspec

from gemel.data_adapters.meaning.account import ConceptFacts, UnitProblem, WithheldLines
from gemel.data_adapters.reading.intake import FileCount

STAYS_INSIDE = "Exact counts of patients and places in their records: this report stays inside the hospital."


class RejectedLine(msgspec.Struct, frozen=True):
    """One rejected line, why, and what to do; `place` says where it stood when that is no line (in a Bundle)."""

    file: str
    line: int
    resource_type: str | None
    path: str
    reason: str
    code: str
    fix: str
    place: str | None = None


class RejectGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Rejected lines with the same fault, among those that are listed; `example` is the first, as file:line."""

    code: str
    resource_type: str | None
    path: str
    reason: str
    count: int
    example: str
    fix: str


class ConceptCoverage(msgspec.Struct, frozen=True, kw_only=True):
    """Usable values (or diagnoses) of one concept, and the patients who have any.

    `comparators` are bounds ("<5"); `share` is of all patients; `needed_by` names features and outcomes.
    """

    concept: str
    title: str
    unit: str | None
    values: int
    patients: int
    share: float
    implausible: int
    comparators: int
    absent: int
    duplicates: int
    first_year: int | None
    last_year: int | None
    needed_by: list[str]


class Histogram(msgspec.Struct, frozen=True):
    """Counts between edges (one more than counts); values outside are counted in the outermost bins."""

    edges: list[float]
    counts: list[int]


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """How the values of a measured concept lie, in its unit, with what the programme says of it in public."""

    concept: str
    title: str
    unit: str
    values: int
    p5: float
    p50: float
    p95: float
    plausible_low: float | None
    plausible_high: float | None
    reference_mean: float | None
    reference_scale: float | None
    histogram: Histogram


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """How one feature lies here against the programme's public reference, one value a patient (see `drift`).

    `smd` is (mean - reference_mean) / scale of the values clipped as the twin clips them; None with too few patients.
    The programme declares no reference histogram, so `bins` (its public bins) are of this export only.
    """

    feature: str
    concept: str
    title: str
    unit: str
    patients: int
    reference_mean: float
    scale: float
    low: float
    high: float
    mean: float | None
    median: float | None
    smd: float | None
    share_below: float
    share_above: float
    bins: Histogram | None
    verdict: str
    explanation: str


class UnitQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution that would fit if its values were in another unit. A question; nothing is ever corrected."""

    concept: str
    recorded_unit: str
    other_unit: str
    question: str


class YearCount(msgspec.Struct, frozen=True):
    """Visits that began, and facts, in one year."""

    year: int
    visits: int
    facts: int


class People(msgspec.Struct, frozen=True, kw_only=True):
    """Who is in the export."""

    patients: int
    sex: dict[str, int]
    without_birth_date: int
    deceased: int
    deceased_without_date: int
    without_visit: int
    visits: int


class ConsentAccount(msgspec.Struct, frozen=True, kw_only=True):
    """Who was removed before anything else was read. `unmatched`: entries of the opt-out list that name nobody here."""

    on: str
    opt_out_list: bool
    required: bool
    withheld: WithheldLines
    reasons: dict[str, int]
    consents: dict[str, int]
    unread: int
    nobody: int
    unmatched: int


class CodeCount(msgspec.Struct, frozen=True):
    """A code that the programme does not know; `display` is what a record calls it, "" when none does."""

    system: str
    code: str
    count: int
    display: str


class MappingUse(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the site's mapping: entries that map nothing, and those whose words the export never says."""

    title: str
    entries: int
    skipped: list[str]
    never_seen: list[str]


class Invalid(msgspec.Struct, frozen=True):
    """A line that the reader accepts and the full models do not. Its text holds no patient data.

    `place` says where it stood when that is no line (in a Bundle).
    """

    file: str
    line: int
    resource_type: str
    reason: str
    place: str | None = None


class Validation(msgspec.Struct, frozen=True):
    """How many accepted lines went through the full models, and how many failed; `models` are those of the version."""

    mode: str
    checked: int
    failed: int
    examples: list[Invalid]
    failed_by_type: dict[str, int] = {}
    models: str = "R4B"


class ToDo(msgspec.Struct, frozen=True):
    """Something a person should do or decide: `weight` is "must", "should" or "look"."""

    weight: str
    what: str
    fix: str


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `gemel data check` prints. Exact counts: it stays inside the hospital.

    For each file read = accepted + rejected. `rejects` lists the first 1000; `rejected_total` counts all.
    `noted` counts by code what was accepted and will not be used: GEM204 unknown codes, GEM206 implausible values,
    GEM211 synthetic records. `concepts` has the account behind `coverage`. The other counts are those of
    `FactsAccount`. `unknown_genders` counts the codes of the Patients that are rejected for theirs.
    """

    notice: str
    export: str
    programme: str | None
    checked_on: str
    to_do: list[ToDo]
    fhir_version: str
    fhir_version_reason: str
    fhir_versions: dict[str, int]
    files: list[FileCount]
    unread: list[str]
    read: int
    accepted: int
    rejected_total: int
    rejects: list[RejectedLine]
    reject_groups: list[RejectGroup]
    rejects_by_code: dict[str, int]
    noted: dict[str, int]
    excluded: dict[str, int]
    synthetic: int
    patients: int
    people: People
    years: list[YearCount]
    coverage: list[ConceptCoverage]
    concepts: list[ConceptFacts]
    distributions: list[Distribution]
    drift: list[Drift]
    unit_questions: list[UnitQuestion]
    superseded: dict[str, int]
    deleted: dict[str, int]
    undated: dict[str, int]
    future: dict[str, int]
    odd_ends: dict[str, int]
    unused: dict[str, int]
    default_units: dict[str, int]
    consent: ConsentAccount
    withheld: WithheldLines
    orphans: dict[str, int]
    unit_problems: dict[str, int]
    unit_examples: list[UnitProblem]
    implausible_examples: list[str]
    unmapped: list[CodeCount]
    unmapped_total: int
    partial_dates: dict[str, int]
    unknown_genders: dict[str, int]
    mapping: MappingUse
    validation: Validation
