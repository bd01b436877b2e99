"""Running views: ViewDefinitions over an export to Arrow tables, one pass over the export for any number of views."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
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
from gemel.data_adapters.sources.files import Block, ExportFile, list_unread, open_export, read_blocks
from gemel.data_adapters.views.compiler import FIRST_DEPTH, MAX_DEPTH, compile_views
from gemel.data_adapters.views.duckdb_engine import TooDeepError
from gemel.data_adapters.views.engine import Engine
from gemel.data_adapters.views.output import write_tables, write_views
from gemel.data_adapters.views.view_definition import ViewDefinition, load_view, parse_view

__all__ = [
    "Passes",
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


# A block and what is made of it stay in the processor's caches; running a view costs as much as a thousand rows, so
# that it is run on three blocks at once.
_BLOCK_BYTES = 2 << 20
_GROUP_BYTES = 5 << 20
_STANDARD = ("patient", "observation", "condition", "encounter")


@dataclass(frozen=True)
class ViewBatch:
    """What the views give for some blocks of an export's file.

    Attributes:
        file: Index of the file, as in the intake's `files`.
        tables: The rows by the view's name, of views that have any; the first column, `_line`, is the number of the
            line in the file.
        read: The blocks as they were read.
    """

    file: int
    tables: Mapping[str, pa.RecordBatch]
    read: tuple[ReadBlock, ...]


def scan(
    views: Sequence[ViewDefinition] | Passes, export: Path, *, intake: Intake, workers: int = 1
) -> Iterator[ViewBatch]:
    """Run views over an export in one pass, a batch for some blocks of lines, in the order of the files.

    Older versions of a resource are still among the rows: see `reading.versions`.

    Args:
        views: The views; their names differ. Or `Passes` of them.
        export: Folder of NDJSON files, or one file.
        intake: The account that the lines are entered into.
        workers: Threads; the batches and their order do not depend on it.

    Raises:
        GemelError: GEM208 (export), GEM209 (an expression that is not supported, or gives more than one value),
            GEM232 (more levels of `repeat` than any query is written for).
    """
    with ExitStack() as stack:
        passes = views if isinstance(views, Passes) else stack.enter_context(Passes(views))
        pool = stack.enter_context(_pool(workers)) if workers > 1 else None
        intake.unread = list_unread(export)
        for (index, blocks), (read, tables) in _in_order(passes, _all_groups(export, intake), pool, workers):
            for block, one in zip(blocks, read, strict=True):
                intake.take_in(index, block, one)
            yield ViewBatch(index, tables, read)


@contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(max_workers=workers)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


_Group = tuple[int, tuple[Block, ...]]


def _all_groups(export: Path, intake: Intake) -> Iterator[_Group]:
    """The groups of all files, so that no worker waits at a file's end."""
    for file in open_export(export):
        index = intake.add_file(file.name)
        yield from ((index, blocks) for blocks in _groups(file))


def _groups(file: ExportFile) -> Iterator[tuple[Block, ...]]:
    """Blocks that stay in the processor's cache while they are read, so many that running a query on them pays."""
    group: list[Block] = []
    size = 0
    for block in read_blocks(file, block_bytes=_BLOCK_BYTES):
        group.append(block)
        size += len(block.data)
        if size >= _GROUP_BYTES:
            yield tuple(group)
            group.clear()
            size = 0
    if group:
        yield tuple(group)


_Result = tuple[tuple[ReadBlock, ...], dict[str, pa.RecordBatch]]


def _in_order(
    passes: Passes, groups: Iterator[_Group], pool: ThreadPoolExecutor | None, workers: int
) -> Iterator[tuple[_Group, _Result]]:
    """Each group of blocks with its result; no more are alive than there are workers, and one."""
    if pool is None:
        for group in groups:
            yield group, passes.work(group[1])
        return
    waiting: deque[tuple[_Group, Future[_Result]]] = deque()
    for group in groups:
        waiting.append((group, pool.submit(passes.work, group[1])))
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
    engine: Engine


class Passes:
    """Reads blocks and runs views on them; the views are compiled again when a block needs a greater depth."""

    def __init__(self, views: Sequence[ViewDefinition]) -> None:
        self._views = views
        self._lock = Lock()
        self._passes = [self._open(FIRST_DEPTH)]

    def __enter__(self) -> Passes:
        return self

    def __exit__(self, *error: object) -> None:
        for one in self._passes:
            one.engine.close()

    def schemas(self) -> dict[str, pa.Schema]:
        """The columns of each view's rows, `_line` first."""
        return self._passes[0].engine.schemas()

    def _open(self, depth: int) -> _Pass:
        compiled, shapes = compile_views(self._views, depth=depth)
        return _Pass(depth, open_reader(shapes), Engine(compiled, shapes))

    def work(self, blocks: Sequence[Block]) -> _Result:
        """The blocks as they were read, and the views' rows of all of them."""
        current = self._passes[-1]
        while True:
            read = tuple(map(current.reader.read, blocks))
            batches: dict[str, list[pa.RecordBatch]] = {}
            for one in read:
                for resource, rows in one.tables.items():
                    batches.setdefault(resource, []).append(rows)
            try:
                tables = current.engine.run(batches)
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


def _batch(table: pa.Table) -> pa.RecordBatch:
    [batch] = table.combine_chunks().to_batches()
    return batch


def view_schemas(views: Sequence[ViewDefinition]) -> dict[str, pa.Schema]:
    """The columns of each view's rows, `_line` first. Raises GEM209."""
    with Passes(views) as passes:
        return passes.schemas()


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
    rows: dict[str, list[tuple[int, pa.RecordBatch]]] = {view.name: [] for view in views}
    with Passes(views) as passes, Versions(export) as versions:
        schemas = passes.schemas()
        for batch in scan(passes, export, intake=intake, workers=workers):
            versions.add(batch.file, *batch.read)
            for name, table in batch.tables.items():
                rows[name].append((batch.file, table))
        older = versions.find_superseded()
    tables = {}
    for view in views:
        kept = [older.keep(file, table) for file, table in rows.pop(view.name)]
        tables[view.name] = pa.Table.from_batches(kept, schemas[view.name]).drop_columns("_line")
    return tables, intake
