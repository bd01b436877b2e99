"""Views on DuckDB: prepared once, then run on one Arrow batch after the other, in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import local
from typing import Any

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

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.batch = batch

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return pa.RecordBatchReader.from_batches(self.batch.schema, [self.batch]).__arrow_c_stream__()


class DuckDBEngine:
    """Compiled views on a database in memory that can reach neither files nor the network.

    Any number of threads may share it: each has a cursor of its own, and runs its queries itself.
    """

    def __init__(self, compiled: Sequence[CompiledView], shapes: Mapping[str, Shape]) -> None:
        self._views: dict[str, list[tuple[str, str, str]]] = {resource: [] for resource in shapes}
        for one in compiled:
            clean, careful = duckdb_sql(one.tree, clean=True), duckdb_sql(one.tree)
            self._views[one.view.resource].append((one.view.name, clean, careful))
        self._schemas = {name: rows_schema(shape) for name, shape in shapes.items()}
        self._connection = duckdb.connect(":memory:", config={"threads": 1})
        for setting in SETTINGS:
            self._connection.execute(setting)
        self._local = local()

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def run(self, tables: Mapping[str, pa.RecordBatch]) -> dict[str, pa.Table]:
        """Run the views over a block's tables, as a reader gives them; only views of their types.

        Raises:
            GemelError: GEM209 when an expression gives more than one value.
            TooDeepError: When the views must be compiled for more levels.
        """
        return {
            name: table
            for resource, rows in tables.items()
            if rows.num_rows
            for name, table in self._run(resource, rows)
        }

    def schemas(self) -> dict[str, pa.Schema]:
        """The columns of each view's rows."""
        return {
            name: table.schema
            for resource, schema in self._schemas.items()
            for name, table in self._run(resource, schema.empty_table().combine_chunks().to_batches() or None)
        }

    def _run(self, resource: str, rows: Any) -> list[tuple[str, pa.Table]]:
        if isinstance(rows, pa.RecordBatch):
            batch = _flat(rows, self._schemas[resource])
        else:
            batch = pa.RecordBatch.from_pylist([], self._schemas[resource])
        clean = not any(_has_null_items(column) for column in batch.columns)
        cursor = self._cursor(resource, batch)
        results = []
        for name, *_ in self._views[resource]:
            prepared = quote_name(f"{name}_{'clean' if clean else 'careful'}")
            try:
                results.append((name, cursor.sql(f"EXECUTE {prepared}").to_arrow_table()))
            except duckdb.InvalidInputException as error:
                message = str(error).splitlines()[0]
                if DEEPER in message:
                    raise TooDeepError from error
                raise GemelError("GEM209", f"The view {name} failed: {message}.") from error
        return results

    def _cursor(self, resource: str, batch: pa.RecordBatch) -> duckdb.DuckDBPyConnection:
        """This thread's cursor, on which the resource type's table is the batch and its views are prepared."""
        if not hasattr(self._local, "cursor"):
            self._local.cursor, self._local.rows = self._connection.cursor(), {}
        cursor: duckdb.DuckDBPyConnection = self._local.cursor
        rows: dict[str, _Rows] = self._local.rows
        if resource in rows:
            rows[resource].batch = batch
            return cursor
        rows[resource] = _Rows(batch)
        cursor.register(resource, rows[resource])
        for name, *queries in self._views[resource]:
            for kind, query in zip(("clean", "careful"), queries, strict=True):
                cursor.execute(f"PREPARE {quote_name(f'{name}_{kind}')} AS {query}")
        return cursor


def _flat(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([rows.column("line"), *rows.column("r").flatten()], schema=schema)


def _has_null_items(array: pa.Array) -> bool:
    """True when a list in the array may hold a NULL; Arrow keeps the count, so asking costs next to nothing."""
    if pa.types.is_list(array.type):
        return array.values.null_count > 0 or _has_null_items(array.values)
    if pa.types.is_struct(array.type):
        return any(_has_null_items(array.field(i)) for i in range(array.type.num_fields))
    return False
