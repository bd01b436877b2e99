"""Counts that are kept while an export is read, added up over its batches."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

MAX_EXAMPLES = 20


@dataclass
class Tallies:
    """What was seen in lines, whether or not a newer version replaces them; lines of withheld patients are not in it.

    Attributes:
        excluded: Lines that say of themselves that they do not count, by (type, reason).
        sampled: Lines that count and hold sampled data.
        synthetic: Lines that say that they are synthetic.
        versions: Lines with an element that only one FHIR version has, by (version, type).
        unmapped: Codes that no concept of the programme knows, by (system, code).
        implausible, absent: Values left out, by concept: outside its bounds, or not there.
        unused: Statements of a kind that the concept cannot take a value from, by (type, reason).
        partial_dates: Dates without a day, by element.
        odd_ends: Ends that are no dates or lie before the start, by type; the rest of the line is used.
        units: Values by (concept, unit as recorded or "").
        default_units: Values without a unit that got the one of the site's mapping, by concept.
        unit_problems: Values rejected for their unit, by (code of the fault, concept or "", unit or "", reason).
        examples: Up to 20 values outside plausible bounds.
        withheld: Lines of withheld patients, by type.
    """

    excluded: Counter[tuple[str, str]] = field(default_factory=Counter)
    sampled: int = 0
    synthetic: int = 0
    versions: Counter[tuple[str, str]] = field(default_factory=Counter)
    unmapped: Counter[tuple[str, str]] = field(default_factory=Counter)
    implausible: Counter[str] = field(default_factory=Counter)
    absent: Counter[str] = field(default_factory=Counter)
    unused: Counter[tuple[str, str]] = field(default_factory=Counter)
    partial_dates: Counter[str] = field(default_factory=Counter)
    odd_ends: Counter[str] = field(default_factory=Counter)
    units: Counter[tuple[str, str]] = field(default_factory=Counter)
    default_units: Counter[str] = field(default_factory=Counter)
    unit_problems: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    withheld: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tallies) -> None:
        """Add the counts of another batch."""
        for name, value in vars(other).items():
            if isinstance(value, Counter):
                getattr(self, name).update(value)
        self.sampled += other.sampled
        self.synthetic += other.synthetic
        self.examples = sorted({*self.examples, *other.examples})[:MAX_EXAMPLES]
