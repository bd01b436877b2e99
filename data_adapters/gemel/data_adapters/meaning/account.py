"""The account of one reading: what was read, what became facts, and what was left out and why."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gemel.data_adapters.reading.intake import FileCount, Reject

# As many as a mapping file is suggested for: rare local codes hide behind frequent standard ones.
MOST_FREQUENT = 500


class UnmappedCode(msgspec.Struct, frozen=True):
    """A code that the programme does not know."""

    system: str
    code: str
    count: int


class UnitProblem(msgspec.Struct, frozen=True):
    """Values that were rejected for their unit: GEM202 none, GEM203 not convertible; `example` is a file:line."""

    code: str
    concept: str
    unit: str
    count: int
    example: str
    reason: str = ""

    @property
    def is_no_quantity(self) -> bool:
        """Whether a text or a number stands where a quantity belongs: no mapping can give it a unit."""
        return needs_quantity(self.reason)


def needs_quantity(reason: str) -> bool:
    """Whether a fault's reason says that the value is no quantity.

    >>> needs_quantity("valueString has no unit: weight needs a valueQuantity")
    True
    """
    return reason.endswith(" needs a valueQuantity")


class ConceptFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of one concept, and what of it was left out.

    Attributes:
        values: Facts without the bounds: measured values, or statements of what has no value.
        patients: Patients with any fact.
        bounds: Facts that are a bound ("<5") instead of a value.
        duplicates: Facts that another resource says too: counted once.
        implausible, absent: Values left out: outside the concept's bounds, or not there (in all lines).
        low, p5, p50, p95, high: Of the measured values in the concept's unit, by nearest rank; None without values.
        units: Numbers of values by the unit as it was recorded, "" for none (in all lines).
    """

    concept: str
    values: int = 0
    patients: int = 0
    bounds: int = 0
    duplicates: int = 0
    implausible: int = 0
    absent: int = 0
    low: float | None = None
    p5: float | None = None
    p50: float | None = None
    p95: float | None = None
    high: float | None = None
    units: dict[str, int] = {}


class WithheldLines(msgspec.Struct, frozen=True):
    """Patients who were removed before anything else saw them, and how many lines of theirs were passed over."""

    patients: int = 0
    lines: int = 0


class FactsAccount(msgspec.Struct, frozen=True, kw_only=True):
    """What `read_fhir` read and left out. It holds exact counts of patients: it stays inside the hospital.

    For each file read = accepted + rejected. "All lines" are those accepted, older versions too.

    Attributes:
        fhir_version: What the export is believed to be: "R4" (R4 and R4B cannot be told apart), "R5", "STU3", or
            several of them; `versions` counts the lines that show it, also those too few to count as evidence.
        files: Lines read, accepted, rejected by file. `unread`: entries of the folder that are not read, with a reason.
        rejects: The first 1000 rejected lines; `rejects_by_code` has all.
        patients: Patients in the table `person`.
        merged: Patients whom another one replaces (`Patient.link`): their records are the other's.
        sampled: Observations that hold sampled data, which `inputs.read` reads (in all lines).
        synthetic: Lines that say that they are synthetic (in all lines).
        excluded: Lines that say of themselves that they do not count, as "Type: reason" (in all lines).
        superseded, deleted: Lines that a newer version replaces, and of resources that the export deletes, by type.
        orphans: Accepted lines whose patient is not in the export, by type.
        undated: Statements of a concept that name no date, nor an encounter with one, by type.
        odd_ends: Ends that are no dates or lie before the start, by type: the end was left out.
        unused: Statements that give their concept no value, as "Type: concept" (a diagnosis of what is measured).
        concepts: The facts of each concept of the programme.
        default_units: Values that got the unit of the site's mapping, by concept.
        unmapped: The most frequent codes that the programme does not know; `unmapped_total` counts all such codes.
        unit_problems: The most frequent problems with units.
        implausible_examples: Up to 20 values outside plausible bounds.
        partial_dates: Dates without a day, by element: they stand for the middle of their month or year.
        withheld: Patients without consent.
    """

    fhir_version: str
    versions: dict[str, int]
    files: list[FileCount]
    unread: list[str]
    rejects: list[Reject]
    rejects_by_code: dict[str, int]
    patients: int
    merged: int = 0
    sampled: int = 0
    synthetic: int
    excluded: dict[str, int]
    superseded: dict[str, int]
    deleted: dict[str, int]
    orphans: dict[str, int]
    undated: dict[str, int]
    odd_ends: dict[str, int]
    unused: dict[str, int]
    concepts: list[ConceptFacts]
    default_units: dict[str, int]
    unmapped: list[UnmappedCode]
    unmapped_total: int
    unit_problems: list[UnitProblem]
    implausible_examples: list[str]
    partial_dates: dict[str, int]
    withheld: WithheldLines

    def by_concept(self, name: str) -> dict[str, int]:
        """One of the numbers of `ConceptFacts` by concept, without those that are zero."""
        found: Mapping[str, int] = {concept.concept: getattr(concept, name) for concept in self.concepts}
        return {concept: number for concept, number in sorted(found.items()) if number}
