"""What became of the rows of a CDM: read = accepted + rejected for each table, and what the accepted ones hold."""

from __future__ import annotations

import msgspec

from gemel.data_adapters.reading.intake import FileCount, Reject


class OmopUnitProblem(msgspec.Struct, frozen=True):
    """Values that were rejected for their unit: GEM202 none, GEM203 not convertible; `example` is a table:row."""

    code: str
    concept: str
    unit: str
    count: int
    example: str


class OmopUnmapped(msgspec.Struct, frozen=True):
    """A code that the programme does not know; the system of a local code is the column that holds it."""

    system: str
    code: str
    count: int


class OmopAccount(msgspec.Struct, kw_only=True):
    """The account of one reading of a CDM. Exact counts: it stays inside the hospital.

    Attributes:
        cdm_version: As CDM_SOURCE says; "" when it says nothing.
        files: Rows read, accepted and rejected of each table, in the order of reading.
        unread: Files that are no table of facts, tables that are not there, and the vocabulary where it lacks concepts
            that rows name, as "name: reason".
        rejects: The first 1000 rejected rows; `line` is the row after the header, from 1. `rejects_by_code` has all.
        excluded: Accepted rows that say nothing usable, as "table: reason".
        superseded: Rows that repeat another row in all that is read, by table.
        orphans: Accepted rows whose person is not in PERSON (or was rejected), by table.
        patients: Persons accepted and not withheld; `withheld` persons whose rows no further step saw.
        opt_out_unmatched: Entries of an opt-out list that name nobody in PERSON; `opt_out_unmatched_lines` the lines of
            the list on which the first 100 of them stand.
        values: Usable values or statements, by concept; `people` the persons with any.
        bounds: Of the values, those that are a bound ("<5").
        implausible, absent: Values left out, by concept: outside the bounds, or with no number.
        unit_problems: The most frequent.
        unmapped: The most frequent codes of no concept; `unmapped_total` counts all such rows.
        partial_dates: Dates without a day, by element.
        odd_ends: Rows whose end is no date, a placeholder or before the start; they count, without an end.
        other_days: Rows whose datetime is of another day than their date; the date holds, without a time.
    """

    cdm_version: str = ""
    files: list[FileCount] = []
    unread: list[str] = []
    rejects: list[Reject] = []
    rejects_by_code: dict[str, int] = {}
    excluded: dict[str, int] = {}
    superseded: dict[str, int] = {}
    orphans: dict[str, int] = {}
    patients: int = 0
    withheld: int = 0
    opt_out_unmatched: int = 0
    opt_out_unmatched_lines: list[int] = []
    values: dict[str, int] = {}
    people: dict[str, int] = {}
    bounds: dict[str, int] = {}
    implausible: dict[str, int] = {}
    implausible_examples: list[str] = []
    absent: dict[str, int] = {}
    unit_problems: list[OmopUnitProblem] = []
    unmapped: list[OmopUnmapped] = []
    unmapped_total: int = 0
    partial_dates: dict[str, int] = {}
    odd_ends: dict[str, int] = {}
    other_days: dict[str, int] = {}
