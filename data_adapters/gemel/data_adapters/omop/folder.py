"""A CDM as a folder of files: one CSV (comma or tab, plain or gzipped) or Parquet file for each table."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from gemel.core.errors import GemelError
from gemel.data_adapters.omop.source import BATCH_ROWS, Damage, Only
from gemel.data_adapters.omop.tables import KNOWN_TABLES
from gemel.data_adapters.reading.shape import quote_name, quote_text
from gemel.data_adapters.sources.bundles import LABEL

_FILE_NAME = re.compile(r"(?P<table>[a-z_]+)\.(?P<kind>csv|csv\.gz|tsv|tsv\.gz|parquet)", flags=re.IGNORECASE)
_NAMES = ".csv, .csv.gz, .tsv, .tsv.gz or .parquet"
# The vocabulary's own files come from Athena: tabs, and quotation marks that mean themselves.
_VOCABULARY = ("concept", "concept_ancestor")
# Kinds of damage that end with the record.
_ONE_RECORD = ("missing columns", "too many columns", "invalid encoding")
# Where the files of a virtual cohort carry the label.
_SECURITY = b"gemel.security"
_MEMORY_LIMIT = "128MB"
_MAX_LINE_BYTES = 1 << 20  # DuckDB holds sixteen of them for each thread, unless told.
_BUFFER_BYTES = 1 << 22


class FolderSource:
    """Reads the files with an embedded DuckDB that may open these files and nothing else."""

    def __init__(self, path: Path, *, time_zone: str | None = None) -> None:
        self._files, self.unread = _tables_of(path)
        if "person" not in self._files:
            raise GemelError(
                "GEM250", f"{path.name} holds no PERSON table ({_NAMES}). Not read: {self.unread[:5]}."
            )
        for file in self._files.values():
            _refuse_labelled(file)
        self._time_zone = time_zone or "UTC"
        self._spill = tempfile.TemporaryDirectory(prefix="gemel-omop-")
        self._damaged: dict[str, list[Damage]] = {}
        self._readers: dict[str, str] = {}
        self._columns: dict[str, Mapping[str, tuple[str, str]]] = {}
        allowed = ", ".join(quote_text(str(file.resolve())) for file in self._files.values())
        self._connection = duckdb.connect(":memory:")
        for setting in (
            "TimeZone = 'UTC'",
            "enable_progress_bar = false",
            f"memory_limit = '{_MEMORY_LIMIT}'",
            "threads = 2",
            f"temp_directory = {quote_text(self._spill.name)}",
            f"allowed_paths = [{allowed}]",
            "enable_external_access = false",
            "lock_configuration = true",
        ):
            self._connection.execute(f"SET {setting}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._spill.cleanup()

    def place(self, table: str) -> str:
        """The name of the table's file."""
        return self._files[table].name if table in self._files else table

    def columns(self, table: str) -> tuple[str, ...] | None:
        """The names of its columns in lower case; None when there is no file of it."""
        return tuple(self._described(table)) if table in self._files else None

    def batches(
        self, table: str, columns: Sequence[str], *, only: Only | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The rows in the file's order, as text."""
        described = self._described(table)
        wanted = ", ".join(f"{self._text(*described[name])} AS {quote_name(name)}" for name in columns)
        sql = f"SELECT {wanted} FROM {self._readers[table]}"
        if only is not None:
            numbers = ", ".join(f"'{number}'" for number in only.numbers)
            sql += f" WHERE trim({self._text(*described[only.column])}) IN ({numbers})"
        try:
            yield from self._connection.sql(sql).to_arrow_reader(BATCH_ROWS)
            self._note_damage(table)
        except duckdb.Error as error:
            raise _unreadable(self.place(table), error) from error

    def damaged(self, table: str) -> list[Damage]:
        """The records of a CSV file with too few or too many columns, or bytes that are no UTF-8."""
        return self._damaged.get(table, [])

    def _described(self, table: str) -> Mapping[str, tuple[str, str]]:
        """For each column in lower case its name in the file and its type."""
        if table not in self._columns:
            file = self._files[table]
            try:
                self._readers[table] = _reader(table, file)
                rows = self._connection.execute(f"DESCRIBE SELECT * FROM {self._readers[table]}").fetchall()
            except (duckdb.Error, OSError, EOFError) as error:
                raise _unreadable(file.name, error) from error
            lowered = [row[0].strip().lower() for row in rows]
            if len(set(lowered)) < len(lowered):
                raise GemelError("GEM250", f"{file.name} has two columns of one name.")
            found = {name: (row[0], row[1]) for name, row in zip(lowered, rows, strict=True)}
            self._columns[table] = MappingProxyType(found)
        return self._columns[table]

    def _text(self, name: str, kind: str) -> str:
        column = quote_name(name)
        if kind == "TIMESTAMP WITH TIME ZONE":  # Spark writes local times as instants.
            column = f"({column} AT TIME ZONE {quote_text(self._time_zone)})"
        return column if kind == "VARCHAR" else f"CAST({column} AS VARCHAR)"

    def _note_damage(self, table: str) -> None:
        if self._files[table].name.lower().endswith(".parquet"):
            return
        rows = self._connection.execute(
            "SELECT line - 1, min(lower(CAST(error_type AS VARCHAR))) FROM reject_errors GROUP BY line ORDER BY line"
        ).fetchall()
        self._damaged[table] = damaged = [Damage(int(row), reason) for row, reason in rows]
        for name in ("reject_errors", "reject_scans"):
            self._connection.execute(f"DROP TABLE {name}")
        # An open quote swallows the records behind it, and DuckDB counts them as one: nothing says how many they were.
        for row, reason in damaged:
            if reason not in _ONE_RECORD:
                raise GemelError(
                    "GEM250", f"{self.place(table)} row {row}: {reason}; what follows cannot be told apart."
                )


def _refuse_labelled(file: Path) -> None:
    """GEM211 for a Parquet file whose schema says that its rows are synthetic: one table alone says so too."""
    if not file.name.lower().endswith(".parquet"):
        return
    try:
        metadata = pq.read_schema(file).metadata or {}
    except (OSError, pa.ArrowException):
        return  # What cannot be read says so when it is.
    if metadata.get(_SECURITY) == LABEL.encode():
        raise GemelError("GEM211", f"{file.name} says of itself that it is synthetic ({LABEL}).")


def has_person(path: Path) -> bool:
    """Whether a folder holds a file of the PERSON table."""
    if not path.is_dir():
        return False
    found = (_FILE_NAME.fullmatch(entry.name) for entry in path.iterdir())
    return any(match is not None and match["table"].lower() == "person" for match in found)


def _tables_of(path: Path) -> tuple[dict[str, Path], list[str]]:
    """The file of each table, and what else is there; GEM250 for two files of one table or one out of the folder."""
    files: dict[str, Path] = {}
    unread: list[str] = []
    try:
        if not path.is_dir():
            raise GemelError("GEM250", f"There is no folder at {path}.")
        folder = path.resolve()
        for entry in sorted(path.iterdir()):
            if entry.name.startswith("."):
                continue
            match = _FILE_NAME.fullmatch(entry.name)
            table = match["table"].lower() if match is not None else ""
            if match is None:
                unread.append(f"{entry.name}: its name does not end in {_NAMES}")
            elif table not in KNOWN_TABLES:
                unread.append(f"{entry.name}: no facts are made from this table")
            elif not entry.resolve().is_relative_to(folder):
                raise GemelError("GEM250", f"{entry.name} leads out of the folder.")
            elif not entry.is_file():
                raise GemelError("GEM250", f"{entry.name} is no file.")
            elif table in files:
                raise GemelError("GEM250", f"{files[table].name} and {entry.name} are one table: keep one.")
            else:
                files[table] = entry
    # RuntimeError: a link that leads to itself.
    except (OSError, RuntimeError) as error:
        raise GemelError("GEM250", f"{path.name} cannot be read: {error}.") from error
    return files, unread


def _reader(table: str, file: Path) -> str:
    """The table function that reads a file; of a CSV file it keeps what it cannot make a row of, and fails on none."""
    place = quote_text(str(file.resolve()))
    if file.name.lower().endswith(".parquet"):
        return f"read_parquet([{place}])"
    header = _header_line(file)
    tab = "\t" in header
    names = [name.strip().strip('"') for name in header.split("\t" if tab else ",")]
    quote = "" if tab and table in _VOCABULARY else '"'
    columns = ", ".join(f"{quote_text(name)}: 'VARCHAR'" for name in names)
    return (
        f"read_csv([{place}], auto_detect = false, columns = {{{columns}}}, header = true, "
        f"delim = {quote_text(chr(9) if tab else ',')}, quote = {quote_text(quote)}, escape = {quote_text(quote)}, "
        f"nullstr = '', max_line_size = {_MAX_LINE_BYTES}, buffer_size = {_BUFFER_BYTES}, "
        f"store_rejects = true, rejects_limit = 0)"
    )


def _header_line(file: Path) -> str:
    """The first line, without a byte order mark."""
    import gzip

    with gzip.open(file, "rb") if file.name.lower().endswith(".gz") else file.open("rb") as stream:
        line = stream.readline(_MAX_LINE_BYTES)
    try:
        text = line.decode("utf-8-sig").strip("\r\n")
    except UnicodeDecodeError as error:
        raise GemelError("GEM250", f"The header of {file.name} is not UTF-8.") from error
    if not text.strip():
        raise GemelError("GEM250", f"{file.name} has no header line.")
    return text


def _unreadable(name: str, error: Exception) -> GemelError:
    """GEM250 with the first line of what went wrong, which names a place and no cell."""
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    if "state machine" in reason:
        reason = "its line ends are of two kinds, or its quotes are out of place"
    return GemelError("GEM250", f"{name} cannot be read to its end: {reason}.")
