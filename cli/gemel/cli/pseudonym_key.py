"""The hospital's secret that turns patient ids into pseudonyms, in a file that only its owner reads."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from gemel.core.errors import GemelError

KEY_NAME = "pseudonym.key"
KEY_BYTES = 32


def read_key(path: Path) -> bytes:
    """The key of a file: 32 bytes, as a node keeps it, or 64 hexadecimal digits.

    Raises:
        GemelError: GEM246 when the file is not there, others may read it, or it holds no such key.
    """
    try:
        mode, content = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise GemelError("GEM246", f"{path} cannot be read: {error.strerror}.") from error
    if mode & 0o077:
        raise GemelError("GEM246", f"Others than its owner may read or write {path} (mode {mode & 0o777:o}).")
    if len(content) == KEY_BYTES:
        return content
    try:
        key = bytes.fromhex(content.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise GemelError(
            "GEM246", f"{path} holds neither {KEY_BYTES} bytes nor {2 * KEY_BYTES} hexadecimal digits."
        )
    return key


def make_key(path: Path) -> bytes:
    """The key of a file, which is made when it is not there. Raises GEM246."""
    try:
        # Made by one process only, and never readable by others, not even for a moment.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return read_key(path)
    except OSError as error:
        raise GemelError("GEM246", f"{path} cannot be made: {error.strerror}.") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES).hex().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return read_key(path)
