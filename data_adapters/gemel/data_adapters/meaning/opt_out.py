"""The opt-out list: people who said no to the secondary use of their data (European Health Data Space, article 71)."""

from __future__ import annotations

import csv
import functools
import re
from collections import defaultdict
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path

from gemel.core.errors import GemelError

_ID_COLUMNS = ("id", "patient", "patient_id", "patientid", "identifier")
_MAX_BYTES = 1 << 30
_REFERENCE = re.compile(r"(?:^|/)Patient/([A-Za-z0-9\-.]{1,64})(?:/_history/[^/]+)?$")
MAX_LINES_NAMED = 100

Entry = str | tuple[str, str]


@dataclass(frozen=True)
class OptOutList:
    """The entries of an opt-out list.

    Attributes:
        ids: Patient ids; also taken as identifier values of any system, so that a list of bare numbers works.
        identifiers: (system, value) of Patient.identifier; the system "" is one without.
        lines: The first line of the file on which each entry stands.
    """

    ids: frozenset[str] = frozenset()
    identifiers: frozenset[tuple[str, str]] = frozenset()
    lines: Mapping[Entry, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many entries there are; one that stands twice counts once."""
        return len(self.ids) + len(self.identifiers)

    def entries_of(self, *names: str | None) -> frozenset[Entry]:
        """The entries that one of a patient's names matches, where nobody says which system it is of (a CDM)."""
        found = (self._by_name[name] for name in names if name in self._by_name)
        return frozenset[Entry]().union(*found)

    @functools.cached_property
    def _by_name(self) -> Mapping[str | None, frozenset[Entry]]:
        named: defaultdict[str | None, set[Entry]] = defaultdict(set)
        for name in self.ids:
            named[name].add(name)
        for key in self.identifiers:
            named[key[1]].add(key)
        return {name: frozenset(entries) for name, entries in named.items()}

    def lines_without(self, matched: Set[Entry]) -> tuple[int, ...]:
        """The lines of the first entries that are not among the matched ones; up to 100."""
        return tuple(sorted(line for entry, line in self.lines.items() if entry not in matched))[
            :MAX_LINES_NAMED
        ]


def read_opt_out(path: Path) -> OptOutList:
    """Read a list with one patient a line: an id, a reference or "system|value"; "#" starts a comment.

    A reference is "Patient/id", with a server before it or a version ("/_history/1") behind it, or neither.

    A CSV file with several columns needs a header that names one of them id, patient_id or identifier.

    Raises:
        GemelError: GEM244 when it cannot be read or a line is ambiguous; the message shows no entry.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise GemelError("GEM244", f"{path.name} is larger than {_MAX_BYTES} bytes.")
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise GemelError("GEM244", f"{path.name} cannot be read: {reason}.") from error
    ids: set[str] = set()
    identifiers: set[tuple[str, str]] = set()
    lines: dict[Entry, int] = {}
    column: int | None = None
    started = False
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        cells = _cells(line, f"{path.name}:{number}")
        if not started:
            started = True
            named = [i for i, cell in enumerate(cells) if cell.lower() in _ID_COLUMNS]
            if named:
                column = named[0]
                continue
        entry = _entry(cells, column, f"{path.name}:{number}")
        system, bar, value = entry.rpartition("|")
        if bar:
            key = (system.strip(), value.strip())
            identifiers.add(key)
            lines.setdefault(key, number)
        else:
            found = _REFERENCE.search(entry)
            name = found.group(1) if found is not None else entry
            ids.add(name)
            lines.setdefault(name, number)
    return OptOutList(frozenset(ids), frozenset(identifiers), lines)


def _cells(line: str, place: str) -> list[str]:
    delimiter = next((mark for mark in ("\t", ";", ",") if mark in line), ",")
    try:
        [cells] = csv.reader([line], delimiter=delimiter, strict=True)
    except (csv.Error, ValueError) as error:
        raise GemelError("GEM244", f"{place}: not a line of a CSV file: {error}.") from error
    return [cell.strip() for cell in cells]


def _entry(cells: list[str], column: int | None, place: str) -> str:
    filled = [cell for cell in cells if cell]
    if column is not None:
        entry = cells[column] if column < len(cells) else ""
    else:
        entry = filled[0] if len(filled) == 1 else ""
    if not entry or entry.endswith("|"):
        reason = "several columns, and no header that names one id" if len(filled) > 1 else "no patient"
        raise GemelError("GEM244", f"{place}: {reason}.")
    return entry
