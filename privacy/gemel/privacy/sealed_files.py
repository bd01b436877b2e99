"""Files sealed under a passphrase, written and read as streams: backups hold keys and ledgers, and lie on other people's disks.

scrypt (N = 2^17, r = 8, p = 1) makes the key; ChaCha20-Poly1305 seals chunks of 1 MiB, each under its number and whether it is
the last, so that chunks cannot be left out, swapped or cut off at the end (the STREAM construction, Hoang et al. 2015).
"""

from __future__ import annotations

import io
import os
import stat
import struct
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from gemel.core.errors import GemelError

MAGIC = b"gemel sealed 1\n"
CHUNK = 1 << 20
MINIMUM_PASSPHRASE = 12
_SALT, _TAG = 32, 16


def read_passphrase(path: Path) -> bytes:
    """The passphrase in a file, without the end of its line. Raises GEM528 when others can read the file, or it is short."""
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise GemelError("GEM528", f"{path} can be read by others: chmod 600.")
            passphrase = file.read(4096).rstrip(b"\r\n")
    except OSError as error:
        raise GemelError("GEM528", f"{path} cannot be read: {error.strerror}.") from error
    if len(passphrase) < MINIMUM_PASSPHRASE:
        raise GemelError("GEM528", f"The passphrase in {path} is shorter than {MINIMUM_PASSPHRASE} bytes.")
    return passphrase


class SealedWriter(io.RawIOBase):
    """Seals what is written to it; only after `close` is the file whole."""

    def __init__(self, target: BinaryIO, passphrase: bytes) -> None:
        salt = os.urandom(_SALT)
        target.write(MAGIC + salt)
        self._target, self._cipher = target, _cipher(passphrase, salt)
        self._pending = bytearray()
        self._number = 0

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, content: object) -> int:
        """Take some bytes; whole chunks go out sealed."""
        view = memoryview(content).cast("B")  # type: ignore[arg-type]
        self._pending += view
        while len(self._pending) > CHUNK:  # the last chunk is held back, to be marked as such
            self._seal(bytes(self._pending[:CHUNK]), last=False)
            del self._pending[:CHUNK]
        return len(view)

    def close(self) -> None:
        """Write the last chunk; the target stays open."""
        if not self.closed:
            self._seal(bytes(self._pending), last=True)
            super().close()

    def _seal(self, chunk: bytes, *, last: bool) -> None:
        self._target.write(self._cipher.encrypt(_nonce(self._number, last=last), chunk, MAGIC))
        self._number += 1


class SealedReader(io.RawIOBase):
    """Opens what `SealedWriter` sealed. Raises GEM528 for another passphrase, and for whatever was changed or cut off."""

    def __init__(self, source: BinaryIO, passphrase: bytes) -> None:
        header = source.read(len(MAGIC) + _SALT)
        if not header.startswith(MAGIC) or len(header) != len(MAGIC) + _SALT:
            raise GemelError("GEM528", "Not a backup: it does not begin like one.")
        self._source, self._cipher = source, _cipher(passphrase, header[len(MAGIC) :])
        self._ahead = source.read(CHUNK + _TAG)
        self._opened = b""
        self._number = 0
        self._ended = False

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: object) -> int:
        """Fill a buffer with what was sealed; 0 at the end of a whole file."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        while not self._opened and not self._ended:
            self._open_next()
        part = self._opened[: len(view)]
        view[: len(part)] = part
        self._opened = self._opened[len(part) :]
        return len(part)

    def _open_next(self) -> None:
        chunk, self._ahead = self._ahead, self._source.read(CHUNK + _TAG)
        last = not self._ahead
        try:
            self._opened = self._cipher.decrypt(_nonce(self._number, last=last), chunk, MAGIC)
        except InvalidTag as error:
            raise GemelError(
                "GEM528",
                "The passphrase is another, or the backup was changed or cut off.",
            ) from error
        self._number += 1
        self._ended = last


def _cipher(passphrase: bytes, salt: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(Scrypt(salt=salt, length=32, n=1 << 17, r=8, p=1).derive(passphrase))


def _nonce(number: int, *, last: bool) -> bytes:
    return struct.pack(">QI", number, int(last))
