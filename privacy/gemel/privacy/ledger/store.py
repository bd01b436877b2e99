"""The ledger's file: an append-only SQLite database, and the signed newest head beside it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gemel.core.errors import GemelError
from gemel.core.files import write_durably
from gemel.core.signing import SigningKey, verify_bytes
from gemel.core.write_ahead import write_ahead
from gemel.privacy.ledger.entries import SCHEMA, LedgerEntry, entry_body, require_head
from gemel.privacy.ledger.people import Sealed

_BUSY_TIMEOUT_S = 120
# Rows can be added at the end, and nothing else: a program's slip cannot rewrite history. (Whoever opens the
# file with other tools can; then the chain, the signatures and the anchor say so.)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    seq INTEGER PRIMARY KEY, body BLOB NOT NULL, sha256 TEXT NOT NULL, signature TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS people (
    seq INTEGER NOT NULL, name TEXT NOT NULL, salt BLOB NOT NULL, content BLOB NOT NULL,
    PRIMARY KEY (seq, name)) STRICT;
CREATE TRIGGER IF NOT EXISTS entries_only_at_the_end BEFORE INSERT ON entries
WHEN NEW.seq <> (SELECT COALESCE(MAX(seq), 0) + 1 FROM entries)
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS people_only_at_the_end BEFORE INSERT ON people
WHEN NEW.seq <> (SELECT MAX(seq) FROM entries)
  OR EXISTS (SELECT 1 FROM people WHERE seq = NEW.seq AND name = NEW.name)
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS entries_never_updated BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS entries_never_deleted BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS people_never_updated BEFORE UPDATE ON people
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS people_never_deleted BEFORE DELETE ON people
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""


@dataclass(frozen=True)
class Row:
    """One entry as it is stored, and what its people rows hold."""

    seq: int
    body: bytes
    sha256: str
    signature: str
    people: tuple[Sealed, ...]


class Store:
    """Reads and appends rows; what they mean is not known here. Not safe for several threads at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._database = sqlite3.connect(
            path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )

    def prepare(self) -> None:
        """Make the tables of a new file. Raises GEM302 for a file that is no ledger, or an earlier version's."""
        with self._damage():
            write_ahead(self._database, timeout_s=_BUSY_TIMEOUT_S)
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(_SCHEMA)
            self._database.execute("SELECT seq, body, sha256, signature FROM entries LIMIT 0")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the file's only write lock; commit, or write nothing."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def rows(self, *, since: int) -> list[Row]:
        """All entries from number `since` on. Raises GEM302 when the file cannot be read."""
        with self._damage():
            entries = self._database.execute(
                "SELECT seq, body, sha256, signature FROM entries WHERE seq >= ? ORDER BY seq", (since,)
            ).fetchall()
            people: dict[int, list[Sealed]] = {}
            for seq, name, salt, content in self._database.execute(
                "SELECT seq, name, salt, content FROM people WHERE seq >= ? ORDER BY seq, name", (since,)
            ):
                people.setdefault(seq, []).append(Sealed(name, salt, content))
            if not set(people) <= {row[0] for row in entries}:
                raise GemelError("GEM302", "The ledger holds people of an entry that is not there.")
            return [
                Row(seq, body, sha256, signature, tuple(people.get(seq, ())))
                for seq, body, sha256, signature in entries
            ]

    def append(self, entry: LedgerEntry, people: Sequence[Sealed]) -> None:
        """Write a sealed entry at the end, inside a transaction."""
        self._database.execute(
            "INSERT INTO entries (seq, body, sha256, signature) VALUES (?, ?, ?, ?)",
            (entry.seq, entry_body(entry), entry.sha256, entry.signature),
        )
        self._database.executemany(
            "INSERT INTO people (seq, name, salt, content) VALUES (?, ?, ?, ?)",
            [(entry.seq, item.name, item.salt, item.content) for item in people],
        )

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "no such" in str(error):
                raise GemelError("GEM302", f"{self._path.name} is no ledger of this version.") from error
            raise  # busy, full or read-only: not damage
        except sqlite3.DatabaseError as error:
            raise GemelError("GEM302", f"{self._path.name} cannot be read: {error}.") from error


class _Anchor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    seq: int
    sha256: str
    signature: str


class LocalAnchor:
    """`<ledger>.anchor`: the signed newest head, so that entries cut off the end of the file are missed."""

    def __init__(
        self, ledger: Path, *, key: SigningKey, site: str, successor: SigningKey | None = None
    ) -> None:
        self._path = ledger.with_name(ledger.name + ".anchor")
        self._key = key
        self._accepted = {k.public_hex for k in (key, successor) if k is not None}
        self._site = site

    def write(self, newest: LedgerEntry) -> None:
        """Replace it. Under the ledger's write lock it only moves forward."""
        content = self._signed(newest.seq, newest.sha256)
        anchor = _Anchor(newest.seq, newest.sha256, self._key.sign(content))
        write_durably(self._path, msgspec.json.encode(anchor))

    def check(self, entries: Sequence[LedgerEntry]) -> int:
        """Refuse a chain without the head that was written here: GEM309; GEM302 when the file is damaged or missing.

        Returns the head's number; a crash may have left it behind the chain.
        """
        name = self._path.name
        if not self._path.exists():
            # It is written before the first reservation can be, so it may be missing only before that.
            if len(entries) > 1:
                raise GemelError("GEM302", f"{name} is missing.")
            return 0
        try:
            anchor = msgspec.json.decode(self._path.read_bytes(), type=_Anchor)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise GemelError("GEM302", f"{name} cannot be read.") from error
        content = self._signed(anchor.seq, anchor.sha256)
        if not any(verify_bytes(public, anchor.signature, content) for public in self._accepted):
            raise GemelError("GEM302", f"The signature on {name} is wrong.")
        require_head(entries, seq=anchor.seq, sha256=anchor.sha256)
        return anchor.seq

    def _signed(self, seq: int, sha256: str) -> bytes:
        return f"{SCHEMA} anchor {self._site} {seq} {sha256}".encode()
