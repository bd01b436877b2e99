"""Rows of views to Parquet files: streamed, and under its final name only when a file is whole."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gemel.core.errors import GemelError
from gemel.data_adapters.reading.intake import Intake
from gemel.data_adapters.reading.versions import Superseded, Versions, to_places
from gemel.data_adapters.views.view_definition import ViewDefinition

# Rows wait in memory until a row group is full; what waits is small beside the blocks being read.
_GROUP_ROWS = 65_536


def write_views(
    views: Sequence[ViewDefinition],
    export: Path,
    folder: Path,
    *,
    workers: int = 1,
    engine: str = "duckdb",
    intake: Intake | None = None,
) -> list[Path]:
    """Run views and write `folder/NAME.parquet` for each, in memory that does not grow with the export.

    Args:
        views: The views; their names differ.
        export: Folder of NDJSON files, or one file.
        folder: Made when it is not there; files of these names in it are replaced, each at once.
        workers: Threads that read and run the views.
        engine: "duckdb", or "spark" (a folder of Parquet files for each view).
        intake: The account that the lines are entered into.

    Raises:
        GemelError: GEM208, GEM209, GEM232 as `scan`; GEM233 without PySpark; GEM234 when a file cannot be written.
    """
    intake = Intake() if intake is None else intake
    if engine == "spark":
        from gemel.data_adapters.views.spark_engine import write_with_spark

        return write_with_spark(views, export, folder, intake=intake)
    if engine != "duckdb":
        raise GemelError("GEM233", f"There is no engine {engine!r}: choose duckdb or spark.")
    return _write(views, export, folder, intake, workers)


def _write(
    views: Sequence[ViewDefinition], export: Path, folder: Path, intake: Intake, workers: int
) -> list[Path]:
    from gemel.data_adapters.views.run import Passes, scan

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            _working_folder(folder) as scratch,
            ExitStack() as stack,
            Passes(views) as passes,
            Versions(export) as versions,
        ):
            schemas = passes.schemas()
            # Writing takes a fifth of the time: with several workers it has a thread of its own.
            pool = stack.enter_context(ThreadPoolExecutor(max_workers=1)) if workers > 1 else None
            writers = {
                view.name: stack.enter_context(_ViewWriter(scratch / view.name, schemas[view.name], pool))
                for view in views
            }
            for batch in scan(passes, export, intake=intake, workers=workers):
                for read in batch.read:
                    versions.add(batch.file, read)
                for name, rows in batch.tables.items():
                    writers[name].write(batch.file, rows)
            older = versions.find_superseded()
            finished = {name: writer.finish(older) for name, writer in writers.items()}
            return [finished[view.name].replace(folder / f"{view.name}.parquet") for view in views]
    except OSError as error:
        raise GemelError("GEM234", f"{folder} cannot be written: {error.strerror or error}.") from error


def write_tables(tables: Mapping[str, pa.Table], folder: Path) -> list[Path]:
    """Write `folder/NAME.parquet` for each table. Raises GEM234 when a file cannot be written."""
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _working_folder(folder) as scratch:
            for name, table in tables.items():
                written = scratch / f"{name}.parquet"
                pq.write_table(table, written, compression="zstd")
                paths.append(written.replace(folder / written.name))
    except OSError as error:
        raise GemelError("GEM234", f"{folder} cannot be written: {error.strerror or error}.") from error
    return paths


@contextmanager
def _working_folder(folder: Path) -> Iterator[Path]:
    """A folder for this run's unfinished files; what a killed run left is removed: nobody holds its lock."""
    for old in folder.glob(".gemel-*/lock"):
        with suppress(OSError), old.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old.parent, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".gemel-", dir=folder) as name:
        made = Path(name)
        with (made / "new").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (made / "new").rename(made / "lock")  # Named only when it is held.
            yield made


class _ViewWriter:
    """One view's rows on their way to a file, and beside it where each row comes from."""

    def __init__(self, path: Path, schema: pa.Schema, pool: ThreadPoolExecutor | None) -> None:
        """`pool`: of one thread, which writes; without it the calling thread does."""
        self._path = path
        self._pool = pool
        self._writing: Future[None] | None = None
        self._schema = schema.remove(schema.get_field_index("_line"))
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._places = path.with_suffix(".places").open("w+b")
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0

    def __enter__(self) -> _ViewWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._places.close()
        if self._writing is not None:
            wait([self._writing])
        if self._writer.is_open:
            self._writer.close()

    def write(self, file: int, rows: pa.RecordBatch) -> None:
        """Add rows; their first column is `_line`."""
        self._places.write(to_places(file, rows.column("_line")).data)
        self._waiting.append(rows.drop_columns("_line"))
        self._rows += rows.num_rows
        if self._rows >= _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        # One row group for many blocks' rows: one for each would make the file larger and slower to read.
        table = pa.Table.from_batches(self._waiting, self._schema)
        self._waiting.clear()
        self._rows = 0
        if self._pool is None:
            self._write_group(table)
            return
        self._finish_writing()  # No more than one waits.
        self._writing = self._pool.submit(self._write_group, table)

    def _write_group(self, table: pa.Table) -> None:
        self._writer.write_table(table.combine_chunks())

    def _finish_writing(self) -> None:
        if self._writing is not None:
            self._writing.result()

    def finish(self, older: Superseded) -> Path:
        """Close the file, without the rows of superseded lines, and give its path."""
        if self._rows:
            self._flush()
        self._finish_writing()
        self._writer.close()
        self._places.flush()
        if not any(older.is_older(places) is not None for places in self._all_places()):
            return self._path
        kept = self._path.with_suffix(".kept")
        with (
            pq.ParquetWriter(kept, self._schema, compression="zstd") as writer,
            pq.ParquetFile(self._path) as written,
        ):
            groups = range(written.num_row_groups)
            self._places.seek(0)
            for group in groups:
                table = written.read_row_group(group)
                places = np.frombuffer(self._places.read(8 * table.num_rows), np.int64)
                mask = older.is_older(places)
                writer.write_table(table if mask is None else table.filter(pa.array(~mask)))
        return kept

    def _all_places(self) -> Iterator[np.ndarray[Any, Any]]:
        self._places.seek(0)
        while data := self._places.read(8 * _GROUP_ROWS):
            yield np.frombuffer(data, np.int64)
