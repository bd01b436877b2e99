"""Writes what an input says as facts: whose it is, which concept, in which unit, within which bounds."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime, time
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from gemel.core.concepts import Concept
from gemel.core.errors import GemelError
from gemel.core.programme import Programme
from gemel.data_adapters.inputs.account import FileAccount, InputAccount, Outcome
from gemel.data_adapters.inputs.links import Link
from gemel.data_adapters.meaning.concepts import ConceptIndex
from gemel.data_adapters.meaning.facts import FACT, Facts
from gemel.data_adapters.meaning.site_mapping import NO_MAPPING, SiteMapping
from gemel.data_adapters.meaning.units import Conversion, find_conversion
from gemel.data_adapters.reading.intake import Fault

FIRST_YEAR, LAST_YEAR = 1850, 2299
_BATCH_ROWS = 65_536
_MIDNIGHT = time()
_NO_SPELLINGS: Mapping[str, str] = MappingProxyType({})


class FactWriter:
    """Takes items file by file; a file that turns out damaged leaves no fact behind.

    Attributes:
        account: What became of each item so far.
        index: The programme's concepts by code.
    """

    def __init__(
        self,
        programme: Programme,
        facts: Facts,
        *,
        mapping: SiteMapping = NO_MAPPING,
        withheld: Container[str] = frozenset(),
    ) -> None:
        self.account = InputAccount()
        self.index = ConceptIndex(programme, mapping)
        self.concepts = {concept.name: concept for concept in programme.concepts}
        self._facts = facts
        self._mapping = mapping
        self._withheld = withheld
        rows = facts.run("SELECT DISTINCT patient_id FROM person WHERE patient_id IS NOT NULL")
        self._people = frozenset(str(row[0]) for row in rows)
        self._columns: dict[str, list[Any]] = {name: [] for name in FACT.names}
        self._conversions: dict[tuple[str, str, str], Conversion | Fault] = {}
        self._file = FileAccount("", "")
        self._part = InputAccount()

    @contextmanager
    def file(self, name: str, kind: str) -> Iterator[FileAccount]:
        """Take one file (or image series): all of it counts, or, after a GEM254 or GEM255, nothing of it."""
        self._file, self._part = FileAccount(name, kind), InputAccount()
        self._facts.run("BEGIN TRANSACTION")
        try:
            yield self._file
            self._flush()
        except GemelError as error:
            self._roll_back()
            if error.code not in ("GEM254", "GEM255"):
                raise
            self._file.fault = Fault(error.code, "", error.message)
            self.account.files.append(self._file)
            self.account.reject(name, "", self._file.fault)
        except BaseException:
            self._roll_back()
            raise
        else:
            self._facts.run("COMMIT")
            self._part.files.append(self._file)
            self.account.add(self._part)

    def _roll_back(self) -> None:
        self._facts.run("ROLLBACK")
        for column in self._columns.values():
            column.clear()

    def whose(self, link: Link | None) -> Outcome | None:
        """Why items of a link cannot be used (orphans, withheld), or None when they can."""
        if link is None:
            return Outcome.ORPHAN
        if link.patient in self._withheld:
            return Outcome.WITHHELD
        return None if link.patient in self._people else Outcome.ORPHAN

    def birth_day(self, patient: str) -> date | None:
        """The birth day that the export gives, or None."""
        rows = self._facts.run("SELECT min(birth_day) FROM person WHERE patient_id = ?", [patient])
        day: date | None = rows[0][0] if rows else None
        return day

    def count(self, outcome: Outcome, items: int = 1) -> None:
        """Count items by what became of them."""
        self._file.read += items
        self._file.outcomes[outcome] += items

    def exclude(self, reason: str, items: int = 1) -> None:
        """Count items that say of themselves that they do not count."""
        self.count(Outcome.EXCLUDED, items)
        self._part.excluded[reason] += items

    def not_covered(self, code: str, items: int = 1) -> None:
        """Count items whose code ("system|code") no concept of the programme has."""
        self.count(Outcome.NOT_COVERED, items)
        self._part.not_covered[code] += items

    def reject(self, place: str, fault: Fault, items: int = 1) -> None:
        """Count items with one fault."""
        self.count(Outcome.REJECTED, items)
        self._part.reject(self._file.file, place, fault, items)

    def keep_image(self, row: dict[str, object]) -> None:
        """Record a volume that was saved."""
        self._part.images.append(row)

    def unit_fault(self, concept: Concept, unit: str) -> Fault | None:
        """Why values of a unit cannot become the concept's, or None."""
        found = self._conversion(concept, unit)
        return found if isinstance(found, Fault) else None

    def convert(
        self, concept: Concept, value: float, unit: str, *, spellings: Mapping[str, str] = _NO_SPELLINGS
    ) -> float | Fault:
        """A value in the concept's unit and within its bounds, or why it is none.

        Args:
            concept: Of what it is a value.
            value: The number.
            unit: As it was recorded.
            spellings: What this kind of input writes for a unit, and its UCUM; the site's own words come first.
        """
        conversion = self._conversion(concept, unit, spellings)
        if isinstance(conversion, Fault):
            return conversion
        converted = conversion(value)
        if not math.isfinite(converted) or not _within(converted, concept):
            return Fault("GEM206", "", f"outside the plausible bounds of {concept.name}")
        return converted

    def _conversion(
        self, concept: Concept, unit: str, spellings: Mapping[str, str] = _NO_SPELLINGS
    ) -> Conversion | Fault:
        key = (concept.name, unit, spellings.get(unit, ""))
        if key not in self._conversions:
            self._conversions[key] = self._find_conversion(concept, unit, spellings)
        return self._conversions[key]

    def _find_conversion(
        self, concept: Concept, unit: str, spellings: Mapping[str, str]
    ) -> Conversion | Fault:
        if concept.unit is None:
            return Fault("GEM203", "", f"{concept.name} has no unit: it takes no values")
        unit = unit or self._mapping.default_unit(concept.name) or ""
        if not unit:
            return Fault("GEM202", "", f"a value without a unit ({concept.name})")
        aliases = {**spellings, **self._mapping.aliases(concept.name)}
        found = find_conversion(unit, concept, aliases=aliases)
        if found is None:
            return Fault("GEM203", "", f"{unit!r} cannot become {concept.unit} ({concept.name})")
        return found

    def add(
        self,
        concept: Concept,
        link: Link,
        at: datetime | date,
        *,
        value: float | None = None,
        bound: str | None = None,
        end_day: date | None = None,
    ) -> None:
        """Add one fact; `value` is in the concept's unit, `at` in the patient's own clock, without a zone."""
        when = at if isinstance(at, datetime) else datetime.combine(at, _MIDNIGHT)
        row = (link.patient, concept.name, when.date(), when, end_day, value, bound)
        for name, cell in zip(FACT.names, row, strict=True):
            self._columns[name].append(cell)
        self._part.facts[concept.name] += 1
        if bound is not None:
            self._part.bounds[concept.name] += 1
        if len(self._columns["day"]) >= _BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._columns["day"]:
            self._facts.add("fact", pa.table(self._columns, schema=FACT))
            for column in self._columns.values():
                column.clear()


def _within(value: float, concept: Concept) -> bool:
    return (concept.low is None or value >= concept.low) and (concept.high is None or value <= concept.high)


def is_plausible_day(day: date) -> bool:
    """Whether a day can be one: outside lie the placeholders for "open" and "not known"."""
    return FIRST_YEAR <= day.year <= LAST_YEAR
