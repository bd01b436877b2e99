"""A CDM in PostgreSQL, streamed as Arrow record batches by ADBC (`adbc-driver-postgresql`, Apache Arrow).

DuckDB's own postgres extension is downloaded when it is first used, which a hospital without internet cannot do; the
ADBC driver comes as a wheel with libpq in it, and copies rows as a stream (COPY in binary) into Arrow.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa

from gemel.core.errors import GemelError
from gemel.data_adapters.omop.source import BATCH_ROWS, Damage, Only
from gemel.data_adapters.omop.tables import KNOWN_TABLES

_BATCH_BYTES = 1 << 22


class PostgresSource:
    """Reads the tables that the connection's `search_path` finds, in one read-only snapshot of the database."""

    def __init__(self, url: str, *, time_zone: str | None = None) -> None:
        _refuse_password(url)
        dbapi = _driver()
        self.unread: list[str] = []
        self._errors: tuple[type[Exception], ...] = (dbapi.Error, OSError)
        self._relations: dict[str, tuple[str, tuple[str, ...]] | None] = {}
        try:
            self._connection = dbapi.connect(url)
        except self._errors as error:
            raise _unreachable(url, error) from None
        # All tables are read as they are at one moment, however long that takes.
        self._run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        self._run("SET LOCAL DateStyle = 'ISO, YMD'")
        self._run(f"SET LOCAL TimeZone = {_quoted(time_zone or 'UTC')}")
        self._url = url
        if self.columns("person") is None:
            self._connection.close()
            raise GemelError("GEM250", f"{_shown(url)} has no table person in its search_path.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def place(self, table: str) -> str:
        """The relation, with its schema."""
        relation = self._relation(table)
        return relation[0] if relation is not None else table

    def columns(self, table: str) -> tuple[str, ...] | None:
        """The names of its columns; None when the search path finds no such table."""
        relation = self._relation(table)
        return relation[1] if relation is not None else None

    def batches(
        self, table: str, columns: Sequence[str], *, only: Only | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The rows as text, as PostgreSQL writes it."""
        if table not in KNOWN_TABLES:
            raise KeyError(table)
        wanted = ", ".join(f'CAST("{name}" AS text) AS "{name}"' for name in columns)
        sql = f"SELECT {wanted} FROM {table}"
        if only is not None:
            sql += f' WHERE "{only.column}" IN ({", ".join(str(int(number)) for number in only.numbers)})'
        try:
            with self._connection.cursor(
                adbc_stmt_kwargs={"adbc.postgresql.batch_size_hint_bytes": str(_BATCH_BYTES)}
            ) as cursor:
                cursor.execute(sql)
                for batch in cursor.fetch_record_batch():
                    for start in range(0, batch.num_rows, BATCH_ROWS):
                        yield batch.slice(start, BATCH_ROWS)
        except self._errors as error:
            raise _unreachable(self._url, error) from None

    def damaged(self, table: str) -> list[Damage]:
        """None: a database's rows are whole."""
        return []

    def _relation(self, table: str) -> tuple[str, tuple[str, ...]] | None:
        if table not in self._relations:
            rows = self._run(
                "SELECT CAST(a.attrelid::regclass AS text), CAST(a.attname AS text) FROM pg_attribute a "
                f"WHERE a.attrelid = to_regclass({_quoted(table)}) AND a.attnum > 0 AND NOT a.attisdropped "
                "ORDER BY a.attnum"
            )
            self._relations[table] = (rows[0][0], tuple(row[1] for row in rows)) if rows else None
        return self._relations[table]

    def _run(self, sql: str) -> list[tuple[Any, ...]]:
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(sql)
                return list(cursor.fetchall()) if cursor.description else []
        except self._errors as error:
            raise _unreachable(self._url, error) from None


def _driver() -> Any:
    try:
        dbapi = importlib.import_module("adbc_driver_postgresql.dbapi")
    except ImportError as error:
        raise GemelError(
            "GEM252", "PostgreSQL is read through adbc-driver-postgresql: install the extra 'postgres'."
        ) from error
    return dbapi


def _refuse_password(url: str) -> None:
    """A URL stands in the list of processes and in the shell's history: no password may be in it."""
    try:
        parts = urlsplit(url)
        secret = parts.password is not None or "password" in parse_qs(parts.query)
    except ValueError:
        raise GemelError("GEM252", "The database's URL is malformed.") from None
    if secret:
        raise GemelError("GEM252", "The database's URL holds a password: give it in PGPASSWORD or ~/.pgpass.")


def _shown(url: str) -> str:
    """Host and database, without user and options."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2] or unquote(parse_qs(parts.query).get("host", ["localhost"])[0])
    return f"postgresql://{host}{parts.path}"


def _unreachable(url: str, error: Exception) -> GemelError:
    """GEM252 with the server's first line; it holds no value of a row, because no row's value is converted there."""
    lines = str(error).splitlines() or [type(error).__name__]
    return GemelError("GEM252", f"{_shown(url)}: {lines[0][:200]}")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
