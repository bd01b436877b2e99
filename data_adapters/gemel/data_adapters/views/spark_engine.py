"""Views on Spark, for exports that outgrow one machine: the same tree, over the lines that the same reader accepted.

The reader writes what it accepted to Parquet, with the types that the views see on DuckDB; Spark reads that with an
explicit schema. So both engines have the same rows and the same account. PySpark is imported only here.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from gemel.core.errors import GemelError
from gemel.data_adapters.reading.intake import Intake
from gemel.data_adapters.reading.reader import open_reader
from gemel.data_adapters.reading.shape import Shape
from gemel.data_adapters.reading.versions import Versions, to_places
from gemel.data_adapters.sources.files import list_unread, open_export, read_blocks
from gemel.data_adapters.views.compiler import (
    DEEPER,
    FIRST_DEPTH,
    MAX_DEPTH,
    CompiledView,
    compile_views,
    rows_schema,
)
from gemel.data_adapters.views.dialects import spark_sql
from gemel.data_adapters.views.view_definition import ViewDefinition

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_OLDER = "superseded.parquet"
_Result = TypeVar("_Result")


@contextmanager
def open_session(master: str | None = None) -> Iterator[SparkSession]:
    """A Spark session: on this machine, or on the cluster of `master` or of the surrounding `spark-submit`.

    Raises:
        GemelError: GEM233 when PySpark or a Java runtime is missing.
    """
    try:
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise GemelError("GEM233", "PySpark is not installed: pip install gemel[spark].") from error
    builder = SparkSession.builder.appName("gemel").config("spark.sql.session.timeZone", "UTC")
    running = SparkSession.getActiveSession()
    if running is None and (master is None or master.startswith("local")):
        # Nothing listens beyond this machine, and no page shows what runs.
        for key, value in {
            "spark.master": master or "local[*]",
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
        }.items():
            builder = builder.config(key, value)
    elif master is not None:
        builder = builder.master(master)
    try:
        session = running or builder.getOrCreate()
    except (PySparkException, OSError, RuntimeError) as error:
        raise GemelError("GEM233", f"Spark does not start: {str(error).splitlines()[0]}.") from error
    try:
        yield session
    finally:
        if running is None:
            session.stop()


def write_with_spark(
    views: Sequence[ViewDefinition],
    export: Path,
    folder: Path,
    *,
    intake: Intake,
    master: str | None = None,
    scratch: Path | None = None,
) -> list[Path]:
    """Run views on Spark and write `folder/NAME.parquet`, a folder of Parquet files, for each.

    Args:
        views: The views; their names differ.
        export: Folder of NDJSON files, or one file.
        folder: Where the results go; on a cluster every machine reaches it.
        intake: The account that the lines are entered into.
        master: The cluster, as Spark names it; None for this machine.
        scratch: A folder for the accepted lines meanwhile; on a cluster every machine reaches it.

    Raises:
        GemelError: GEM208, GEM209, GEM232 as `scan`; GEM233 without Spark; GEM234 when nothing can be written.
    """
    with open_session(master) as session:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".gemel-", dir=scratch or folder) as made:
                return _write(session, views, export, folder, Path(made), intake)
        except OSError as error:
            raise GemelError("GEM234", f"{folder} cannot be written: {error.strerror or error}.") from error


def _write(
    session: SparkSession,
    views: Sequence[ViewDefinition],
    export: Path,
    folder: Path,
    made: Path,
    intake: Intake,
) -> list[Path]:
    def write(frames: Mapping[str, DataFrame]) -> list[Path]:
        for name, frame in frames.items():
            frame.write.mode("overwrite").parquet(str(made / name))
        return [made / view.name for view in views]

    written = run_on_spark(session, views, export, made, write, intake=intake)
    paths = []
    for path in written:
        target = folder / f"{path.name}.parquet"
        if target.is_dir():
            shutil.rmtree(target)
        paths.append(path.replace(target))
    return paths


def run_on_spark(
    session: SparkSession,
    views: Sequence[ViewDefinition],
    export: Path,
    made: Path,
    use: Callable[[Mapping[str, DataFrame]], _Result],
    *,
    intake: Intake,
) -> _Result:
    """Run views in a session: `use` is given their rows, and its result is given back.

    Args:
        session: The session.
        views: The views; their names differ.
        export: Folder of NDJSON files, or one file.
        made: An empty folder for the accepted lines; every machine of a cluster reaches it.
        use: What to do with the rows, by the view's name. It is called again when a `repeat` must go deeper.
        intake: The account that the lines are entered into.

    Raises:
        GemelError: GEM208, GEM209, GEM232 as `scan`.
    """
    depth = FIRST_DEPTH
    while True:
        compiled, shapes = compile_views(views, depth=depth)
        rows, account = made / f"rows{depth}", Intake()
        _write_rows(export, shapes, rows, account)
        try:
            result = use(_frames(session.newSession(), compiled, shapes, rows))
        except Exception as error:
            if DEEPER not in str(error):
                raise _refusal(error) from error
        else:
            intake.files[:], intake.unread[:], intake.rejects[:] = (
                account.files,
                account.unread,
                account.rejects,
            )
            intake.by_code.update(account.by_code)
            return result
        if depth >= MAX_DEPTH:
            raise GemelError("GEM232", f"A resource has more than {depth} levels of repeat.")
        depth = min(depth * 3 // 2, MAX_DEPTH)


def _write_rows(export: Path, shapes: Mapping[str, Shape], folder: Path, intake: Intake) -> None:
    """Read the export, and write the accepted rows of each type, and where those stand that are superseded."""
    reader = open_reader(shapes)
    intake.unread = list_unread(export)
    folder.mkdir()
    with ExitStack() as stack, Versions(export) as versions:
        writers = {
            name: stack.enter_context(pq.ParquetWriter(folder / name, rows_schema(shape), compression="zstd"))
            for name, shape in shapes.items()
        }
        for file in open_export(export):
            index = intake.add_file(file.name)
            for block in read_blocks(file):
                read = reader.read(block)
                intake.take_in(index, block, read)
                versions.add(index, read)
                for name, table in read.tables.items():
                    if table.num_rows:
                        writers[name].write_batch(_placed(index, table, writers[name].schema))
        older = versions.find_superseded()
        pq.write_table(pa.table({"_line": older.places}), folder / _OLDER)


def _placed(file: int, table: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The rows with their place in the export for `_line`."""
    places = pa.array(to_places(file, table.column("line")))
    return pa.RecordBatch.from_arrays([places, *table.column("r").flatten()], schema=schema)


def _frames(
    session: SparkSession, compiled: Sequence[CompiledView], shapes: Mapping[str, Shape], folder: Path
) -> dict[str, DataFrame]:
    older = session.read.schema("_line BIGINT").parquet(str(folder / _OLDER))
    for name, shape in shapes.items():
        columns = ", ".join(f"`{field.name}` {_spark_type(field.type)}" for field in rows_schema(shape))
        rows = session.read.schema(columns).parquet(str(folder / name))
        rows.join(older, "_line", "left_anti").createOrReplaceTempView(name)
    return {one.view.name: session.sql(spark_sql(one.tree)).drop("_line") for one in compiled}


def _spark_type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"ARRAY<{_spark_type(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return f"STRUCT<{', '.join(f'`{field.name}`: {_spark_type(field.type)}' for field in kind)}>"
    return {pa.string(): "STRING", pa.int64(): "BIGINT", pa.float64(): "DOUBLE", pa.bool_(): "BOOLEAN"}[kind]


def _refusal(error: Exception) -> Exception:
    """The error of a view that gives more than one value, in our words; others as they are."""
    found = re.search(r"[^\n]*gives more than one value", str(error))
    return error if found is None else GemelError("GEM209", f"A view failed on Spark: {found.group(0)}.")
