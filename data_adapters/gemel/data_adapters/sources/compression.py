"""The bytes of a file, decompressed, in pieces of bounded size: what stands before a damage is given, then the damage is said."""

from __future__ import annotations

import itertools
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from isal import igzip, isal_zlib

from gemel.core.errors import GemelError

# Of what stands before an error in a compressed stream, no more than this is lost.
_STEP_BYTES = 1 << 6
# Any file may grow to this, whatever its ratio: short files of repeated lines compress very well.
_FREE_BYTES = 1 << 28
# zstd's own bound for ordinary decoders: no frame makes the decoder hold more.
_ZSTD_WINDOW_BYTES = 1 << 27
_ZSTD_MAGIC = 0xFD2FB528
_ZSTD_SKIPPABLE = 0x184D2A50
# isal's own error; its type stub says too little.
_ISAL_ERROR = cast("type[Exception]", isal_zlib.error)


@dataclass(frozen=True)
class ReadLimits:
    """Bounds on what one file may make the reader do; memory stays bounded by `max_line_bytes`.

    Attributes:
        max_line_bytes: A longer line is one rejected line; a longer Bundle document is split without being held.
        max_file_bytes: Of one file, after decompression.
        max_ratio: Decompressed size by compressed size, beyond the first 256 MiB.
    """

    max_line_bytes: int = 1 << 25
    max_file_bytes: int = 1 << 44
    max_ratio: int = 500


class DamagedError(Exception):
    """A file that cannot be read to its end; the text says why."""


_STREAM_ERRORS = (OSError, EOFError, zlib.error, _ISAL_ERROR, DamagedError)


def read_pieces(path: Path, *, limits: ReadLimits, piece_bytes: int) -> Iterator[bytes]:
    """The file's bytes, decompressed when its name ends in .gz or .zst.

    Raises:
        DamagedError: After the last byte before the damage.
        GemelError: GEM208 when it cannot be opened; GEM221 when it was changed while it was read.
    """
    with _open_regular(path) as raw:
        before = os.fstat(raw.fileno())
        bound = min(limits.max_file_bytes, max(_FREE_BYTES, limits.max_ratio * before.st_size))
        name, produced = path.name.lower(), 0
        compressed = name.endswith((".gz", ".zst"))
        try:
            for piece in _pieces(raw, name, piece_bytes):
                produced += len(piece)
                if compressed and produced > bound:
                    raise DamagedError(
                        f"{before.st_size} bytes expand to more than {bound}: it looks like a decompression bomb"
                    )
                yield piece
        except _STREAM_ERRORS as error:
            _refuse_change(path, before, os.fstat(raw.fileno()))
            raise DamagedError(str(error)) from error
        _refuse_change(path, before, os.fstat(raw.fileno()))


def _open_regular(path: Path) -> IO[bytes]:
    """Open a file, and nothing else: opening a FIFO or a device may wait for ever, or do something."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise GemelError("GEM208", f"{path.name} is no file.")
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise GemelError("GEM208", f"{path.name} is no file.")
    except OSError as error:
        raise GemelError("GEM208", f"{path.name} cannot be read: {error.strerror}.") from error
    return os.fdopen(descriptor, "rb", buffering=0)


def _refuse_change(path: Path, before: os.stat_result, after: os.stat_result) -> None:
    try:
        now = path.stat()
    except OSError as error:
        raise GemelError("GEM221", f"{path.name} went away while it was read.") from error
    if not _identity(before) == _identity(after) == _identity(now):
        raise GemelError(
            "GEM221",
            f"{path.name} was changed while it was read (size {before.st_size}, now {now.st_size} bytes).",
        )


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _pieces(raw: IO[bytes], name: str, piece_bytes: int) -> Iterator[bytes]:
    """Pieces of exactly `piece_bytes` but for the last; before a damage, all that can be had."""
    if not name.endswith((".gz", ".zst")):
        while piece := raw.read(piece_bytes):
            yield piece
        return
    given = 0
    try:
        for piece in _decompressed(raw, name, itertools.repeat(piece_bytes)):
            yield piece
            given += 1
    except _STREAM_ERRORS:
        # The read that fails gives nothing of what it had: again, and there in small steps.
        raw.seek(0)
        sizes = itertools.chain(itertools.repeat(piece_bytes, given), itertools.repeat(_STEP_BYTES))
        yield from itertools.islice(_decompressed(raw, name, sizes), given, None)


def _decompressed(raw: IO[bytes], name: str, sizes: Iterator[int]) -> Iterator[bytes]:
    if name.endswith(".gz"):
        gzip = igzip.IGzipFile(fileobj=raw, mode="rb")  # type: ignore[no-untyped-call]
        while piece := gzip.read(next(sizes)):
            yield piece
        return
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    with decompressor.stream_reader(raw, read_across_frames=True, closefd=False) as stream:
        try:
            while piece := stream.read(next(sizes)):
                yield piece
        except zstandard.ZstdError as error:
            raise DamagedError(str(error)) from error
    # At a premature end the library says nothing.
    if not _ends_with_a_frame(raw):
        raise DamagedError("the zstd stream ends early")


def _ends_with_a_frame(raw: IO[bytes]) -> bool:
    """Walk the frames and blocks of a zstd file by their sizes (RFC 8878, section 3.1)."""
    size = os.fstat(raw.fileno()).st_size
    at = 0
    while at < size:
        raw.seek(at)
        head = raw.read(18)
        if len(head) < 8:
            return False
        magic, length = struct.unpack_from("<II", head)
        if magic & 0xFFFFFFF0 == _ZSTD_SKIPPABLE:
            at += 8 + length
            continue
        if magic != _ZSTD_MAGIC:
            return False
        flags = head[4]
        single_segment = flags >> 5 & 1
        dictionary = (0, 1, 2, 4)[flags & 3]
        content_size = (single_segment, 2, 4, 8)[flags >> 6]
        at += 5 + (not single_segment) + dictionary + content_size
        last = False
        while not last:
            raw.seek(at)
            block = raw.read(3)
            if len(block) < 3:
                return False
            header = int.from_bytes(block, "little")
            last, kind = bool(header & 1), header >> 1 & 3
            at += 3 + (1 if kind == 1 else header >> 3)
        at += 4 if flags >> 2 & 1 else 0
    return at == size
