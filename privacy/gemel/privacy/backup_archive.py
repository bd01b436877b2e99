"""A home in one sealed file: what was put in, and a signed manifest of it at the end; taken out again whole, or not at all."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import os
import re
import shutil
import sqlite3
import tarfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from gemel.core.errors import GemelError
from gemel.core.signing import SignedDocument, SigningKey, read_signed, sign_document
from gemel.core.software import software_versions
from gemel.privacy.sealed_files import SealedReader, SealedWriter

KIND = "backup"
SCHEMA = "gemel/backup/1"
_MANIFEST = "manifest.json"
# Names as we make them: no dots at the start of a part, nothing absolute.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._@-]*)*")
_MOST_ENTRIES = 1_000_000
_DATABASES = (".sqlite", ".db")
_PASSING = (".log", ".lock", ".pid", ".old", ".tmp")


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a backup holds: name -> SHA-256 of each file, in whose home (`what`: "coordinator" or "node"; `of`: its name)."""

    schema: str
    what: str
    of: str
    made_at: str
    software: dict[str, str]
    files: dict[str, str]


@dataclass
class Archive:
    """A backup being written."""

    tar: tarfile.TarFile
    files: dict[str, str]

    def add(self, name: str, path: Path) -> None:
        """Put a file in, as it is now; what is appended meanwhile is left out, what went away is no error."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return
        with file:
            size = os.fstat(file.fileno()).st_size
            self._add(name, file, size, mode=os.fstat(file.fileno()).st_mode & 0o700)

    def add_sqlite(self, name: str, path: Path, *, workspace: Path) -> None:
        """Put a consistent snapshot of a SQLite database in, while others write to it."""
        if not path.exists():
            return
        snapshot = workspace / f".{path.name}.{os.getpid()}.snapshot"
        try:
            with (
                closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=60)) as source,
                closing(sqlite3.connect(snapshot)) as target,
            ):
                source.backup(target)
            self.add(name, snapshot)
        except sqlite3.Error as error:
            raise GemelError("GEM528", f"{path} cannot be copied: {error}.") from error
        finally:
            for leftover in workspace.glob(f"{snapshot.name}*"):
                leftover.unlink()

    def add_home(self, folder: Path, *, leave_out: Collection[str]) -> None:
        """Put a home in: all but the names given, logs, locks, sockets and what was half written.

        What names other files goes first (`*.anchor`, `state.json`): they were written before it. Databases go in as snapshots.
        """
        found = [path for path in _files(folder) if not _left_out(path.relative_to(folder), leave_out)]
        for path in sorted(
            found, key=lambda path: (path.suffix != ".anchor", path.name != "state.json", path)
        ):
            name = path.relative_to(folder).as_posix()
            if path.suffix in _DATABASES:
                self.add_sqlite(name, path, workspace=folder)
            else:
                self.add(name, path)

    def _add(self, name: str, file: BinaryIO, size: int, *, mode: int) -> None:
        if not _NAME.fullmatch(name):
            raise GemelError("GEM528", f"The file name {name!r} is none that a home holds.")
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = size, mode
        hashing = _Hashing(file, size)
        self.tar.addfile(entry, hashing)
        self.files[name] = hashing.hexdigest()


def write(
    path: Path, passphrase: bytes, key: SigningKey, *, what: str, of: str, fill: Iterable[Any]
) -> SignedDocument:
    """Write a backup to a new file (0600), and return its signed manifest.

    Args:
        path: Must not exist.
        passphrase: Under which it is sealed.
        key: Signs the manifest.
        what: "coordinator" or "node".
        of: The federation's or hospital's name.
        fill: Functions that put files into the archive, in this order.

    Raises:
        GemelError: GEM528; nothing is left then.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise GemelError("GEM528", f"{path} cannot be made: {error.strerror}.") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            with SealedWriter(file, passphrase) as sealed, tarfile.open(fileobj=sealed, mode="w|") as tar:
                archive = Archive(tar, {})
                for put in fill:
                    put(archive)
                manifest = Manifest(
                    schema=SCHEMA,
                    what=what,
                    of=of,
                    made_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
                    software=software_versions(),
                    files=archive.files,
                )
                document = sign_document(KIND, msgspec.to_builtins(manifest), key, role=what)
                content = document.to_bytes()
                entry = tarfile.TarInfo(_MANIFEST)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return document


def extract(path: Path, passphrase: bytes, folder: Path, *, what: str) -> tuple[Manifest, SignedDocument]:
    """Take a backup out into a folder that does not exist yet; every file is as it was put in, or there is no folder.

    Raises:
        GemelError: GEM528 for another passphrase, a backup that was changed, or is of something else, a folder that exists.
    """
    if folder.exists():
        raise GemelError(
            "GEM528", f"{folder} exists: a backup is restored into a new folder, never over a home."
        )
    unfinished = folder.with_name(f".{folder.name}.restoring")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True, mode=0o700)
    try:
        with path.open("rb") as file:
            found, content = _unpack(io.BufferedReader(SealedReader(file, passphrase), 1 << 20), unfinished)
        document = read_signed(content, kind=KIND)
        manifest = msgspec.convert(document.payload, Manifest)
        if manifest.schema != SCHEMA or manifest.what != what:
            raise GemelError(
                "GEM528", f"This is a backup of a {manifest.what} ({manifest.schema}), not of a {what}."
            )
        if manifest.files != found:
            raise GemelError("GEM528", "The files of the backup are not those of its manifest.")
        os.replace(unfinished, folder)
    except (OSError, tarfile.TarError, msgspec.ValidationError) as error:
        raise GemelError("GEM528", f"{path} cannot be restored: {type(error).__name__}.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return manifest, document


def _unpack(stream: io.BufferedReader, folder: Path) -> tuple[dict[str, str], bytes]:
    found: dict[str, str] = {}
    content = b""
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for entry in tar:
            # Whoever knows the passphrase may have made this file: a name or a link must not lead out of the folder.
            if not entry.isreg() or not _NAME.fullmatch(entry.name) or ".." in entry.name.split("/"):
                raise GemelError(
                    "GEM528", f"The backup holds {entry.name[:80]!r}, which is none of our files."
                )
            if entry.name in found or content or len(found) >= _MOST_ENTRIES:
                raise GemelError("GEM528", "The backup holds a file twice, or something behind its manifest.")
            source = tar.extractfile(entry)
            assert source is not None  # noqa: S101  # of a regular file
            if entry.name == _MANIFEST:
                content = source.read()
                continue
            target = folder / entry.name
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            hashing = _Hashing(source, entry.size)
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, (entry.mode & 0o700) | 0o600)
            with os.fdopen(descriptor, "wb") as file:
                shutil.copyfileobj(hashing, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
            found[entry.name] = hashing.hexdigest()
    if stream.read(1):
        raise GemelError("GEM528", "The backup goes on behind its end.")
    return found, content


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield path


def _left_out(name: Path, leave_out: Collection[str]) -> bool:
    beside_a_database = any(
        f"{suffix}-" in name.name for suffix in _DATABASES
    )  # -wal, -shm, -journal: in the snapshot
    hidden = any(part.startswith(".") for part in name.parts)
    return name.parts[0] in leave_out or name.suffix in _PASSING or hidden or beside_a_database


class _Hashing:
    """Reads exactly `size` bytes of a file, hashing them. Raises OSError when there are fewer."""

    def __init__(self, file: Any, size: int) -> None:
        self._file, self._left = file, size
        self._digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        part: bytes = self._file.read(wanted)
        if len(part) < wanted:
            raise OSError("a file became shorter while it was read")
        self._left -= len(part)
        self._digest.update(part)
        return part

    def hexdigest(self) -> str:
        return self._digest.hexdigest()
