"""Lines that wait until the whole export is read, in private files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pyarrow as pa


class WaitingLines:
    """Batches of lines by resource type, kept on the disk until they are taken back; the files go at the end."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="gemel-waiting-")
        self._writers: dict[str, pa.ipc.RecordBatchStreamWriter] = {}

    def __enter__(self) -> WaitingLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._writers.values():
            writer.close()
        self._folder.cleanup()

    def add(self, resource: str, lines: pa.Table) -> None:
        """Keep lines of a type."""
        if resource not in self._writers:
            self._writers[resource] = pa.ipc.new_stream(str(self._path(resource)), lines.schema)
        self._writers[resource].write_table(lines)

    def take(self) -> Iterator[tuple[str, pa.Table]]:
        """All that was kept, a type after the other, in batches as they came. Nothing can be added any more."""
        for resource, writer in sorted(self._writers.items()):
            writer.close()
            with pa.ipc.open_stream(str(self._path(resource))) as reader:
                for batch in reader:
                    yield resource, pa.Table.from_batches([batch])

    def _path(self, resource: str) -> Path:
        return Path(self._folder.name) / f"{resource}.arrows"
