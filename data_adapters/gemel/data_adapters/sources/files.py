"""An export: a folder of FHIR files (NDJSON, Bundles, documents; plain, gzipped or zstd), read in blocks of lines."""

from __future__ import annotations

import itertools
import re
import stat
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gemel.core.errors import GemelError
from gemel.data_adapters.sources.bundles import Unpacked, head_of, may_be_bundle, unpack
from gemel.data_adapters.sources.compression import DamagedError, ReadLimits, read_pieces
from gemel.data_adapters.sources.documents import TOO_LONG, read_document

_NAME = re.compile(r"\.(ndjson|jsonl|json)(\.gz|\.zst)?$", flags=re.IGNORECASE)
_DOCUMENT_NAME = re.compile(r"\.json(\.gz|\.zst)?$", flags=re.IGNORECASE)
_NAMES = ".ndjson, .jsonl or .json, plain, .gz or .zst"
_BLOCK_BYTES = 1 << 23
_LF = 10
_BOM = b"\xef\xbb\xbf"

MANIFEST_NAME = "manifest.json"
DELETED_FOLDER = "deleted"
ERROR_FOLDER = "error"
UNFINISHED_NAME = ".gemel-export.json"
# What other bulk clients leave beside the resources.
_LOG_NAME = "log.ndjson"


@dataclass(frozen=True)
class ExportFile:
    """One file of an export; `name` is how reports call it."""

    name: str
    path: Path


@dataclass(frozen=True)
class Damage:
    """A file that cannot be read to its end: what stands before the damage was read."""

    file: str
    reason: str


@dataclass(frozen=True)
class Block:
    """Whole lines of a file, one resource each.

    Attributes:
        data: The lines, LF between them, no byte order mark; a CR before LF and blank lines may stand in it.
        first_line: The number of the first line, from 1; of files with Bundles, among the lines made of them.
        places: Where each line stands, when that is not `first_line` and on: "12 entry[3]", the line and the entry.
        too_long: The lines (from 0) that stand for one over the limit; they are no JSON, so each is one rejected line.
        deleted: What the Bundles of this block ask to delete, as (type, id).
    """

    data: bytes
    first_line: int
    places: tuple[str, ...] | None = None
    too_long: tuple[int, ...] = ()
    deleted: tuple[tuple[str, str], ...] = ()

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

    def place(self, offset: int) -> str:
        """Where the line (from 0) stands in its file, for people."""
        return self.places[offset] if self.places is not None else str(self.first_line + offset)


def open_export(path: Path) -> tuple[ExportFile, ...]:
    """The files of an export (a folder without its subfolders, or one file), in the order of their names.

    Raises:
        GemelError: GEM208 when the path is missing, holds no such file, holds an export that was not fetched to its
            end, or a link leads out of the folder.
    """
    files, unread = _entries(path)
    if not files:
        if not unread:
            raise GemelError(
                "GEM208", f"{path} is empty.", hint="Check the path, and that the export was written."
            )
        raise GemelError(
            "GEM208",
            f"{path} holds no NDJSON file. Not read: {_some(unread)}.",
            hint=f"Check the path; the names of an export's files end in {_NAMES}.",
        )
    return files


def list_unread(path: Path) -> list[str]:
    """What of an export's folder `open_export` leaves out, as "name: reason"; hidden entries are not named."""
    return _entries(path)[1]


def _entries(path: Path) -> tuple[tuple[ExportFile, ...], list[str]]:
    try:
        if path.is_file():
            reason = _not_read(path)
            return (
                ((ExportFile(path.name, path),), []) if reason is None else ((), [f"{path.name}: {reason}"])
            )
        if not path.is_dir():
            raise GemelError("GEM208", f"There is no export at {path}.")
        if (path / UNFINISHED_NAME).exists():
            raise GemelError(
                "GEM208",
                f"The export in {path} was not fetched to its end: fetch it again into the same folder.",
            )
        folder = path.resolve()
        files, unread = [], []
        for entry in sorted(path.iterdir()):
            if entry.name.startswith(".") or entry.name in (MANIFEST_NAME, DELETED_FOLDER):
                continue
            reason = _not_read(entry, folder=folder)
            if reason is None:
                files.append(ExportFile(entry.name, entry))
            else:
                unread.append(f"{entry.name}: {reason}")
    # RuntimeError: a link that leads to itself.
    except (OSError, RuntimeError) as error:
        raise GemelError("GEM208", f"{path.name} cannot be read: {error}.") from error
    return tuple(files), unread


def _not_read(entry: Path, *, folder: Path | None = None) -> str | None:
    """Why an entry is not read, or None. Raises GEM208 for one that is named as NDJSON and must not be read."""
    if folder is not None and entry.name == ERROR_FOLDER:
        return "what the server could not export"
    if entry.is_dir():
        return "a folder"
    if folder is not None and entry.name == _LOG_NAME:
        return "the log of an export"
    if not _NAME.search(entry.name):
        return f"its name does not end in {_NAMES}"
    if folder is not None and not entry.resolve().is_relative_to(folder):
        raise GemelError("GEM208", f"{entry.name} leads out of the export's folder.")
    if not stat.S_ISREG(entry.stat().st_mode):
        raise GemelError("GEM208", f"{entry.name} is no file.")
    return None


def _some(names: list[str]) -> str:
    """The first of them, and how many more."""
    shown = "; ".join(names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def read_blocks(
    file: ExportFile,
    *,
    on_damage: Callable[[Damage], None] | None = None,
    limits: ReadLimits | None = None,
    block_bytes: int | None = None,
) -> Iterator[Block]:
    """The file's lines in blocks of a few megabytes. A byte order mark and CR before LF are dropped.

    Bundles are taken apart: documents, and files of lines whose first is a Bundle. (A Bundle among other resources is
    rejected by the readers; looking for one in every line would cost a fifth of the speed.)

    Args:
        file: What to read.
        on_damage: Called once when the file cannot be read to its end, after what stands before was given.
        limits: Other bounds than the usual.
        block_bytes: Smaller blocks than the usual: what stays in the processor's cache is read faster.

    Raises:
        GemelError: GEM208 when the file cannot be opened; GEM220 when it is damaged and `on_damage` is None; GEM221
            when it was changed while it was read.
    """
    limits = limits or ReadLimits()
    size = min(block_bytes or _BLOCK_BYTES, _BLOCK_BYTES, limits.max_line_bytes)

    def chunks() -> Generator[bytes]:
        # Large enough for the byte order mark.
        pieces = read_pieces(file.path, limits=limits, piece_bytes=max(size, len(_BOM)))
        yield next(pieces, b"").removeprefix(_BOM)
        yield from pieces

    try:
        stream = chunks()
        head = next(stream, b"")
        if _DOCUMENT_NAME.search(file.name) and _is_document(head, whole=len(head) < size - len(_BOM)):
            stream.close()
            yield from _blocks(read_document(chunks, limits=limits))
        elif may_be_bundle(head.lstrip().partition(b"\n")[0]):
            yield from _blocks(_unpacked(_lines(itertools.chain((head,), stream), limits)))
        else:
            yield from _lines(itertools.chain((head,), stream), limits)
    except DamagedError as error:
        if on_damage is None:
            raise GemelError("GEM220", f"{file.name} cannot be read to its end: {error}.") from error
        on_damage(Damage(file.name, str(error)))


def _is_document(head: bytes, *, whole: bool) -> bool:
    """True when the first line of text is no whole object, but the start of something longer."""
    first, end, rest = head.lstrip().partition(b"\n")
    if not first.startswith((b"{", b"[")):
        return False
    if first.startswith(b"["):
        return True
    if not end:
        return not whole
    # A line that was cut, before lines of resources, is no start of a document.
    return head_of(first) is None and head_of(rest.lstrip().partition(b"\n")[0]) is None


def _lines(chunks: Iterator[bytes], limits: ReadLimits) -> Iterator[Block]:
    """Blocks of lines; a line over the limit is dropped piece by piece, and a stand-in takes its number."""
    first_line, rest, skipping, too_long = 1, b"", False, False
    damage = None
    try:
        for chunk in chunks:
            start = 0
            if skipping or len(rest) + len(chunk) > limits.max_line_bytes:
                cut = chunk.find(b"\n")
                if skipping or len(rest) + (cut if cut >= 0 else len(chunk)) > limits.max_line_bytes:
                    rest, skipping, too_long = TOO_LONG, cut < 0, True
                    if skipping:
                        continue
                    start = cut
            end = chunk.rfind(b"\n", start)
            if end < 0:
                rest += chunk[start:]
                continue
            data = b"".join((rest, memoryview(chunk)[start:end]))
            rest = chunk[end + 1 :]
            yield Block(data, first_line, too_long=(0,) if too_long else ())
            # Four times as fast as bytes.count.
            first_line += 1 + int(np.count_nonzero(np.frombuffer(data, np.uint8) == _LF))
            too_long = False
    except DamagedError as error:
        damage = error
    if rest:
        yield Block(rest, first_line, too_long=(0,) if too_long else ())
    if damage is not None:
        raise damage


def _unpacked(blocks: Iterator[Block]) -> Iterator[Unpacked]:
    """Lines that may be Bundles, taken apart one by one."""
    for block in blocks:
        for offset, line in enumerate(block.lines):
            if not line:
                continue
            found, place = Unpacked(), str(block.first_line + offset)
            if may_be_bundle(line):
                unpack(line, place, found)
            else:
                found.add(line, place)
            yield found


def _blocks(parts: Iterator[Unpacked]) -> Iterator[Block]:
    """Unpacked lines put together to blocks of the usual size."""
    first_line, held, size = 1, Unpacked(), 0
    damage = None
    try:
        for part in parts:
            held.lines.extend(part.lines)
            held.places.extend(part.places)
            held.deleted.extend(part.deleted)
            size += sum(map(len, part.lines))
            if size >= _BLOCK_BYTES:
                yield _block(held, first_line)
                first_line += len(held.lines)
                held, size = Unpacked(), 0
    except DamagedError as error:
        damage = error
    if held.lines or held.deleted:
        yield _block(held, first_line)
    if damage is not None:
        raise damage


def _block(found: Unpacked, first_line: int) -> Block:
    too_long = tuple(i for i, line in enumerate(found.lines) if line == TOO_LONG)
    places = tuple(place or "1" for place in found.places)
    return Block(b"\n".join(found.lines), first_line, places, too_long, tuple(found.deleted))
