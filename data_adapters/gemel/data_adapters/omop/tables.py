"""The tables and columns of the OMOP CDM (v5.3 and v5.4) that facts are made from; others are not read.

Source: OHDSI CommonDataModel, `OMOP_CDMv5.3_Field_Level.csv` and `OMOP_CDMv5.4_Field_Level.csv`. Names are in lower
case, as PostgreSQL keeps them; files may write them in upper case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# An "end" is a day without which the row is as good as with it: one that is no date is left out, and counted.
Kind = Literal["integer", "number", "day", "end", "time", "text"]


@dataclass(frozen=True)
class Column:
    """One column: what it holds, and whether a source without it is no CDM."""

    name: str
    kind: Kind
    needed: bool = False


@dataclass(frozen=True)
class CdmTable:
    """A table and those of its columns that are read."""

    name: str
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class EventTable:
    """A table of dated statements about people, with its columns by what they are for.

    `measured` tables have numbers with units, `coded_value` and `texts` are their other values. `stated` tells that a
    row by itself says that something is so (a diagnosis), where it has no value of any kind.
    """

    name: str
    key: str
    concept: str
    source_concept: str
    source_value: str
    day: str
    time: str
    end_day: str | None = None
    measured: bool = False
    stated: bool = True
    operator: str | None = None
    texts: tuple[str, ...] = ()
    coded_value: str | None = None

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns to read."""
        found = [
            Column(self.key, "integer", needed=True),
            Column("person_id", "integer", needed=True),
            Column(self.concept, "integer", needed=True),
            Column(self.source_concept, "integer"),
            Column(self.source_value, "text"),
            Column(self.day, "day", needed=True),
            Column(self.time, "time"),
        ]
        if self.end_day is not None:
            found.append(Column(self.end_day, "end"))
        if self.measured:
            found += [
                Column("value_as_number", "number", needed=True),
                Column("unit_concept_id", "integer", needed=True),
                Column("unit_source_value", "text"),
            ]
        if self.operator is not None:
            found.append(Column(self.operator, "integer"))
        if self.coded_value is not None:
            found.append(Column(self.coded_value, "integer"))
        found += [Column(name, "text") for name in self.texts]
        return tuple(found)


PERSON = CdmTable(
    "person",
    (
        Column("person_id", "integer", needed=True),
        Column("gender_concept_id", "integer", needed=True),
        Column("year_of_birth", "integer", needed=True),
        Column("month_of_birth", "integer"),
        Column("day_of_birth", "integer"),
        Column("birth_datetime", "time"),
        Column("person_source_value", "text"),
    ),
)
DEATH = CdmTable(
    "death",
    (
        Column("person_id", "integer", needed=True),
        Column("death_date", "day", needed=True),
    ),
)
VISIT_OCCURRENCE = CdmTable(
    "visit_occurrence",
    (
        Column("visit_occurrence_id", "integer", needed=True),
        Column("person_id", "integer", needed=True),
        Column("visit_concept_id", "integer", needed=True),
        Column("visit_start_date", "day", needed=True),
        Column("visit_end_date", "day", needed=True),
    ),
)
CONCEPT = CdmTable(
    "concept",
    (
        Column("concept_id", "integer", needed=True),
        Column("vocabulary_id", "text", needed=True),
        Column("concept_code", "text", needed=True),
    ),
)
CONCEPT_ANCESTOR = CdmTable(
    "concept_ancestor",
    (
        Column("ancestor_concept_id", "integer", needed=True),
        Column("descendant_concept_id", "integer", needed=True),
    ),
)
CDM_SOURCE = CdmTable(
    "cdm_source",
    (
        Column("cdm_source_name", "text"),
        Column("cdm_source_abbreviation", "text"),
        Column("source_description", "text"),
        Column("cdm_version", "text"),
    ),
)

EVENTS = (
    EventTable(
        name="condition_occurrence",
        key="condition_occurrence_id",
        concept="condition_concept_id",
        source_concept="condition_source_concept_id",
        source_value="condition_source_value",
        day="condition_start_date",
        time="condition_start_datetime",
        end_day="condition_end_date",
    ),
    EventTable(
        name="procedure_occurrence",
        key="procedure_occurrence_id",
        concept="procedure_concept_id",
        source_concept="procedure_source_concept_id",
        source_value="procedure_source_value",
        day="procedure_date",
        time="procedure_datetime",
        end_day="procedure_end_date",
    ),
    EventTable(
        name="drug_exposure",
        key="drug_exposure_id",
        concept="drug_concept_id",
        source_concept="drug_source_concept_id",
        source_value="drug_source_value",
        day="drug_exposure_start_date",
        time="drug_exposure_start_datetime",
        end_day="drug_exposure_end_date",
    ),
    EventTable(
        name="measurement",
        key="measurement_id",
        concept="measurement_concept_id",
        source_concept="measurement_source_concept_id",
        source_value="measurement_source_value",
        day="measurement_date",
        time="measurement_datetime",
        measured=True,
        stated=False,
        operator="operator_concept_id",
        coded_value="value_as_concept_id",
        texts=("value_source_value",),
    ),
    EventTable(
        name="observation",
        key="observation_id",
        concept="observation_concept_id",
        source_concept="observation_source_concept_id",
        source_value="observation_source_value",
        day="observation_date",
        time="observation_datetime",
        measured=True,
        coded_value="value_as_concept_id",
        texts=("value_as_string",),
    ),
)

# Without these there is nothing to build on; every other table may be absent, and the account says so.
NEEDED_TABLES = ("person", "visit_occurrence", "concept")
KNOWN_TABLES = (
    "person",
    "death",
    "visit_occurrence",
    *(event.name for event in EVENTS),
    "concept",
    "concept_ancestor",
    "cdm_source",
)
