"""The node's durable privacy ledger: a study is charged whole before anything is computed, and never refunded.

The cap holds for every patient over a lifetime, across studies. Only what never began can be given back, and only by a
steward's signed decision.
"""

from __future__ import annotations

import datetime as dt
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, TypeVar

import msgspec

from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.mechanism import Charge, Share
from gemel.core.signing import SignedDocument, SigningKey, sign_document
from gemel.privacy.accounting import price
from gemel.privacy.ledger.book import Book
from gemel.privacy.ledger.decisions import check_steward, read_decision
from gemel.privacy.ledger.entries import (
    NOTHING_BEFORE,
    EntryKind,
    LedgerEntry,
    key_after,
    link,
    moved_back,
    require_head,
    seal,
    verify_link,
    verify_signature,
    written_time,
)
from gemel.privacy.ledger.export import ledger_payload, verify_epsilon
from gemel.privacy.ledger.exposure import Exposure
from gemel.privacy.ledger.people import Register, Sealed, Touched, open_sealed, touched
from gemel.privacy.ledger.store import LocalAnchor, Row, Store
from gemel.privacy.ledger.succession import sign_succession

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Quote:
    """What a plan would do to the patient who would have spent most.

    The two ε are exact for a ledger of ordinary size, and upper bounds for a large one. They depend on who is in which
    cohort: they stay in the hospital.
    """

    epsilon_before: float
    epsilon_after: float
    epsilon_cap: float
    admitted: bool


class _View:
    """What the file's rows mean, as far as they were read."""

    def __init__(self, delta: float) -> None:
        self.entries: list[LedgerEntry] = []
        self.book = Book()
        self.register = Register()
        self._exposure = Exposure(delta)
        self._changes: deque[Callable[[], None]] = deque()  # of who paid what: few requests ask

    def take(self, entry: LedgerEntry, people: Sequence[Sealed]) -> None:
        self.book.add(entry)
        if entry.kind == EntryKind.RESERVED:
            sets = open_sealed(people, entry.people, self.register)
            persons = len(self.register)
            reserve = self._exposure.reserve
            self._changes.append(partial(reserve, entry.study_sha256, entry.charges, sets, persons=persons))
        elif people:
            raise GemelError("GEM302", f"Entry {entry.seq} has people, and is no reservation.")
        elif entry.kind == EntryKind.EXPIRED:
            standing = self.book.standing(entry.study_sha256)
            self._changes.append(partial(self._exposure.charge_again, entry.study_sha256, standing))
        self.entries.append(entry)

    @property
    def exposure(self) -> Exposure:
        while self._changes:
            self._changes.popleft()()
        return self._exposure


class Ledger:
    """One hospital's ledger in an SQLite file (WAL, synchronous=FULL); use `Ledger.open`.

    Safe for several threads and processes at once; not across a fork. Beside the file lies `<name>.anchor`, the
    signed newest head, so that entries cut off the end are missed.
    """

    def __init__(
        self,
        path: Path,
        *,
        key: SigningKey,
        site: str,
        epsilon_cap: float,
        delta: float,
        successor: SigningKey | None = None,
    ) -> None:
        self._path = path
        self._key = key
        self._public_key = key.public_hex
        self._site = site
        self._epsilon_cap = epsilon_cap
        self._delta = delta
        self._lock = threading.RLock()
        self._view = _View(delta)
        self._successor = successor
        self._anchor = LocalAnchor(path, key=key, site=site, successor=successor)
        self._store = Store(path)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        key: SigningKey,
        site: str,
        epsilon_cap: float,
        delta: float,
        successor: SigningKey | None = None,
    ) -> Ledger:
        """Open or create a ledger and check it: every hash, every set of people, the newest signature, the anchor.

        The newest signature stands for the whole chain; `verify` checks each.

        Args:
            path: The SQLite file. Its folder must exist.
            key: The node's key, which signed the newest entry or was named by it; a ledger belongs to one site.
            site: The hospital's name.
            epsilon_cap: The lifetime limit of each patient, from the node's own configuration and nowhere else.
            delta: The δ at which the limit holds.
            successor: For `succeed`: the key that the ledger is to go on under, or goes on under already.

        Raises:
            GemelError: GEM302 the file is damaged, or is another site's; GEM309 it is an older copy; GEM310 its
                clock moved back; GEM305 an impossible limit.
        """
        if not (math.isfinite(epsilon_cap) and epsilon_cap > 0 and 0 < delta < 1):
            raise GemelError("GEM305", f"Not a limit: epsilon {epsilon_cap}, delta {delta}.")
        ledger = cls(path, key=key, site=site, epsilon_cap=epsilon_cap, delta=delta, successor=successor)
        try:
            ledger._store.prepare()
            with ledger._transaction():
                anchored = ledger._anchor.check(ledger._view.entries)
                if not ledger._view.entries:
                    ledger._append(ledger._next(EntryKind.OPENED, epsilon_after=0.0))
            if anchored == 0 or anchored < len(ledger._view.entries):
                ledger._write_anchor()
        except BaseException:
            ledger.close()
            raise
        return ledger

    # --- what a node asks before it computes -----------------------------------------------------

    def quote(self, charges: Sequence[Charge], people: Mapping[Share, Sequence[str]]) -> Quote:
        """Whether a plan could be reserved now; writes nothing.

        Raises GEM303 for a mechanism that cannot be accounted for, GEM313 for a share without its people.
        """
        with self._transaction():
            return self._quote(charges, self._touched(charges, people))

    def reserve(
        self,
        *,
        study_sha256: str,
        programme: str,
        snapshot: str,
        charges: Sequence[Charge],
        people: Mapping[Share, Sequence[str]],
    ) -> LedgerEntry:
        """Charge a study's whole plan to the people it touches, durably, or refuse and write nothing.

        Idempotent: the same plan on the same snapshot and people returns the first entry and costs nothing more. All
        in one immediate transaction, so of two processes that race for the last of the budget one wins.

        `charges` is all that the study will ever do here, `people` the pseudonyms of each share that a charge names.

        Raises:
            GemelError: GEM301 a patient would pass the cap, GEM304 the study was reserved with another plan or for
                others, GEM303 a mechanism that cannot be accounted for, or none; GEM313 a share without its people;
                GEM310 the clock moved back; GEM302 the file is damaged.
        """
        charges = tuple(charges)
        _check_charges(charges)
        with self._transaction():
            found = self._touched(charges, people)
            reserved = self._view.book.reservations.get(study_sha256)
            if reserved is not None:
                same = (programme, snapshot, charges)
                if (reserved.programme, reserved.snapshot, reserved.charges) != same:
                    raise GemelError("GEM304", f"The study was reserved otherwise, as entry {reserved.seq}.")
                if not self._view.exposure.same_people(study_sha256, found):
                    raise GemelError("GEM304", f"Entry {reserved.seq} reserved the study for other people.")
                return reserved
            quote = self._quote(charges, found)
            if not quote.admitted:
                raise GemelError("GEM301", f"{self._site}: {_refusal(quote)}, at delta {self._delta}.")
            people_rows = found.sealed()
            entry = self._next(
                EntryKind.RESERVED,
                epsilon_after=price((*self._view.book.all_standing(), *charges), delta=self._delta),
                study_sha256=study_sha256,
                programme=programme,
                snapshot=snapshot,
                charges=charges,
                people={row.name: row.commitment for row in people_rows},
            )
            written = self._append(entry, people_rows)
        self._write_anchor()
        return written

    def begin(self, *, study_sha256: str, task: str, request_sha256: str, snapshot: str) -> LedgerEntry:
        """Record durably that a task begins, before it touches a patient. Idempotent for the same request.

        Raises GEM307 when the task is not reserved or was given back; GEM304 when it began for another request, or
        the data differ from those of the reservation.
        """
        with self._transaction():
            book = self._view.book
            begun = book.begun.get((study_sha256, task))
            if begun is not None:
                if (begun.request_sha256, begun.snapshot) != (request_sha256, snapshot):
                    raise GemelError("GEM304", f"Task {task} began as entry {begun.seq}.")
                return begun
            if task not in {charge.task for charge in book.standing(study_sha256)}:
                raise GemelError("GEM307", f"Task {task} is not reserved, or was given back.")
            reserved = book.reservations[study_sha256]
            if reserved.snapshot != snapshot:
                raise GemelError("GEM304", f"Entry {reserved.seq} reserved the study on other data.")
            entry = self._next(
                EntryKind.BEGUN,
                study_sha256=study_sha256,
                programme=reserved.programme,
                task=task,
                request_sha256=request_sha256,
                snapshot=snapshot,
                follows=reserved.sha256,
            )
            written = self._append(entry)
        self._write_anchor()
        return written

    def record_release(self, entry: LedgerEntry, *, release_sha256: str) -> LedgerEntry:
        """Record what left the node for a begun task; costs nothing more. Idempotent.

        Raises GEM307 when the begun entry is not in this ledger, GEM304 when another release was recorded.
        """
        with self._transaction():
            book, task = self._view.book, (entry.study_sha256, entry.task)
            if book.begun.get(task) != entry:
                raise GemelError("GEM307", f"Task {entry.task} did not begin in this ledger.")
            released = book.released.get(task)
            if released is not None:
                if released.release_sha256 != release_sha256:
                    raise GemelError("GEM304", f"Task {entry.task} was released as something else.")
                return released
            following = self._next(
                EntryKind.RELEASED,
                study_sha256=entry.study_sha256,
                programme=entry.programme,
                task=entry.task,
                request_sha256=entry.request_sha256,
                follows=entry.sha256,
                release_sha256=release_sha256,
            )
            written = self._append(following)
        self._write_anchor()
        return written

    def expire(self, decision: SignedDocument, *, stewards: Mapping[str, str]) -> LedgerEntry:
        """Give back tasks that never began, by a decision (`decisions.decide_expiry`) of a steward on record.

        That nothing of them touched a patient is in the chain: no begun entry. What began is never given back.
        Idempotent. Raises GEM308 for tasks that began, were given back or are not reserved, and for a decision that is
        not by a steward (`stewards`: name to key), or about another ledger.
        """
        decided = read_decision(decision)
        check_steward(decision, decided, stewards)
        with self._transaction():
            entry = self._decided_before(decision)
            if entry is not None:
                return entry
            book = self._view.book
            study = next((s for s, e in book.reservations.items() if e.sha256 == decided.reservation), None)
            if study is None or decided.site != self._site:
                raise GemelError("GEM308", "The decision is about no reservation of this ledger.")
            if not set(decided.tasks) <= set(book.unused(study)):
                raise GemelError("GEM308", "A task began, was given back before, or is not of this study.")
            standing = tuple(
                charge
                for other in book.reservations
                for charge in book.standing(other)
                if other != study or charge.task not in decided.tasks
            )
            following = self._next(
                EntryKind.EXPIRED,
                epsilon_after=price(standing, delta=self._delta),
                study_sha256=study,
                programme=book.reservations[study].programme,
                tasks=decided.tasks,
                follows=decided.reservation,
                decision=decision,
            )
            written = self._append(following)
        self._write_anchor()
        return written

    def succeed(self) -> LedgerEntry:
        """Let the successor sign from the next entry on; then open the ledger with that key.

        Both keys say so, about this very chain. Idempotent: a rotation that was interrupted is taken up again.
        """
        if self._successor is None:
            raise GemelError("GEM417", "The ledger was opened without a successor.")
        with self._transaction():
            newest = self._view.entries[-1]
            if key_after(newest) != self._successor.public_hex:
                statement = sign_succession(
                    site=self._site, old=self._key, new=self._successor, follows=link(newest)
                )
                newest = self._append(self._next(EntryKind.SUCCEEDED, decision=statement))
        # From here on only an anchor by the new key counts: whoever has the old one cannot roll the chain back.
        LocalAnchor(self._path, key=self._successor, site=self._site).write(newest)
        return newest

    # --- what is on record -----------------------------------------------------------------------

    def reserved(self, study_sha256: str) -> LedgerEntry | None:
        """The reservation of a study, or None."""
        with self._transaction():
            return self._view.book.reservations.get(study_sha256)

    def charged(self, study_sha256: str, task: str) -> LedgerEntry | None:
        """The begun entry of a task, or None."""
        with self._transaction():
            return self._view.book.begun.get((study_sha256, task))

    def released(self, study_sha256: str, task: str) -> LedgerEntry | None:
        """The released entry of a task, or None."""
        with self._transaction():
            return self._view.book.released.get((study_sha256, task))

    def unused(self, study_sha256: str) -> tuple[str, ...]:
        """The tasks of a study that stand reserved and never began."""
        with self._transaction():
            return self._view.book.unused(study_sha256)

    def entries(self) -> tuple[LedgerEntry, ...]:
        """All entries, oldest first; the first says that the ledger was opened."""
        with self._transaction():
            return tuple(self._view.entries)

    def keys(self) -> tuple[str, ...]:
        """Every public key that signed entries here, oldest first."""
        return tuple(dict.fromkeys(entry.public_key for entry in self.entries()))

    def epsilon_spent(self) -> float:
        """ε of a patient who were part of everything that stands reserved, at this ledger's δ.

        It depends on the studies alone, not on who is in which cohort: so it may leave the hospital. No patient has
        spent more, most have spent less, and it may exceed the cap.
        """
        return self.entries()[-1].epsilon_after

    def epsilon_of_worst_person(self) -> float:
        """ε of the patient who has spent most (for a large ledger, a bound on it). It stays in the hospital."""
        with self._transaction():
            return self._view.exposure.worst(cap=self._epsilon_cap)

    def people_of(self, study_sha256: str) -> dict[Share, int]:
        """How many people each share of a study means. It stays in the hospital."""
        with self._transaction():
            return self._view.exposure.counts(study_sha256)

    def persons(self) -> int:
        """How many different people were ever part of a reservation. It stays in the hospital."""
        with self._transaction():
            return len(self._view.register)

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
        """The whole ledger as a signed document that `verify_ledger_document` checks offline: no person, no count."""
        payload = ledger_payload(self.entries(), epsilon_cap=self._epsilon_cap, delta=self._delta)
        return sign_document("ledger", payload, self._key, role="node")

    def require(self, *, seq: int, sha256: str) -> None:
        """Refuse (GEM309) to go on when the chain lacks an entry that others know as its head once."""
        require_head(self.entries(), seq=seq, sha256=sha256)

    def verify(self) -> None:
        """Read the file again from the start; check every signature too, and what the plans that stand cost.

        Raises GEM302; GEM309 for an older copy; GEM310 for a clock that moved back.
        """
        with self._lock:
            self._view = _View(self._delta)
            with self._transaction():
                self._anchor.check(self._view.entries)
                for entry in self._view.entries:
                    _as_damage(verify_signature, entry)
                verify_epsilon(self._view.entries)

    def close(self) -> None:
        """Close the file; the ledger cannot be used afterwards."""
        self._store.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the file --------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Hold the file's only write lock, with the view brought up to date; commit, or write nothing."""
        with self._lock, self._store.transaction():
            self._read_new()
            yield

    def _read_new(self) -> None:
        view = self._view
        known = view.entries[-1] if view.entries else None
        rows = self._store.rows(since=known.seq if known else 0)
        if known is not None:
            if not rows:
                raise GemelError("GEM302", f"Entry {known.seq} was removed under the open ledger.")
            if _as_damage(_read_row, rows.pop(0)) != known:
                raise GemelError("GEM302", f"Entry {known.seq} was changed under the open ledger.")
        for row in rows:
            entry = _as_damage(_read_row, row)
            if entry.site != self._site:
                raise GemelError("GEM302", f"Entry {entry.seq} is of another site.")
            _as_damage(verify_link, entry, view.entries[-1] if view.entries else None)
            view.take(entry, row.people)
        if rows:
            newest = view.entries[-1]
            if key_after(newest) not in self._accepted():
                raise GemelError("GEM302", f"Entry {newest.seq} is of another key.")
            _as_damage(verify_signature, newest)

    def _accepted(self) -> tuple[str, ...]:
        return (self._public_key, *([] if self._successor is None else [self._successor.public_hex]))

    def _append(self, entry: LedgerEntry, people: Sequence[Sealed] = ()) -> LedgerEntry:
        written = seal(entry, self._key)
        self._store.append(written, people)
        return written

    def _write_anchor(self) -> None:
        with self._transaction():
            self._anchor.write(self._view.entries[-1])

    def _next(self, kind: EntryKind, **told: object) -> LedgerEntry:
        newest = self._view.entries[-1] if self._view.entries else None
        now = _now()
        if newest is not None and key_after(newest) != self._public_key:
            raise GemelError("GEM302", f"Entry {newest.seq} says that another key signs the next one.")
        if newest is not None and moved_back(now, written_time(newest)):
            raise GemelError(
                "GEM310", f"It is {now.isoformat()}, and entry {newest.seq} is of {newest.written_at}."
            )
        values: dict[str, object] = {
            "seq": newest.seq + 1 if newest else 1,
            "kind": kind,
            "previous": link(newest) if newest else NOTHING_BEFORE,
            "written_at": now.isoformat(timespec="seconds"),
            "site": self._site,
            "public_key": self._public_key,
            "epsilon_cap": float(self._epsilon_cap),
            "delta": float(self._delta),
            "epsilon_after": newest.epsilon_after if newest else 0.0,
            **told,
        }
        # Through JSON, so that what is hashed now is what a reader of the file will hash.
        return msgspec.json.decode(msgspec.json.encode(values), type=LedgerEntry)

    # --- who pays --------------------------------------------------------------------------------

    def _touched(self, charges: Sequence[Charge], people: Mapping[Share, Sequence[str]]) -> Touched:
        shares = sorted({charge.share for charge in charges})
        missing = [share.value for share in shares if share not in people]
        if missing:
            raise GemelError(
                "GEM313", f"The plan charges {', '.join(missing)}, but does not say who that is."
            )
        return touched({share: people[share] for share in shares}, self._view.register)

    def _quote(self, charges: Sequence[Charge], found: Touched) -> Quote:
        verdict = self._view.exposure.verdict(charges, found, cap=self._epsilon_cap)
        return Quote(
            verdict.epsilon_before,
            verdict.epsilon_after,
            self._epsilon_cap,
            verdict.admitted,
        )

    def _decided_before(self, decision: SignedDocument) -> LedgerEntry | None:
        for entry in self._view.book.expired.values():
            if entry.decision is not None and entry.decision.payload_sha256 == decision.payload_sha256:
                return entry
        return None


def _check_charges(charges: Sequence[Charge]) -> None:
    """Refuse (GEM303) a plan that charges nothing for a task, or a task twice."""
    tasks = [charge.task for charge in charges]
    if not tasks or not all(charge.mechanisms for charge in charges):
        raise GemelError("GEM303", "A task names no mechanism; what costs nothing is not released.")
    if len(set(tasks)) != len(tasks):
        raise GemelError("GEM303", "The plan charges a task twice.")


def _refusal(quote: Quote) -> str:
    return (
        f"the study would take a patient's epsilon from {quote.epsilon_before:.6f} to "
        f"{quote.epsilon_after:.6f}, the cap is {quote.epsilon_cap}"
    )


def _read_row(row: Row) -> LedgerEntry:
    if sha256_hex(row.body) != row.sha256:
        raise GemelError("GEM302", f"The content of the ledger's entry {row.seq} differs from its hash.")
    try:
        entry = msgspec.json.decode(row.body, type=LedgerEntry)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise GemelError("GEM302", f"The ledger's entry {row.seq} cannot be read: {error}.") from error
    if entry.seq != row.seq:
        raise GemelError("GEM302", f"Row {row.seq} holds the ledger's entry {entry.seq}.")
    return msgspec.structs.replace(entry, sha256=row.sha256, signature=row.signature)


def _as_damage(check: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """In the ledger's own file a broken chain or signature is damage (GEM302)."""
    try:
        return check(*arguments, **named)
    except GemelError as error:
        if error.code in ("GEM302", "GEM309", "GEM310"):
            raise
        raise GemelError("GEM302", error.message) from error


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
