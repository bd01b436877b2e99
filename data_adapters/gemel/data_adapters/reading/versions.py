"""Which lines a newer version of the same resource replaces, in bounded memory and next to no time when there are none.

While an export is read, a hash of each (type, id) goes to a temporary file, 16 bytes a line. Only if a hash is there
twice are those lines read again, for their version and content.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gemel.core.errors import GemelError
from gemel.data_adapters.reading.intake import Header
from gemel.data_adapters.reading.reader import ReadBlock
from gemel.data_adapters.sources.files import open_export, read_blocks

_LINE_BITS = 40
_ROWS_AT_ONCE = 2_000_000  # 16 MB of hashes
_CANDIDATES_AT_ONCE = 4096
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def to_places(file: int, lines: pa.Array) -> np.ndarray[Any, Any]:
    """A file's index and the numbers of lines in it, each pair in one integer, in the order of the export."""
    # `lines.to_numpy()` would import pandas, which takes as long as reading 200 MB.
    numbers = np.frombuffer(lines.buffers()[1], np.int64)[lines.offset : lines.offset + len(lines)]
    return numbers | np.int64(file << _LINE_BITS)


class _Version(NamedTuple):
    """What decides which of several lines stays."""

    place: int
    resource_type: str
    id: str
    updated: str | None
    version: str | None
    content: str


_SCHEMA = pa.schema(
    [
        ("place", pa.int64()),
        ("resource_type", pa.string()),
        ("id", pa.string()),
        ("updated", pa.string()),
        ("version", pa.string()),
        ("content", pa.string()),
    ]
)
_FIND_OLDER = """
    SELECT resource_type, place FROM (
        SELECT resource_type, place, row_number() OVER (PARTITION BY resource_type, id ORDER BY
            TRY_CAST(updated AS TIMESTAMPTZ) DESC NULLS LAST, TRY_CAST(version AS BIGINT) DESC NULLS LAST,
            version DESC NULLS LAST, content DESC, place) AS rank
        FROM versions) WHERE rank > 1 ORDER BY place"""


class Superseded:
    """The lines that a newer version of the same resource replaces."""

    def __init__(self, types: pa.Array, places: np.ndarray[Any, Any]) -> None:
        self._types = types
        self.places = places

    @property
    def table(self) -> pa.Table:
        """Columns resource_type, file (the index in the intake), line."""
        files = (self.places >> _LINE_BITS).astype(np.int32)
        lines = self.places & ((1 << _LINE_BITS) - 1)
        return pa.table({"resource_type": self._types, "file": files, "line": lines})

    @property
    def counts(self) -> dict[str, int]:
        """How many by resource type."""
        counted = pc.value_counts(self._types)
        return {entry["values"].as_py(): entry["counts"].as_py() for entry in counted}

    def is_older(self, places: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
        """Which of these places (see `to_places`) are superseded; None when none is."""
        if not len(places) or not len(self.places):
            return None
        first, last = np.searchsorted(self.places, [places.min(), places.max() + 1])
        return None if first == last else np.isin(places, self.places[first:last])

    def keep(self, file: int, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The rows, by their column `_line`, of lines that are not superseded."""
        older = self.is_older(to_places(file, rows.column("_line")))
        return rows if older is None else rows.filter(pa.array(~older))


class Versions:
    """Takes in the lines of an export as they are read, and then finds the superseded ones.

    The highest `meta.lastUpdated` stays, then the highest `versionId`; content decides a tie, never the order of
    lines. What it writes lies in a temporary folder that only this user can read, and goes when it is closed.
    """

    def __init__(self, export: Path) -> None:
        self._export = export
        self._folder = tempfile.TemporaryDirectory(prefix="gemel-")
        self._hashes = (Path(self._folder.name) / "hashes").open("w+b")
        self._places = (Path(self._folder.name) / "places").open("w+b")

    def __enter__(self) -> Versions:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the temporary files."""
        self._hashes.close()
        self._places.close()
        self._folder.cleanup()

    def add(self, file: int, *blocks: ReadBlock) -> None:
        """Take in the accepted lines of some blocks; `file` is the index in the intake."""
        for name, table in (item for read in blocks for item in read.tables.items()):
            if table.num_rows:
                self._hashes.write(_hashes(name, table.column("r").field("id")).data)
                self._places.write(to_places(file, table.column("line")).data)

    def superseded(self) -> pa.Table:
        """The superseded lines: columns resource_type, file (the index in the intake), line."""
        return self.find_superseded().table

    def find_superseded(self) -> Superseded:
        """The superseded lines. Raises GEM208 when the export has changed since it was read."""
        places = np.sort(np.concatenate([np.zeros(0, np.int64), *self._repeated()]))
        if not len(places):
            return Superseded(pa.nulls(0, pa.string()), places)
        with duckdb.connect(str(Path(self._folder.name) / "versions.duckdb")) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute("SET memory_limit = '128MB'")
            connection.execute("SET threads = 1")
            connection.execute("SET enable_progress_bar = false")
            connection.from_arrow(_SCHEMA.empty_table()).create("versions")
            for batch in self._candidates(places):
                connection.from_arrow(pa.Table.from_batches([batch])).insert_into("versions")
            found = connection.sql(_FIND_OLDER).to_arrow_table().combine_chunks()
        types = found.column("resource_type").combine_chunks()
        places = found.column("place").combine_chunks()
        return Superseded(types, to_places(0, places))

    def _repeated(self) -> Iterator[np.ndarray[Any, Any]]:
        """The places of hashes that stand there more than once, some of the hashes at a time."""
        self._hashes.flush()
        self._places.flush()
        rows = self._hashes.tell() // 8
        parts = -(-rows // _ROWS_AT_ONCE)
        for part in range(parts):
            chosen = [_of_part(hashes, part, parts)[1] for hashes in self._chunks(rows)]
            ordered = np.sort(np.concatenate(chosen))
            twice = ordered[1:][ordered[1:] == ordered[:-1]]
            if not len(twice):
                continue
            for number, hashes in enumerate(self._chunks(rows)):
                mine, hashes = _of_part(hashes, part, parts)
                places = np.fromfile(
                    self._places.name, np.int64, _ROWS_AT_ONCE, offset=number * _ROWS_AT_ONCE * 8
                )
                yield places[mine][np.isin(hashes, twice)]

    def _chunks(self, rows: int) -> Iterator[np.ndarray[Any, Any]]:
        for start in range(0, rows, _ROWS_AT_ONCE):
            yield np.fromfile(self._hashes.name, np.uint64, _ROWS_AT_ONCE, offset=start * 8)

    def _candidates(self, places: np.ndarray[Any, Any]) -> Iterator[pa.RecordBatch]:
        """Read the lines at these places again."""
        versions: list[_Version] = []
        seen = 0
        for index, file in enumerate(open_export(self._export)):
            mine = places[(places >> _LINE_BITS) == index] & ((1 << _LINE_BITS) - 1)
            if not len(mine):
                continue
            for block in read_blocks(file):
                first, last = np.searchsorted(
                    mine, [block.first_line, block.first_line + block.data.count(b"\n") + 1]
                )
                if first == last:
                    continue
                lines = block.lines
                for line in mine[first:last].tolist():
                    place = line | (index << _LINE_BITS)
                    versions.append(_version(place, lines[line - block.first_line], file.name))
                    seen += 1
                    if len(versions) == _CANDIDATES_AT_ONCE:
                        yield _to_batch(versions)
                        versions.clear()
        if seen != len(places):
            raise GemelError("GEM208", "The export changed while it was read.")
        yield _to_batch(versions)


_decode = msgspec.json.Decoder().decode
_decode_header = msgspec.json.Decoder(Header).decode
_encode_sorted = msgspec.json.Encoder(order="deterministic").encode


def _version(place: int, content: bytes, file_name: str) -> _Version:
    try:
        header, document = _decode_header(content), _decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise GemelError("GEM208", f"{file_name} changed while it was read.") from error
    digest = hashlib.blake2b(_encode_sorted(document), digest_size=16).hexdigest()
    updated, version = (header.meta.lastUpdated, header.meta.versionId) if header.meta else (None, None)
    return _Version(place, header.resourceType, header.id or "", updated, version, digest)


def _to_batch(versions: list[_Version]) -> pa.RecordBatch:
    columns = list(zip(*versions, strict=True)) or [()] * len(_SCHEMA)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def _of_part(hashes: np.ndarray[Any, Any], part: int, parts: int) -> tuple[Any, np.ndarray[Any, Any]]:
    """Which of the hashes belong to a part of them all, and those."""
    if parts == 1:
        return slice(None), hashes
    # The upper half of the bits decides: a shift and a product are cheaper than a remainder.
    mine = ((hashes >> np.uint64(32)) * np.uint64(parts)) >> np.uint64(32) == part
    return mine, hashes[mine]


def _hashes(resource_type: str, ids: pa.Array) -> np.ndarray[Any, Any]:
    """A 64-bit hash of each (type, id), eight bytes of all ids at a time.

    It need not resist anybody: where hashes are equal, the ids themselves are compared.
    """
    _, offsets_buffer, data_buffer = ids.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32)[ids.offset : ids.offset + len(ids) + 1].astype(np.int64)
    # Eight bytes from every position on; the end is padded so that the last id has them too.
    data = np.zeros(int(offsets[-1] - offsets[0]) + 8, np.uint8)
    data[:-8] = np.frombuffer(data_buffer, np.uint8)[offsets[0] : offsets[-1]]
    starts, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    seed = np.frombuffer(hashlib.blake2b(resource_type.encode(), digest_size=8).digest(), np.uint64)[0]
    length = int(lengths[0])
    if (lengths == length).all():
        return _mixed(lambda at: _words(data, at, len(ids), stride=length), len(ids), length, seed)
    words = _words(data, 0, len(data) - 7, stride=1)
    result = np.empty(len(ids), np.uint64)
    for length in np.unique(lengths).tolist():
        chosen = np.flatnonzero(lengths == length)
        positions = starts[chosen]
        result[chosen] = _mixed(lambda at: words[positions + at], len(chosen), length, seed)  # noqa: B023
    return result


def _words(data: np.ndarray[Any, Any], start: int, number: int, *, stride: int) -> np.ndarray[Any, Any]:
    return np.ndarray((number,), np.dtype("<u8"), buffer=data, offset=start, strides=(stride,))


def _mixed(
    word_at: Callable[[int], np.ndarray[Any, Any]], number: int, length: int, seed: np.uint64
) -> np.ndarray[Any, Any]:
    hashed = np.full(number, seed ^ np.uint64(length), np.uint64)
    for at in range(0, length, 8):
        word = word_at(at)
        if at + 8 > length:
            word = word & np.uint64((1 << (8 * (length - at))) - 1)
        hashed ^= word
        hashed *= _MULTIPLIER
        hashed ^= hashed >> np.uint64(32)
    return hashed
