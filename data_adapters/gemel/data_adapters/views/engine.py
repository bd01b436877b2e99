"""Views on the tables of blocks: by a plan over the Arrow arrays where a view has one, else on DuckDB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from gemel.data_adapters.reading.shape import Shape
from gemel.data_adapters.views.arrow_plan import NotPlannedError, plan
from gemel.data_adapters.views.compiler import CompiledView, rows_schema
from gemel.data_adapters.views.duckdb_engine import DuckDBEngine


class Engine:
    """Compiled views, for any number of threads."""

    def __init__(
        self, compiled: Sequence[CompiledView], shapes: Mapping[str, Shape], *, plans: bool = True
    ) -> None:
        """Without `plans` every view runs on DuckDB; the rows are the same."""
        self._views: dict[str, list[CompiledView]] = {resource: [] for resource in shapes}
        for one in compiled:
            self._views[one.view.resource].append(one)
        self._schemas = {name: rows_schema(shape) for name, shape in shapes.items()}
        self._plans = {one.view.name: plan(one.tree) if plans else None for one in compiled}
        self._duckdb = DuckDBEngine(self._schemas)

    def close(self) -> None:
        """Give up what is held for the views."""
        self._duckdb.close()

    @property
    def planned(self) -> frozenset[str]:
        """The names of the views that have a plan."""
        return frozenset(name for name, plan in self._plans.items() if plan is not None)

    def run(self, tables: Mapping[str, Sequence[pa.RecordBatch]]) -> dict[str, pa.Table]:
        """Run the views over the tables of some blocks, as a reader gives them; only views of their types.

        Raises:
            GemelError: GEM209 when an expression gives more than one value.
            TooDeepError: When the views must be compiled for more levels.
        """
        results: dict[str, pa.Table] = {}
        for resource, batches in tables.items():
            # A call of Arrow costs as much as a thousand rows: one batch of them all.
            rows = _flat(pa.concat_batches(batches), self._schemas[resource])
            clean = not any(map(_has_null_items, rows.columns))
            results |= {one.view.name: self._run(one, rows, clean=clean) for one in self._views[resource]}
        return results

    def schemas(self) -> dict[str, pa.Schema]:
        """The columns of each view's rows."""
        nothing = {
            name: pa.RecordBatch.from_arrays([pa.nulls(0, column.type) for column in schema], schema=schema)
            for name, schema in self._schemas.items()
        }
        views = [one for views in self._views.values() for one in views]
        return {one.view.name: self._run(one, nothing[one.view.resource], clean=True).schema for one in views}

    def _run(self, one: CompiledView, rows: pa.RecordBatch, *, clean: bool) -> pa.Table:
        plan = self._plans[one.view.name]
        if plan is not None and clean:
            try:
                return plan.run(rows)
            except NotPlannedError:
                pass  # DuckDB says which expression fails, and why.
        return self._duckdb.run(one, rows, clean=clean)


def _flat(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([rows.column("line"), *rows.column("r").flatten()], schema=schema)


def _has_null_items(array: pa.Array) -> bool:
    """True when a list in the array may hold a NULL; Arrow keeps the count, so asking costs next to nothing."""
    if pa.types.is_list(array.type):
        return array.values.null_count > 0 or _has_null_items(array.values)
    if pa.types.is_struct(array.type):
        return any(_has_null_items(array.field(i)) for i in range(array.type.num_fields))
    return False
