"""Running views: ViewDefinitions over an export to Arrow tables, one pass over the export for any number of views."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from threading import Lock

import msgspec
import pyarrow as pa

from gemel.core.errors import GemelError
from gemel.data_adapters.reading.intake import Intake
from gemel.data_adapters.reading.reader import ReadBlock, Reader, open_reader
from gemel.data_adapters.reading.versions import Versions
from gemel.data_adapters.sources.files import Block, list_unread, open_export, read_blocks
from gemel.data_adapters.views.compiler import FIRST_DEPTH, MAX_DEPTH, compile_views
from gemel.data_adapters.views.duckdb_engine import DuckDBEngine, TooDeepError
from gemel.data_adapters.views.output import write_tables, write_views
from gemel.data_adapters.views.view_definition import ViewDefinition, load_view, parse_view

__all__ = [
    "ViewBatch",
    "ViewDefinition",
    "compile_views",
    "load_view",
    "parse_view",
    "read_views",
    "run_views",
    "scan",
    "standard_views",
    "view_schemas",
    "write_tables",
    "write_views",
]


def standard_views() -> tuple[ViewDefinition, ...]:
    """The views that cohorts and data sets are built on, shipped as ViewDefinition files."""
    folder = resources.files(__package__).joinpath("standard")
    contents = [folder.joinpath(f"{name}.json").read_bytes() for name in _STANDARD]
    return tuple(parse_view(msgspec.json.decode(content)) for content in contents)


_STANDARD = ("patient", "observation", "condition", "encounter")


@dataclass(frozen=True)
class ViewBatch:
    """What the views give for one block of an export.

    Attributes:
        file: Index of the file, as in the intake's `files`.
        tables: The rows by the view's name, of views that have any; the first column, `_line`, is the number of the
            line in the file.
        read: The block as it was read.
    """

    file: int
    tables: Mapping[str, pa.RecordBatch]
    read: ReadBlock


def scan(
    views: Sequence[ViewDefinition], export: Path, *, intake: Intake, workers: int = 1
) -> Iterator[ViewBatch]:
    """Run views over an export in one pass, a batch for each block of lines, in the order of the files.

    Older versions of a resource are still among the rows: see `reading.versions`.

    Args:
        views: The views; their names differ.
        export: Folder of NDJSON files, or one file.
        intake: The account that the lines are entered into.
        workers: Threads; the batches and their order do not depend on it.

    Raises:
        GemelError: GEM208 (export), GEM209 (an expression that is not supported, or gives more than one value),
            GEM232 (more levels of `repeat` than any query is written for).
    """
    passes = _Passes(views)
    intake.unread = list_unread(export)
    pool = ThreadPoolExecutor(max_workers=workers) if workers > 1 else None
    try:
        for file in open_export(export):
            index = intake.add_file(file.name)
            for block, (read, tables) in _in_order(passes, read_blocks(file), pool, workers):
                intake.take_in(index, block, read)
                yield ViewBatch(index, tables, read)
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)
        passes.close()


_Result = tuple[ReadBlock, dict[str, pa.RecordBatch]]


def _in_order(
    passes: _Passes, blocks: Iterator[Block], pool: ThreadPoolExecutor | None, workers: int
) -> Iterator[tuple[Block, _Result]]:
    """Each block with its result; no more blocks are alive than there are workers, and one."""
    if pool is None:
        for block in blocks:
            yield block, passes.work(block)
        return
    waiting: deque[tuple[Block, Future[_Result]]] = deque()
    for block in blocks:
        waiting.append((block, pool.submit(passes.work, block)))
        if len(waiting) > workers:
            first, future = waiting.popleft()
            yield first, future.result()
    while waiting:
        first, future = waiting.popleft()
        yield first, future.result()


@dataclass(frozen=True)
class _Pass:
    """Reader and engine for views that were compiled to a depth of `repeat`."""

    depth: int
    reader: Reader
    engine: DuckDBEngine


class _Passes:
    """Reads blocks and runs the views on them; compiled again when a block needs a greater depth."""

    def __init__(self, views: Sequence[ViewDefinition]) -> None:
        self._views = views
        self._lock = Lock()
        self._passes = [self._open(FIRST_DEPTH)]

    def _open(self, depth: int) -> _Pass:
        compiled, shapes = compile_views(self._views, depth=depth)
        return _Pass(depth, open_reader(shapes), DuckDBEngine(compiled, shapes))

    def work(self, block: Block) -> _Result:
        current = self._passes[-1]
        while True:
            read = current.reader.read(block)
            try:
                tables = current.engine.run(read.tables)
            except TooDeepError:
                current = self._deeper(current.depth)
                continue
            return read, {name: _batch(table) for name, table in tables.items() if table.num_rows}

    def _deeper(self, depth: int) -> _Pass:
        with self._lock:
            if self._passes[-1].depth <= depth:  # No other block has come to it before.
                if depth >= MAX_DEPTH:
                    raise GemelError("GEM232", f"A resource has more than {depth} levels of repeat.")
                self._passes.append(self._open(min(depth * 3 // 2, MAX_DEPTH)))
            return self._passes[-1]

    def close(self) -> None:
        for one in self._passes:
            one.engine.close()


def _batch(table: pa.Table) -> pa.RecordBatch:
    [batch] = table.combine_chunks().to_batches()
    return batch


def view_schemas(views: Sequence[ViewDefinition]) -> dict[str, pa.Schema]:
    """The columns of each view's rows, `_line` first. Raises GEM209."""
    compiled, shapes = compile_views(views)
    engine = DuckDBEngine(compiled, shapes)
    try:
        return engine.schemas()
    finally:
        engine.close()


def run_views(views: Sequence[ViewDefinition], export: Path, *, workers: int = 1) -> dict[str, pa.Table]:
    """Run views over an export: an Arrow table for each, by the view's name, of the newest version of each resource.

    Lines that are not resources, or whose elements have wrong types, are left out: `read_views` counts them too.
    The tables are in memory; for an export of any size see `write_views`.

    Raises:
        GemelError: GEM208, GEM209, GEM232 as `scan`.
    """
    return read_views(views, export, workers=workers)[0]


def read_views(
    views: Sequence[ViewDefinition], export: Path, *, workers: int = 1
) -> tuple[dict[str, pa.Table], Intake]:
    """Run views over an export, and give the account of its lines beside the tables. Raises as `run_views`."""
    intake = Intake()
    schemas = view_schemas(views)
    rows: dict[str, list[tuple[int, pa.RecordBatch]]] = {view.name: [] for view in views}
    with Versions(export) as versions:
        for batch in scan(views, export, intake=intake, workers=workers):
            versions.add(batch.file, batch.read)
            for name, table in batch.tables.items():
                rows[name].append((batch.file, table))
        older = versions.find_superseded()
    tables = {}
    for view in views:
        kept = [older.keep(file, table) for file, table in rows.pop(view.name)]
        tables[view.name] = pa.Table.from_batches(kept, schemas[view.name]).drop_columns("_line")
    return tables, intake
