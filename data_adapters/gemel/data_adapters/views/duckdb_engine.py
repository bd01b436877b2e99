"""Views on DuckDB: prepared once, then run on one Arrow batch after the other, in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import local

import duckdb
import pyarrow as pa

from gemel.core.errors import GemelError
from gemel.data_adapters.reading.shape import Shape, quote_name
from gemel.data_adapters.views.compiler import DEEPER, CompiledView, rows_schema
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
        self.batches: Sequence[pa.RecordBatch] = ()
        self.prepared: set[str] = set()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return pa.RecordBatchReader.from_batches(self.schema, self.batches).__arrow_c_stream__()


class DuckDBEngine:
    """Compiled views on a database in memory that can reach neither files nor the network.

    Any number of threads may share it: each has a cursor of its own, and runs its queries itself.
    """

    def __init__(self, compiled: Sequence[CompiledView], shapes: Mapping[str, Shape]) -> None:
        self._views: dict[str, list[CompiledView]] = {resource: [] for resource in shapes}
        for one in compiled:
            self._views[one.view.resource].append(one)
        self._schemas = {name: rows_schema(shape) for name, shape in shapes.items()}
        self._connection = duckdb.connect(":memory:", config={"threads": 1})
        for setting in SETTINGS:
            self._connection.execute(setting)
        self._local = local()

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def run(self, tables: Mapping[str, Sequence[pa.RecordBatch]]) -> dict[str, pa.Table]:
        """Run the views over the tables of some blocks, as a reader gives them; only views of their types.

        Raises:
            GemelError: GEM209 when an expression gives more than one value.
            TooDeepError: When the views must be compiled for more levels.
        """
        return {
            name: table
            for resource, batches in tables.items()
            for name, table in self._run(resource, [_flat(rows, self._schemas[resource]) for rows in batches])
        }

    def schemas(self) -> dict[str, pa.Schema]:
        """The columns of each view's rows."""
        return {name: table.schema for resource in self._schemas for name, table in self._run(resource, [])}

    def _run(self, resource: str, batches: Sequence[pa.RecordBatch]) -> list[tuple[str, pa.Table]]:
        clean = not any(_has_null_items(column) for batch in batches for column in batch.columns)
        cursor, rows = self._cursor(resource)
        rows.batches = batches
        results = []
        for one in self._views[resource]:
            name = one.view.name
            prepared = quote_name(f"{name}_{'clean' if clean else 'careful'}")
            try:
                if prepared not in rows.prepared:
                    cursor.execute(f"PREPARE {prepared} AS {duckdb_sql(one.tree, clean=clean)}")
                    rows.prepared.add(prepared)
                results.append((name, cursor.sql(f"EXECUTE {prepared}").to_arrow_table()))
            except duckdb.InvalidInputException as error:
                message = str(error).splitlines()[0]
                if DEEPER in message:
                    raise TooDeepError from error
                raise GemelError("GEM209", f"The view {name} failed: {message}.") from error
        rows.batches = ()
        return results

    def _cursor(self, resource: str) -> tuple[duckdb.DuckDBPyConnection, _Rows]:
        """This thread's cursor, and what it reads as the resource type's table."""
        if not hasattr(self._local, "cursor"):
            self._local.cursor, self._local.rows = self._connection.cursor(), {}
        cursor: duckdb.DuckDBPyConnection = self._local.cursor
        rows: dict[str, _Rows] = self._local.rows
        if resource not in rows:
            rows[resource] = _Rows(self._schemas[resource])
            cursor.register(resource, rows[resource])
        return cursor, rows[resource]


def _flat(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([rows.column("line"), *rows.column("r").flatten()], schema=schema)


def _has_null_items(array: pa.Array) -> bool:
    """True when a list in the array may hold a NULL; Arrow keeps the count, so asking costs next to nothing."""
    if pa.types.is_list(array.type):
        return array.values.null_count > 0 or _has_null_items(array.values)
    if pa.types.is_struct(array.type):
        return any(_has_null_items(array.field(i)) for i in range(array.type.num_fields))
    return False
