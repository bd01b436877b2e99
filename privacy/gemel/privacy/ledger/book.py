"""What entries mean together: which plan stands, what began, what left, what was given back."""

from __future__ import annotations

from collections.abc import Iterable

from gemel.core.errors import GemelError
from gemel.core.mechanism import Charge
from gemel.privacy.ledger.decisions import read_decision
from gemel.privacy.ledger.entries import EntryKind, LedgerEntry
from gemel.privacy.ledger.succession import check_succession

_Task = tuple[str, str]  # study, task


class Book:
    """The entries so far, by study and task. Entries that contradict those before them are refused (GEM302)."""

    def __init__(self) -> None:
        self.reservations: dict[str, LedgerEntry] = {}
        self.begun: dict[_Task, LedgerEntry] = {}
        self.released: dict[_Task, LedgerEntry] = {}
        self.expired: dict[_Task, LedgerEntry] = {}

    def add(self, entry: LedgerEntry) -> None:
        """Take one more entry, in order. Raises GEM302."""
        if entry.kind == EntryKind.RESERVED:
            self._reserve(entry)
        elif entry.kind == EntryKind.BEGUN:
            self._begin(entry)
        elif entry.kind == EntryKind.RELEASED:
            self._release(entry)
        elif entry.kind == EntryKind.EXPIRED:
            self._expire(entry)
        elif entry.kind == EntryKind.SUCCEEDED:
            check_succession(entry)

    def standing(self, study_sha256: str) -> tuple[Charge, ...]:
        """The charges of a study that were not given back; of a study without a reservation none."""
        entry = self.reservations.get(study_sha256)
        if entry is None:
            return ()
        return tuple(c for c in entry.charges if (study_sha256, c.task) not in self.expired)

    def all_standing(self) -> tuple[Charge, ...]:
        """The charges of all studies that were not given back."""
        return tuple(charge for study in self.reservations for charge in self.standing(study))

    def unused(self, study_sha256: str) -> tuple[str, ...]:
        """The tasks of a study that stand reserved and never began."""
        return tuple(c.task for c in self.standing(study_sha256) if (study_sha256, c.task) not in self.begun)

    def _reserve(self, entry: LedgerEntry) -> None:
        tasks = [charge.task for charge in entry.charges]
        _must(entry.study_sha256 not in self.reservations, entry, "reserves a study twice")
        _must(bool(tasks) and len(set(tasks)) == len(tasks), entry, "charges a task twice, or nothing")
        _must(all(charge.mechanisms for charge in entry.charges), entry, "charges nothing for a task")
        self.reservations[entry.study_sha256] = entry

    def _begin(self, entry: LedgerEntry) -> None:
        task = (entry.study_sha256, entry.task)
        reservation = self._reservation(entry)
        _must(entry.task in {c.task for c in reservation.charges}, entry, "begins what is not charged")
        _must(task not in self.begun, entry, "begins a task twice")
        _must(task not in self.expired, entry, "begins what was given back")
        self.begun[task] = entry

    def _release(self, entry: LedgerEntry) -> None:
        task = (entry.study_sha256, entry.task)
        begun = self.begun.get(task)
        _must(begun is not None and begun.sha256 == entry.follows, entry, "releases what never began")
        _must(task not in self.released, entry, "releases a task twice")
        self.released[task] = entry

    def _expire(self, entry: LedgerEntry) -> None:
        self._reservation(entry)
        if entry.decision is None:
            raise GemelError("GEM302", f"Entry {entry.seq} gives back without a decision.")
        try:
            decision = read_decision(entry.decision)
        except GemelError as error:
            raise GemelError("GEM302", f"Entry {entry.seq}: {error.message}") from error
        same = (decision.site, decision.reservation, decision.tasks) == (
            entry.site,
            entry.follows,
            entry.tasks,
        )
        _must(same, entry, "gives back what was not decided")
        unused = set(self.unused(entry.study_sha256))
        _must(set(entry.tasks) <= unused, entry, "gives back what began, or was given back")
        self.expired.update({(entry.study_sha256, task): entry for task in entry.tasks})

    def _reservation(self, entry: LedgerEntry) -> LedgerEntry:
        reservation = self.reservations.get(entry.study_sha256)
        if reservation is None or reservation.sha256 != entry.follows:
            raise GemelError("GEM302", f"Entry {entry.seq} belongs to no reservation.")
        return reservation


def spending(entries: Iterable[LedgerEntry]) -> list[tuple[LedgerEntry, tuple[Charge, ...]]]:
    """For each begun entry, the charges of all that began up to and including it. Raises GEM302."""
    book, so_far = Book(), tuple[Charge, ...]()
    found: list[tuple[LedgerEntry, tuple[Charge, ...]]] = []
    for entry in entries:
        book.add(entry)
        if entry.kind == EntryKind.BEGUN:
            plan = book.reservations[entry.study_sha256].charges
            so_far = (*so_far, *(charge for charge in plan if charge.task == entry.task))
            found.append((entry, so_far))
    return found


def book_of(entries: Iterable[LedgerEntry]) -> Book:
    """The book of a whole chain. Raises GEM302."""
    book = Book()
    for entry in entries:
        book.add(entry)
    return book


def _must(holds: bool, entry: LedgerEntry, fault: str) -> None:
    if not holds:
        raise GemelError("GEM302", f"Entry {entry.seq} {fault}.")
