"""Facts: what the records of any source say, in three tables that cohorts and data sets are built on.

A source (FHIR, OMOP, wearables, images, genomes) writes facts; a cohort and its features read nothing else. So a
hospital's data set does not depend on how the hospital keeps its records.

`person`: one row per patient.
    patient_id      the source's own id; it leaves this database only as a keyed pseudonym
    sex             'male', 'female', 'other', 'unknown' or NULL
    birth_day       the day, or the middle of the month or year that is recorded
    death_day       the same; NULL when alive or not dated
    deceased        TRUE also when no day is known

`visit`: one row per contact with the hospital that took place.
    patient_id, start_day, end_day (the start where no end is recorded), finished

`fact`: one row per usable statement about a patient that a concept of the programme covers.
    patient_id
    concept         the concept's name
    day             the day as the hospital wrote it (a mapping may name its time zone); of a partial date the middle
    at              the local time by the hospital's clock; midnight when no time is recorded
    end_day         the last day of what lasts (a diagnosis that abated, a medication), else NULL
    value           in the concept's unit and within its bounds; NULL for what has none (a diagnosis)
    bound           '<', '<=', '>' or '>=' when the laboratory gave a bound instead of a value, else NULL

Rows have no order and no identity of their own: whatever is built on them may depend on their content only.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Iterable
from datetime import date
from types import TracebackType
from typing import Any

import duckdb
import pyarrow as pa

# While records are read beside it, and afterwards; sorting what twelve million facts say needs the latter.
READING_LIMIT, MEMORY_LIMIT = "80MB", "192MB"

PERSON = pa.schema(
    [
        ("patient_id", pa.string()),
        ("sex", pa.string()),
        ("birth_day", pa.date32()),
        ("death_day", pa.date32()),
        ("deceased", pa.bool_()),
    ]
)
VISIT = pa.schema(
    [
        ("patient_id", pa.string()),
        ("start_day", pa.date32()),
        ("end_day", pa.date32()),
        ("finished", pa.bool_()),
    ]
)
FACT = pa.schema(
    [
        ("patient_id", pa.string()),
        ("concept", pa.string()),
        ("day", pa.date32()),
        ("at", pa.timestamp("us")),
        ("end_day", pa.date32()),
        ("value", pa.float64()),
        ("bound", pa.string()),
    ]
)
_TABLES = {"person": PERSON, "visit": VISIT, "fact": FACT}


class Facts:
    """The three tables in a database of this process, in a private folder that goes when it is closed.

    What does not fit into the memory limit is kept in that folder. The database reaches neither other files nor the
    network.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="gemel-facts-")
        self.connection = duckdb.connect(":memory:")
        for setting in (
            f"temp_directory = '{self._folder.name}'",
            "TimeZone = 'UTC'",
            "enable_progress_bar = false",
            f"memory_limit = '{MEMORY_LIMIT}'",
            "preserve_insertion_order = false",
            "enable_external_access = false",  # cannot be switched on again
        ):
            self.run(f"SET {setting}")
        for name, schema in _TABLES.items():
            connection = self.connection
            connection.register("gemel_rows", pa.Table.from_batches([], schema))
            self.run(f"CREATE TABLE {name} AS SELECT * FROM gemel_rows")
            connection.unregister("gemel_rows")

    def __enter__(self) -> Facts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()
        self._folder.cleanup()

    def limit_memory(self, limit: str) -> None:
        """Keep in memory at most so much ("80MB"); the rest goes to the private folder."""
        self.run(f"SET memory_limit = '{limit}'")

    def run(self, sql: str, parameters: object = None) -> list[tuple[Any, ...]]:
        """Run a statement to its end and give its rows (a result left open blocks the connection)."""
        rows: list[tuple[Any, ...]] = self.connection.execute(sql, parameters).fetchall()
        return rows

    def add(self, name: str, rows: pa.Table | pa.RecordBatch) -> None:
        """Add rows to `person`, `visit` or `fact`; the columns are those of its schema, in any order."""
        table = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
        self.connection.register("gemel_rows", table.select(_TABLES[name].names).cast(_TABLES[name]))
        try:
            self.run(f"INSERT INTO {name} SELECT * FROM gemel_rows")
        finally:
            self.connection.unregister("gemel_rows")

    def add_rows(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows given as dictionaries; a column that one lacks is NULL."""
        self.add(name, pa.Table.from_pylist(list(rows), schema=_TABLES[name]))

    def leave_out_future(self, day: date) -> dict[str, int]:
        """Leave out what is dated after a day: a typing error, or a record that was shifted in time.

        A fact or a visit that begins later is removed, and what ends later ends on the day. A death or birth that lies
        later is not dated.

        Returns:
            Rows changed, as "fact", "visit", "death", "birth"; only those that are not 0.
        """
        changes = {
            "fact": "DELETE FROM fact WHERE day > $day",
            "visit": "DELETE FROM visit WHERE start_day > $day",
            "death": "UPDATE person SET death_day = NULL WHERE death_day > $day",
            "birth": "UPDATE person SET birth_day = NULL WHERE birth_day > $day",
        }
        counts = {name: int(self.run(sql, {"day": day})[0][0]) for name, sql in changes.items()}
        for name in ("fact", "visit"):
            self.run(f"UPDATE {name} SET end_day = $day WHERE end_day > $day", {"day": day})
        return {name: number for name, number in counts.items() if number}


def return_memory() -> None:
    """Give the system back what allocators keep for more reading: what follows needs memory of its own."""
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)
