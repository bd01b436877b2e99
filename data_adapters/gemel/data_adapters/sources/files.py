"""An export: a folder of FHIR NDJSON files, plain or gzipped, read in blocks of lines."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from isal import igzip, isal_zlib

from gemel.core.errors import GemelError

_NDJSON_NAME = re.compile(r"\.(ndjson|jsonl|json)(\.gz)?$", flags=re.IGNORECASE)
_NAMES = ".ndjson, .jsonl or .json, plain or .gz"
_BLOCK_BYTES = 1 << 23
_MAX_LINE_BYTES = 1 << 28
# isal's own error; its type stub says too little.
_ISAL_ERROR = cast("type[Exception]", isal_zlib.error)
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class ExportFile:
    """One NDJSON file; `name` is how reports call it."""

    name: str
    path: Path


@dataclass(frozen=True)
class Block:
    """Whole lines of a file, one resource each.

    Attributes:
        data: The lines, LF between them, no byte order mark; a CR before LF and blank lines may stand in it.
        first_line: The number of the first line, from 1.
        places: Where each line stands, when that is not `first_line` and on (an entry of a Bundle).
    """

    data: bytes
    first_line: int
    places: tuple[str, ...] | None = None

    @property
    def lines(self) -> list[bytes]:
        """The lines without their ends; a blank one is b"", so that the numbers stay."""
        lines = self.data.split(b"\n")
        if b"\r" in self.data:
            lines = [line.removesuffix(b"\r") for line in lines]
        return [b"" if line.isspace() else line for line in lines]

    @property
    def is_utf8(self) -> bool:
        """Whether all of it is UTF-8."""
        if self.data.isascii():
            return True
        try:
            self.data.decode("utf-8")
        except UnicodeDecodeError:
            return False
        return True


def open_export(path: Path) -> tuple[ExportFile, ...]:
    """The NDJSON files of an export (a folder, or one file), in the order of their names.

    Raises:
        GemelError: GEM208 when the path is missing, holds no NDJSON file, or a link leads out of the folder.
    """
    files, unread = _entries(path)
    if not files:
        raise GemelError("GEM208", f"{path} holds no NDJSON file ({_NAMES}). Not read: {_some(unread)}.")
    return files


def list_unread(path: Path) -> list[str]:
    """What of an export's folder `open_export` leaves out, as "name: reason"; hidden entries are not named."""
    return _entries(path)[1]


def _entries(path: Path) -> tuple[tuple[ExportFile, ...], list[str]]:
    try:
        if path.is_file():
            reason = _not_ndjson(path)
            return (
                ((ExportFile(path.name, path),), []) if reason is None else ((), [f"{path.name}: {reason}"])
            )
        if not path.is_dir():
            raise GemelError("GEM208", f"There is no export at {path}.")
        folder = path.resolve()
        files, unread = [], []
        for entry in sorted(path.iterdir()):
            if entry.name.startswith("."):
                continue
            reason = _not_ndjson(entry, folder=folder)
            if reason is None:
                files.append(ExportFile(entry.name, entry))
            else:
                unread.append(f"{entry.name}: {reason}")
    # RuntimeError: a link that leads to itself.
    except (OSError, RuntimeError) as error:
        raise GemelError("GEM208", f"{path.name} cannot be read: {error}.") from error
    return tuple(files), unread


def _not_ndjson(entry: Path, *, folder: Path | None = None) -> str | None:
    """Why an entry is not read, or None. Raises GEM208 for one that is named as NDJSON and must not be read."""
    if entry.is_dir():
        return "a folder"
    if not _NDJSON_NAME.search(entry.name):
        return f"its name does not end in {_NAMES}"
    if folder is not None and not entry.resolve().is_relative_to(folder):
        raise GemelError("GEM208", f"{entry.name} leads out of the export's folder.")
    if not entry.is_file():
        raise GemelError("GEM208", f"{entry.name} is no file.")
    if ".json" in entry.name[-8:].lower() and _is_document(ExportFile(entry.name, entry)):
        return "one JSON document over many lines, or an array; NDJSON has one resource a line"
    return None


def _is_document(file: ExportFile) -> bool:
    """True when the first line of text is no whole object, but the start of something longer."""
    for block in read_blocks(file):
        for line in block.lines:
            if line:
                return line.lstrip().startswith(b"[") or not line.rstrip().endswith(b"}")
    return False


def _some(names: list[str]) -> str:
    """The first of them, and how many more."""
    shown = "; ".join(names[:5]) or "nothing is there"
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def read_blocks(file: ExportFile) -> Iterator[Block]:
    """The file's lines in blocks of a few megabytes. A byte order mark and CR before LF are dropped.

    Raises:
        GemelError: GEM208 when the file cannot be read, or its gzip stream is damaged or ends early.
    """
    try:
        with _open(file.path) as stream:
            yield from _split(stream, file.name)
    except (OSError, EOFError, zlib.error, _ISAL_ERROR) as error:
        raise GemelError("GEM208", f"{file.name} cannot be read to its end: {error}.") from error


def _open(path: Path) -> IO[bytes]:
    if path.name.lower().endswith(".gz"):
        return cast("IO[bytes]", igzip.IGzipFile(path, "rb"))  # type: ignore[no-untyped-call]
    return path.open("rb")


def _split(stream: IO[bytes], name: str) -> Iterator[Block]:
    first_line, rest, start = 1, b"", True
    while data := stream.read(_BLOCK_BYTES):
        if start:
            data, start = data.removeprefix(_BOM), False
        data = rest + data
        end = data.rfind(b"\n") + 1
        rest = data[end:]
        if len(rest) > _MAX_LINE_BYTES:
            raise GemelError("GEM208", f"{name} has a line of more than {_MAX_LINE_BYTES} bytes.")
        if end:
            yield Block(data[: end - 1], first_line)
            first_line += data.count(b"\n", 0, end)
    if rest:
        yield Block(rest, first_line)
