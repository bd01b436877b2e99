"""What became of each item of an input beside FHIR: an image series, a wearable's record, a variant, a finding."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from gemel.data_adapters.reading.intake import MAX_REJECTS_LISTED, Fault


class Outcome(StrEnum):
    """What became of one item; each has exactly one."""

    USED = "used"  # it gave a fact, alone or as a part of a day's total
    IMAGE = "image"  # a volume that was read; it is kept where a folder for images is given
    NOT_COVERED = "not_covered"  # no concept of the programme has its code
    EXCLUDED = "excluded"  # it says of itself that it does not count, or stands twice
    ORPHAN = "orphan"  # no patient of the export is linked to it
    WITHHELD = "withheld"  # its patient has not consented or has opted out
    REJECTED = "rejected"  # it is at fault


class InputReject(NamedTuple):
    """One rejected item, or a file that was rejected as a whole (place "")."""

    file: str
    place: str
    code: str
    reason: str


@dataclass
class FileAccount:
    """One file or image series: `read` items, each with one outcome.

    Attributes:
        file: Its name within the input; of an image series that of its first file.
        kind: What it was taken for ("apple health", "vcf", ...).
        fault: Why all of it was rejected, or None. Then nothing of it was used, and `read` says how far it was read.
    """

    file: str
    kind: str
    read: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    fault: Fault | None = None


@dataclass
class InputAccount:
    """The account of one input: in each file that was not rejected as a whole, read = the sum of the outcomes.

    Attributes:
        files: One entry a file or image series.
        facts: Facts that were added, by concept.
        bounds: How many of them are bounds ("above 20") instead of values, by concept.
        not_covered: Items of codes that the programme does not know, by "system|code".
        excluded: Items that say of themselves that they do not count, by reason.
        rejects: Rejected items and files, up to 1,000.
        reasons: All of them, by (code, reason).
        unread: Entries of the folder that are none of the kinds known, as "name: reason".
        images: One row a volume that was kept (`imaging.IMAGE_FIELDS`).
    """

    files: list[FileAccount] = field(default_factory=list)
    facts: Counter[str] = field(default_factory=Counter)
    bounds: Counter[str] = field(default_factory=Counter)
    not_covered: Counter[str] = field(default_factory=Counter)
    excluded: Counter[str] = field(default_factory=Counter)
    rejects: list[InputReject] = field(default_factory=list)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    unread: list[str] = field(default_factory=list)
    images: list[dict[str, object]] = field(default_factory=list)

    @property
    def read(self) -> int:
        """Items read in files that were not rejected as a whole."""
        return sum(file.read for file in self.files if file.fault is None)

    @property
    def outcomes(self) -> Counter[Outcome]:
        """The outcomes of all items of files that were not rejected as a whole."""
        total: Counter[Outcome] = Counter()
        for file in self.files:
            if file.fault is None:
                total += file.outcomes
        return total

    @property
    def files_rejected(self) -> int:
        """Files and image series that were rejected as a whole."""
        return sum(file.fault is not None for file in self.files)

    def reject(self, file: str, place: str, fault: Fault, items: int = 1) -> None:
        """Record rejected items of one place, or a rejected file."""
        self.reasons[fault.code, fault.reason] += items
        if len(self.rejects) < MAX_REJECTS_LISTED:
            self.rejects.append(InputReject(file, place, fault.code, fault.reason))

    def add(self, other: InputAccount) -> None:
        """Take another account into this one."""
        self.files += other.files
        for name in ("facts", "bounds", "not_covered", "excluded", "reasons"):
            getattr(self, name).update(getattr(other, name))
        self.rejects += other.rejects[: MAX_REJECTS_LISTED - len(self.rejects)]
        self.unread += other.unread
        self.images += other.images
