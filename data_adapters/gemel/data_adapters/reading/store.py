"""Resources in DuckDB: one table per resource type, holding only the elements that views read, newest versions only."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import msgspec
import pyarrow as pa

from gemel.core.errors import GemelError
from gemel.data_adapters.reading.intake import Fault, Header, Intake, Judge, type_fault
from gemel.data_adapters.reading.json_line import NOT_JSON
from gemel.data_adapters.reading.shape import Shape, quote_name, quote_text

_BATCH_LINES = 16_384


def run(connection: duckdb.DuckDBPyConnection, sql: str, parameters: object = None) -> list[tuple[Any, ...]]:
    """Run a statement to its end and give its rows (a result left open blocks the connection)."""
    rows: list[tuple[Any, ...]] = connection.execute(sql, parameters).fetchall()
    return rows


def line_check(shapes: Mapping[str, Shape], judge: Judge | None = None) -> Judge:
    """The given judge, and then whether the line has the types that the shapes say."""
    decoders = {name: msgspec.json.Decoder(shape.line_type()) for name, shape in shapes.items()}

    def check(header: Header, content: bytes) -> Fault | None:
        fault = judge(header, content) if judge is not None else None
        decoder = decoders.get(header.resourceType)
        if fault is None and decoder is not None:
            checked = _decode(decoder, content)
            return checked if isinstance(checked, Fault) else None
        return fault

    return check


def _decode(decoder: msgspec.json.Decoder[Any], content: bytes) -> Any:
    """The elements of a line that views read, or the `Fault` when they have not their types."""
    try:
        return decoder.decode(content)
    except msgspec.ValidationError as error:
        return type_fault(error)
    except NOT_JSON as error:
        return Fault("GEM201", "$", f"not JSON: {error}")


_encode = msgspec.json.Encoder().encode


class Store:
    """A DuckDB database in memory that can reach neither files nor the network.

    Lines are pushed in with an explicit schema (`from_json` over Arrow batches, so that nothing is written to a disk
    and each row keeps its place). DuckDB turns an ill-typed element into NULL without a word, and reads odd JSON in
    its own way; therefore msgspec decodes each line against the same schema, and DuckDB is given only what msgspec
    read, written again. That is also shorter, so faster.
    """

    def __init__(self) -> None:
        # What does not fit into memory spills here, readable by this user only, and goes when the store is closed.
        self._spill = tempfile.TemporaryDirectory(prefix="gemel-")
        self.connection = duckdb.connect(":memory:")
        self.run("SET TimeZone = 'UTC'")
        self.run("SET enable_progress_bar = false")  # It would be drawn into a command's result.
        self.run(f"SET temp_directory = {quote_text(self._spill.name)}")
        self.run("SET enable_external_access = false")
        self.run("SET lock_configuration = true")
        self.superseded: dict[str, int] = {}

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()
        self._spill.cleanup()

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a statement to its end and give its rows."""
        return run(self.connection, sql)

    def load(self, export: Path, shapes: Mapping[str, Shape], *, judge: Judge | None = None) -> Intake:
        """Read an export once into a table for each resource type in `shapes`; others are only counted.

        Args:
            export: Folder of NDJSON files, or one file.
            shapes: The elements to keep, by resource type.
            judge: Further rules for a line; those it finds at fault are rejected.

        Raises:
            GemelError: GEM208 when the export cannot be read.
        """
        intake = Intake()
        decoders = {name: msgspec.json.Decoder(shape.line_type()) for name, shape in shapes.items()}
        for name, shape in shapes.items():
            self.run(f"CREATE TABLE {quote_name(name)} (r {shape.duckdb_type()})")
        waiting: dict[str, list[bytes]] = {name: [] for name in shapes}
        for line in intake.read(export, judge):
            name = line.header.resourceType
            if name not in decoders:
                continue
            read = _decode(decoders[name], line.content)
            if isinstance(read, Fault):
                intake.take_back(line, read)
                continue
            batch = waiting[name]
            batch.append(_encode(read))
            if len(batch) == _BATCH_LINES:
                self._insert(name, shapes[name], batch)
                batch.clear()
        for name, batch in waiting.items():
            self._insert(name, shapes[name], batch)
            self._verify(name, intake)
            self._keep_newest(name)
        return intake

    def _insert(self, name: str, shape: Shape, batch: list[bytes]) -> None:
        structure = quote_text(msgspec.json.encode(shape.duckdb_structure()).decode())
        lines = pa.table({"line": pa.array(batch, pa.binary()).cast(pa.string())})
        self.connection.register("gemel_batch", lines)
        try:
            self.run(f"INSERT INTO {quote_name(name)} SELECT from_json(line, {structure}) FROM gemel_batch")
        finally:
            self.connection.unregister("gemel_batch")

    def _verify(self, name: str, intake: Intake) -> None:
        """Refuse (GEM208) when the table does not hold exactly the accepted lines."""
        [(rows,)] = self.run(f"SELECT count(r) FROM {quote_name(name)}")
        expected = sum(file.types.get(name, 0) for file in intake.files)
        if rows != expected:
            raise GemelError("GEM208", f"{expected} {name} lines were accepted, {rows} were read.")

    def _keep_newest(self, name: str) -> None:
        """Keep the highest meta.lastUpdated, versionId of each id; content decides a tie, never the order of lines."""
        table = quote_name(name)
        [(older,)] = self.run(f"SELECT count(r.id) - count(DISTINCT r.id) FROM {table}")
        self.superseded[name] = older
        if not older:
            return
        self.run(f"""
            CREATE TABLE newest AS SELECT r FROM {table}
            QUALIFY r.id IS NULL OR row_number() OVER (PARTITION BY r.id ORDER BY
                TRY_CAST(r.meta.lastUpdated AS TIMESTAMPTZ) DESC NULLS LAST,
                TRY_CAST(r.meta.versionId AS BIGINT) DESC NULLS LAST,
                r.meta.versionId DESC NULLS LAST, CAST(r AS VARCHAR) DESC) = 1""")
        self.run(f"DROP TABLE {table}")
        self.run(f"ALTER TABLE newest RENAME TO {table}")
