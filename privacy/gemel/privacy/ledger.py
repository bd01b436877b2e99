"""The node's durable privacy ledger: charged before anything is computed, never refunded.

Thin and conservative: every reservation counts for every patient of the hospital, whether the patient was in
the cohort or not, and whether the release was ever sent or not.
"""

from __future__ import annotations

import math
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

import msgspec

from gemel.core.canonical import canonical_bytes
from gemel.core.errors import GemelError
from gemel.core.mechanism import Mechanism
from gemel.core.signing import SignedDocument, SigningKey, sign_document, verify_bytes
from gemel.privacy.accounting import epsilon
from gemel.privacy.ledger_chain import (
    NOTHING_BEFORE,
    EntryKind,
    LedgerEntry,
    charged_mechanisms,
    ledger_payload,
    seal,
    verify_chain,
    verify_link,
)

_BUSY_TIMEOUT_S = 60
# Rows can be added at the end, and nothing else: a program's slip cannot rewrite history. (Whoever opens the
# file with other tools can; then the chain, the signatures and the anchor say so.)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (seq INTEGER PRIMARY KEY, content TEXT NOT NULL) STRICT;
CREATE TRIGGER IF NOT EXISTS never_update BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS never_delete BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS only_at_the_end BEFORE INSERT ON entries
WHEN NEW.seq <> (SELECT COALESCE(MAX(seq), 0) + 1 FROM entries)
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""


class _Anchor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    seq: int
    sha256: str
    signature: str


class Ledger:
    """One hospital's ledger in an SQLite file (WAL, synchronous=FULL); use `Ledger.open`.

    Safe for several threads and processes at once; not across a fork. Beside the file lies `<name>.anchor`, the
    signed newest head, so that entries cut off the end are missed.
    """

    def __init__(self, path: Path, *, key: SigningKey, site: str, epsilon_cap: float, delta: float) -> None:
        self._path = path
        self._key = key
        self._site = site
        self._epsilon_cap = epsilon_cap
        self._delta = delta
        self._lock = threading.RLock()
        self._known: list[LedgerEntry] = []
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._database = sqlite3.connect(
            path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )

    @classmethod
    def open(cls, path: Path, *, key: SigningKey, site: str, epsilon_cap: float, delta: float) -> Ledger:
        """Open or create a ledger and verify it whole.

        Args:
            path: The SQLite file. Its folder must exist.
            key: The node's key; a ledger belongs to one key and one site.
            site: The hospital's name.
            epsilon_cap: The lifetime limit of each patient, from the node's own configuration and nowhere else.
            delta: The δ at which the limit holds.

        Raises:
            GemelError: GEM302 the file is damaged, or is another site's; GEM305 an impossible limit.
        """
        if not (math.isfinite(epsilon_cap) and epsilon_cap > 0 and 0 < delta < 1):
            raise GemelError("GEM305", f"Not a limit: epsilon {epsilon_cap}, delta {delta}.")
        ledger = cls(path, key=key, site=site, epsilon_cap=epsilon_cap, delta=delta)
        try:
            ledger._prepare()
            ledger.verify()
            ledger._write_anchor()
        except BaseException:
            ledger.close()
            raise
        return ledger

    def reserve(
        self,
        *,
        study_sha256: str,
        programme: str,
        task: str,
        request_sha256: str,
        snapshot: str,
        patients: int | None,
        mechanisms: Sequence[Mechanism],
    ) -> LedgerEntry:
        """Charge a task before it touches a patient, durably, or refuse and write nothing.

        Idempotent for each (study, task): the same request on the same snapshot returns the first entry and
        costs nothing more. All in one immediate transaction, so of two processes that race for the last of the
        budget one wins.

        Raises:
            GemelError: GEM301 the cap would be passed, GEM304 the task was charged for another request,
                GEM303 a mechanism that cannot be accounted for, or none; GEM302 the file is damaged.
        """
        if not mechanisms:
            raise GemelError("GEM303", f"Task {task} names no mechanism; what costs nothing is not released.")
        with self._transaction():
            charged = self._find(study_sha256, task, EntryKind.RESERVED)
            if charged is not None:
                same = (request_sha256, snapshot, tuple(mechanisms))
                if (charged.request_sha256, charged.snapshot, charged.mechanisms) != same:
                    raise GemelError("GEM304", f"Task {task} was charged as entry {charged.seq}.")
                return charged
            before = charged_mechanisms(self._known)
            after = epsilon((*before, *mechanisms), delta=self._delta)
            if not after <= self._epsilon_cap:
                spent = epsilon(before, delta=self._delta)
                raise GemelError(
                    "GEM301",
                    f"{self._site}: {task} would take epsilon from {spent:.6f} to {after:.6f}, "
                    f"the cap is {self._epsilon_cap} at delta {self._delta}.",
                )
            entry = self._next(
                EntryKind.RESERVED,
                epsilon_after=after,
                study_sha256=study_sha256,
                programme=programme,
                task=task,
                request_sha256=request_sha256,
                snapshot=snapshot,
                patients=patients,
                mechanisms=tuple(mechanisms),
            )
            written = self._append(entry)
        self._write_anchor()
        return written

    def record_release(self, entry: LedgerEntry, *, release_sha256: str) -> LedgerEntry:
        """Record what left the node under a reservation; costs nothing more. Idempotent.

        Raises GEM307 when the reservation is not in this ledger, GEM304 when another release was recorded.
        """
        with self._transaction():
            if entry.kind != EntryKind.RESERVED or entry not in self._known:
                raise GemelError("GEM307", f"Task {entry.task} has no reservation in this ledger.")
            spent = self._find(entry.study_sha256, entry.task, EntryKind.SPENT)
            if spent is not None:
                if spent.release_sha256 != release_sha256:
                    raise GemelError("GEM304", f"Task {entry.task} was released as something else.")
                return spent
            following = self._next(
                EntryKind.SPENT,
                epsilon_after=self._known[-1].epsilon_after,
                study_sha256=entry.study_sha256,
                programme=entry.programme,
                task=entry.task,
                reservation=entry.sha256,
                release_sha256=release_sha256,
            )
            written = self._append(following)
        self._write_anchor()
        return written

    def charged(self, study_sha256: str, task: str) -> LedgerEntry | None:
        """The reservation of a task, or None."""
        with self._transaction():
            return self._find(study_sha256, task, EntryKind.RESERVED)

    def released(self, study_sha256: str, task: str) -> LedgerEntry | None:
        """The spent entry of a task, or None."""
        with self._transaction():
            return self._find(study_sha256, task, EntryKind.SPENT)

    def entries(self) -> tuple[LedgerEntry, ...]:
        """All entries, oldest first; the first says that the ledger was opened."""
        with self._transaction():
            return tuple(self._known)

    def epsilon_spent(self) -> float:
        """ε of all reservations together, at this ledger's δ."""
        return epsilon(charged_mechanisms(self.entries()), delta=self._delta)

    def remaining(self) -> float:
        """Cap less spent. A guide only: ε does not add up, so what still fits is known by asking for it."""
        return max(0.0, self._epsilon_cap - self.epsilon_spent())

    @property
    def head(self) -> str:
        """The hash of the newest entry: it stands for the whole chain."""
        return self.entries()[-1].sha256

    @property
    def epsilon_cap(self) -> float:
        """The lifetime limit of each patient."""
        return self._epsilon_cap

    @property
    def delta(self) -> float:
        """The δ at which the limit holds."""
        return self._delta

    def export(self) -> SignedDocument:
        """The whole ledger as a signed document that `verify_ledger_document` checks offline."""
        payload = ledger_payload(self.entries(), epsilon_cap=self._epsilon_cap, delta=self._delta)
        return sign_document("ledger", payload, self._key, role="node")

    def verify(self) -> None:
        """Read the file again from the start and check chain, signatures and anchor. Raises GEM302."""
        with self._lock:
            self._known = []
            with self._transaction():
                try:
                    verify_chain(self._known)
                except GemelError as error:
                    raise GemelError("GEM302", error.message) from error
                self._check_anchor()

    def close(self) -> None:
        """Close the file; the ledger cannot be used afterwards."""
        self._database.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self) -> None:
        try:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(_SCHEMA)
        except sqlite3.OperationalError:
            raise  # busy, full or read-only: not damage
        except sqlite3.DatabaseError as error:
            raise GemelError("GEM302", f"{self._path.name} is not a ledger: {error}.") from error
        with self._transaction():
            if not self._known:
                self._append(self._next(EntryKind.OPENED, epsilon_after=0.0))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Hold the file's only write lock, with `_known` brought up to date; commit, or write nothing."""
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            count = len(self._known)
            try:
                self._read_new()
                count = len(self._known)
                yield
                self._database.execute("COMMIT")
            except BaseException:
                del self._known[count:]
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def _read_new(self) -> None:
        known = self._known[-1].seq if self._known else 0
        try:
            rows = self._database.execute(
                "SELECT seq, content FROM entries WHERE seq >= ? ORDER BY seq", (known,)
            ).fetchall()
            for seq, content in rows:
                item = msgspec.json.decode(content, type=LedgerEntry)
                if canonical_bytes(msgspec.to_builtins(item)).decode() != content:
                    raise GemelError("GEM302", f"Row {seq} is not in its one canonical form.")
                if seq != item.seq or (item.site, item.public_key) != self._owner:
                    raise GemelError(
                        "GEM302", f"Row {seq} is another entry's, another site's or another key's."
                    )
                if self._known and seq == known:
                    if item != self._known[-1]:
                        raise GemelError("GEM302", f"Entry {seq} was changed under the open ledger.")
                    continue
                verify_link(item, self._known[-1] if self._known else None)
                self._known.append(item)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise GemelError("GEM302", f"An entry of {self._path.name} cannot be read: {error}.") from error
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise GemelError("GEM302", f"{self._path.name} cannot be read: {error}.") from error
        except GemelError as error:
            raise GemelError("GEM302", error.message) from error
        if known and not rows:
            raise GemelError("GEM302", f"Entry {known} was removed under the open ledger.")

    @property
    def _owner(self) -> tuple[str, str]:
        return (self._site, self._key.public_hex)

    def _find(self, study_sha256: str, task: str, kind: EntryKind) -> LedgerEntry | None:
        for item in self._known:
            if (item.study_sha256, item.task, item.kind) == (study_sha256, task, kind):
                return item
        return None

    def _next(self, kind: EntryKind, *, epsilon_after: float, **told: object) -> LedgerEntry:
        values: dict[str, object] = {
            "seq": len(self._known) + 1,
            "kind": kind,
            "previous": self._known[-1].sha256 if self._known else NOTHING_BEFORE,
            "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "site": self._site,
            "public_key": self._key.public_hex,
            "epsilon_cap": float(self._epsilon_cap),
            "delta": float(self._delta),
            "epsilon_after": epsilon_after,
            **told,
        }
        # Through the types, so that what is hashed now is what a reader of the file will hash.
        return msgspec.convert(msgspec.to_builtins(values), LedgerEntry)

    def _append(self, entry: LedgerEntry) -> LedgerEntry:
        item = seal(entry, self._key)
        content = canonical_bytes(msgspec.to_builtins(item)).decode()
        self._database.execute("INSERT INTO entries (seq, content) VALUES (?, ?)", (entry.seq, content))
        self._known.append(item)
        return item

    @property
    def _anchor_path(self) -> Path:
        return self._path.with_name(self._path.name + ".anchor")

    def _anchored_bytes(self, seq: int, sha256: str) -> bytes:
        return f"gemel/ledger/1 anchor {self._site} {seq} {sha256}".encode()

    def _write_anchor(self) -> None:
        """Write the head beside the file, by replacement, under the file's write lock: it only moves forward."""
        with self._transaction():
            seq, head = self._known[-1].seq, self._known[-1].sha256
            anchor = _Anchor(seq, head, self._key.sign(self._anchored_bytes(seq, head)))
            fresh = self._anchor_path.with_name(self._anchor_path.name + ".new")
            with fresh.open("wb") as file:
                file.write(msgspec.json.encode(anchor))
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, self._anchor_path)

    def _check_anchor(self) -> None:
        if not self._anchor_path.exists():
            # It is written before the first reservation can be, so it may be missing only before that.
            if len(self._known) > 1:
                raise GemelError("GEM302", f"{self._anchor_path.name} is missing.")
            return
        try:
            anchor = msgspec.json.decode(self._anchor_path.read_bytes(), type=_Anchor)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise GemelError("GEM302", f"{self._anchor_path.name} cannot be read.") from error
        content = self._anchored_bytes(anchor.seq, anchor.sha256)
        if not verify_bytes(self._key.public_hex, anchor.signature, content):
            raise GemelError("GEM302", f"The signature on {self._anchor_path.name} is wrong.")
        if not (1 <= anchor.seq <= len(self._known) and self._known[anchor.seq - 1].sha256 == anchor.sha256):
            raise GemelError(
                "GEM302", f"Entries up to {anchor.seq} were there; the chain no longer has them."
            )
