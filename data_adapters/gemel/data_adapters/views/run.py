"""Running views: ViewDefinitions over an export to Arrow tables or Parquet files, one pass over the export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from gemel.core.errors import GemelError
from gemel.data_adapters.reading.intake import Intake, Judge
from gemel.data_adapters.reading.shape import Shape, quote_name
from gemel.data_adapters.reading.store import Store
from gemel.data_adapters.views.compiler import compile_view
from gemel.data_adapters.views.view_definition import ViewDefinition, load_view, parse_view

__all__ = [
    "ViewDefinition",
    "compile_views",
    "load_view",
    "load_views_into",
    "read_views",
    "run_views",
    "standard_views",
    "write_tables",
    "write_views",
]

_STANDARD = ("patient", "observation", "condition", "encounter")


def standard_views() -> tuple[ViewDefinition, ...]:
    """The views that cohorts and data sets are built on, shipped as ViewDefinition files."""
    folder = resources.files(__package__).joinpath("standard")
    contents = [folder.joinpath(f"{name}.json").read_bytes() for name in _STANDARD]
    return tuple(parse_view(msgspec.json.decode(content)) for content in contents)


def compile_views(views: Sequence[ViewDefinition]) -> tuple[dict[str, str], dict[str, Shape]]:
    """The SQL of each view by its name, and what they read of each resource type. Raises GEM209."""
    if len({view.name for view in views}) != len(views):
        raise GemelError("GEM209", "Two of the views have the same name.")
    shapes: dict[str, Shape] = {}
    queries = {}
    for view in views:
        shape = shapes.setdefault(view.resource, Shape.of_resource(view.resource))
        queries[view.name] = compile_view(view, shape)
    return queries, shapes


def load_views_into(
    store: Store, views: Sequence[ViewDefinition], export: Path, *, judge: Judge | None = None
) -> Intake:
    """Load what the views read, and make each view a table `view_NAME` of the store.

    Raises:
        GemelError: GEM208 (export), GEM209 (an expression that is not supported, or gives more than one value).
    """
    queries, shapes = compile_views(views)
    intake = store.load(export, shapes, judge=judge)
    for name, query in queries.items():
        try:
            store.run(f"CREATE TABLE {quote_name('view_' + name)} AS {query}")
        except duckdb.InvalidInputException as error:
            raise GemelError("GEM209", f"The view {name} failed: {str(error).splitlines()[0]}.") from error
    return intake


def run_views(views: Sequence[ViewDefinition], export: Path) -> dict[str, pa.Table]:
    """Run views over an export: an Arrow table for each, by the view's name.

    Lines that are not resources, or whose elements have wrong types, are left out: `read_views` counts them too.

    Raises:
        GemelError: GEM208, GEM209 as `load_views_into`.
    """
    return read_views(views, export)[0]


def read_views(views: Sequence[ViewDefinition], export: Path) -> tuple[dict[str, pa.Table], Intake]:
    """Run views over an export, and give the account of its lines beside the tables. Raises as `run_views`."""
    with Store() as store:
        intake = load_views_into(store, views, export)
        return {view.name: _arrow(store, view.name) for view in views}, intake


def write_views(views: Sequence[ViewDefinition], export: Path, folder: Path) -> list[Path]:
    """Run views and write `folder/NAME.parquet` for each. Raises as `run_views`."""
    return write_tables(run_views(views, export), folder)


def write_tables(tables: Mapping[str, pa.Table], folder: Path) -> list[Path]:
    """Write `folder/NAME.parquet` for each table."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, table in tables.items():
        paths.append(folder / f"{name}.parquet")
        pq.write_table(table, paths[-1], compression="zstd")
    return paths


def _arrow(store: Store, name: str) -> pa.Table:
    return store.connection.sql(f"SELECT * FROM {quote_name('view_' + name)}").to_arrow_table()
