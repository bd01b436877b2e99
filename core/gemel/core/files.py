"""Files that survive a crash: they appear whole, or not at all."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path


def write_durably(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write, fsync, rename, fsync the folder: after return the content is on disk under its name.

    Args:
        path: The file; what stood there is replaced.
        content: All of it.
        mode: Who may read a new file, less the umask; 0o600 for its owner alone.

    Raises:
        OSError: It cannot be written; the file of before stands, and nothing else is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:  # a full disk: the unfinished file would fill it further
        temporary.unlink(missing_ok=True)
        raise
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def takes_no_writes(error: BaseException) -> bool:
    """Whether an error says that the disk is full, read-only or broken, by itself or through what caused it.

    SQLite tells it as a text of its own.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            return True
        if isinstance(seen, sqlite3.OperationalError) and any(
            words in str(seen) for words in ("disk is full", "disk I/O error", "readonly database")
        ):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
