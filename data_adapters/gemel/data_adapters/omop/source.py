"""Where OMOP tables come from: one interface over a folder of files and a database.

Every column is given as text, whatever type it was stored with: CSV files have no other, and so the three kinds of
source go through one and the same set of checks, which count what they cannot use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol, Self

import pyarrow as pa

POSTGRES_SCHEMES = ("postgresql://", "postgres://")
BATCH_ROWS = 16_384


class Damage(NamedTuple):
    """A record that is no row: its number among the records after the header, from 1, and what is wrong with it."""

    row: int
    reason: str


class Only(NamedTuple):
    """Read only the rows that have one of these numbers in this column."""

    column: str
    numbers: tuple[int, ...]


class OmopSource(Protocol):
    """A CDM that can be read, one table after the other; a context that closes what it opened."""

    unread: list[str]  # what is there and is not read, as "name: reason"

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def place(self, table: str) -> str:
        """How reports call the table: the name of its file, or of the relation."""
        ...

    def columns(self, table: str) -> tuple[str, ...] | None:
        """The names of its columns in lower case; None when there is no such table."""
        ...

    def batches(
        self, table: str, columns: Sequence[str], *, only: Only | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The rows in the order in which they are kept, all columns as text, in batches of bounded size."""
        ...

    def damaged(self, table: str) -> list[Damage]:
        """The records that the last reading of the table could not make rows of, in their order."""
        ...


def is_omop(source: Path | str) -> bool:
    """Whether a source is a database's URL, or a folder with a table named PERSON."""
    if str(source).startswith(POSTGRES_SCHEMES):
        return True
    from gemel.data_adapters.omop.folder import has_person

    return has_person(Path(source))


def open_source(source: Path | str, *, time_zone: str | None = None) -> OmopSource:
    """Open a CDM: a folder of CSV and Parquet files, or the URL of a PostgreSQL database.

    Args:
        source: The folder, or `postgresql://[user@]host[:port]/database[?options=-csearch_path%3Dcdm,vocab]`.
        time_zone: The hospital's, for columns that keep instants instead of the time by its clock.

    Raises:
        GemelError: GEM250 when it holds no CDM, GEM252 when the database cannot be reached.
    """
    if str(source).startswith(POSTGRES_SCHEMES):
        from gemel.data_adapters.omop.postgres import PostgresSource

        return PostgresSource(str(source), time_zone=time_zone)
    from gemel.data_adapters.omop.folder import FolderSource

    return FolderSource(Path(source), time_zone=time_zone)
