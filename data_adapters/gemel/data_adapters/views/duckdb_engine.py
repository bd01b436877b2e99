"""Views on DuckDB: prepared once, then run on some Arrow batches after the other, in memory."""

from __future__ import annotations

from collections.abc import Mapping
from threading import local

import duckdb
import pyarrow as pa

from gemel.core.errors import GemelError
from gemel.data_adapters.reading.shape import quote_name
from gemel.data_adapters.views.compiler import DEEPER, CompiledView
from gemel.data_adapters.views.dialects import duckdb_sql

SETTINGS = (
    "SET TimeZone = 'UTC'",
    "SET enable_progress_bar = false",  # It would be drawn into a command's result.
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


class TooDeepError(Exception):
    """A resource has more levels of `repeat` than the views were compiled for."""


class _Rows:
    """The rows that a prepared query reads next: DuckDB asks for them each time it runs."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.batches: tuple[pa.RecordBatch, ...] = ()
        self.prepared: set[str] = set()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return pa.RecordBatchReader.from_batches(self.schema, self.batches).__arrow_c_stream__()


class DuckDBEngine:
    """Compiled views on a database in memory that can reach neither files nor the network.

    Any number of threads may share it: each has a database of its own, opened when its first query comes.
    """

    def __init__(self, schemas: Mapping[str, pa.Schema]) -> None:
        """`schemas`: of the table of each resource type."""
        self._schemas = schemas
        self._opened: list[duckdb.DuckDBPyConnection] = []
        self._local = local()

    def close(self) -> None:
        """Close the databases."""
        for connection in self._opened:
            connection.close()

    def run(self, one: CompiledView, rows: pa.RecordBatch, *, clean: bool) -> pa.Table:
        """A view's rows of a batch of its resource type's table; `clean` when no list in it holds a NULL.

        Raises:
            GemelError: GEM209 when an expression gives more than one value.
            TooDeepError: When the views must be compiled for more levels.
        """
        connection, table = self._table(one.view.resource)
        table.batches = (rows,)
        name = one.view.name
        prepared = quote_name(f"{name}_{'clean' if clean else 'careful'}")
        try:
            if prepared not in table.prepared:
                connection.execute(f"PREPARE {prepared} AS {duckdb_sql(one.tree, clean=clean)}")
                table.prepared.add(prepared)
            return connection.sql(f"EXECUTE {prepared}").to_arrow_table()
        except duckdb.InvalidInputException as error:
            message = str(error).splitlines()[0]
            if DEEPER in message:
                raise TooDeepError from error
            raise GemelError("GEM209", f"The view {name} failed: {message}.") from error
        finally:
            table.batches = ()

    def _table(self, resource: str) -> tuple[duckdb.DuckDBPyConnection, _Rows]:
        """This thread's database, and what it reads as the resource type's table."""
        if not hasattr(self._local, "connection"):
            connection = duckdb.connect(":memory:", config={"threads": 1})
            for setting in SETTINGS:
                connection.execute(setting)
            self._opened.append(connection)
            self._local.connection, self._local.tables = connection, {}
        connection = self._local.connection
        tables: dict[str, _Rows] = self._local.tables
        if resource not in tables:
            tables[resource] = _Rows(self._schemas[resource])
            connection.register(resource, tables[resource])
        return connection, tables[resource]
