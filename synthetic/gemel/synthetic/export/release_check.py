"""Every resource of many patients is checked at once: the text that goes into the files, not what it was made from.

Most lines differ from others in ids, dates and numbers alone. The first line of each wording is parsed and checked in full, with
all of its patient (`fhir_check`). Every other line must be the same bytes outside those fields, and each of its fields is
checked: forms, calendar, one id for one resource, references within the patient, the order of dates. Whoever has a field that is not
plainly right is checked in full too, so that this check finds nothing right that the other one finds wrong.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemel.core.concepts import Concept
from gemel.core.errors import GemelError
from gemel.synthetic.export.byte_columns import Bytes, Places, windows
from gemel.synthetic.export.fhir import BASE_URL, BUNDLE_END, Resources
from gemel.synthetic.export.fhir_check import EARLIEST, Checker
from gemel.synthetic.export.ids import ID_LENGTH
from gemel.synthetic.export.records import INDEX_DATE

Mask = NDArray[np.bool_]

# Outside of strings a quote is never escaped, so that none of these can stand within a text.
_FIELDS = re.compile(
    rb'"id":"(?P<id>[^"\\]{36})"'
    rb'|"fullUrl":"' + re.escape(BASE_URL.encode()) + rb'/\w+/(?P<address>[^"\\]{36})"'
    rb'|"url":"\w+/(?P<request>[^"\\]{36})"'
    rb'|"reference":"Patient/(?P<subject>[^"\\]{36})"'
    rb'|"reference":"Encounter/(?P<encounter>[^"\\]{36})"'
    rb'|"(?:birthDate|start|onsetDateTime|effectiveDateTime|authoredOn|performedDateTime)":"(?P<day>[^"\\]{10})"'
    rb'|"(?:deceasedDateTime|end|recordedDate)":"(?P<later>[^"\\]{10})"'
    rb'|"value":-?(?P<number>\d[0-9.]*)[,}]'
    rb'|"value":"[0-9a-f]+-(?P<row>\d+)"'
    rb'|"family":"Synthetic-(?P<short>[0-9a-f]{8})"'
)
_PATIENT, _ENCOUNTER, _OTHER = 0, 1, 2
_TYPE = re.compile(rb'"resourceType"\s*:\s*"(\w+)"')
_KINDS = {b"Patient": _PATIENT, b"Encounter": _ENCOUNTER}
_BLANK = ord("#")
# Of each character: 1 for a digit of an id, 2 for a hyphen, 0 for any other.
_CLASSES = np.zeros(256, np.uint8)
_CLASSES[list(b"0123456789abcdef")], _CLASSES[ord("-")] = 1, 2
_UUID_CLASSES = _CLASSES[list(b"00000000-0000-5000-8000-000000000000")]
_IS_VARIANT = np.isin(np.arange(256), list(b"89ab"))
# An id and zeros up to whole words of eight bytes.
_PADDED = 40
# Years of which the calendar knows the days; nobody was born before.
_FIRST_YEAR, _LAST_YEAR = 1800, 2299
_NEVER = -(2**31)
_HYPHEN = ord("-") - ord("0")
# Odd, so that no bit of an id is lost; which ones they are does not matter.
_MIX = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F],
    np.uint64,
)


class _Wording(NamedTuple):
    """A line with its fields blanked out: uint8 (length,), and where they stand."""

    text: Bytes
    fields: dict[str, slice]
    kind: int


@dataclass
class _Fields:
    """What stands in the fields of m lines; zeros where a line has no such field.

    Attributes:
        id, subject, encounter: uint8 (m, 40), the text of an id and zeros.
        day, later: uint8 (m, 10). kind: int8 (m,). wrong: bool (m,), of lines with a field that is not plainly right.
    """

    id: Bytes
    subject: Bytes
    encounter: Bytes
    day: Bytes
    later: Bytes
    kind: NDArray[np.int8]
    wrong: Mask

    @classmethod
    def of(cls, lines: int) -> _Fields:
        """Of so many lines, without anything yet."""
        ids = [np.zeros((lines, _PADDED), np.uint8) for _ in range(3)]
        days = [np.zeros((lines, 10), np.uint8) for _ in range(2)]
        return cls(ids[0], ids[1], ids[2], days[0], days[1], np.zeros(lines, np.int8), np.zeros(lines, bool))

    def put(self, lines: Places, found: Mapping[str, Bytes], kind: int) -> None:
        """Note what stands in the fields (l, width) of lines (l,), and whether their forms are right."""
        for name in ("id", "subject", "encounter"):
            if name in found:
                getattr(self, name)[lines, :ID_LENGTH] = found[name]
        for name in ("day", "later"):
            if name in found:
                getattr(self, name)[lines] = found[name]
        wrong = np.zeros(len(lines), bool)
        for name in ("address", "request"):
            if name in found:
                wrong |= (found[name] != found["id"]).any(axis=1)
        for name in ("number", "row"):
            if name in found:
                wrong |= ~_are_numbers(found[name])
        if "short" in found:
            wrong |= (_CLASSES[found["short"]] != 1).any(axis=1)
        self.kind[lines], self.wrong[lines] = kind, wrong

    def forget(self, lines: Places) -> None:
        """Take back what was noted of lines."""
        for noted in (self.id, self.subject, self.encounter, self.day, self.later, self.kind, self.wrong):
            noted[lines] = 0


class ReleaseChecker:
    """Checks the resources of a release, some patients at a time; the units and codes of `concepts` may stand there too."""

    def __init__(self, concepts: Iterable[Concept] = ()) -> None:
        self._full = Checker(concepts)
        self._sound: dict[bytes, _Wording] = {}

    def check(self, resources: Resources) -> None:
        """Check every resource and every byte between them. Raises GEM703."""
        heads = _check_whole(resources)
        fields, new = self._fields_of(resources)
        suspects, ids = resources.places[_suspicious(fields, resources)], fields.id
        if heads is not None:
            odd, own = self._heads(resources, heads, new)
            suspects, ids = np.concatenate([suspects, odd]), np.concatenate([ids, own])
        _check_apart(ids.view(np.uint64))
        for place in sorted({*suspects.tolist(), *(place for _, place in new.values())}):
            if resources.bundles is None:
                self._full.check_lines(resources.of_patient(place))
            else:
                self._full.check_bundle(resources.bundle(place))
        self._sound |= {text: wording for text, (wording, _) in new.items()}

    def _fields_of(self, resources: Resources) -> tuple[_Fields, dict[bytes, tuple[_Wording, int]]]:
        """The fields of all lines, and the wordings that were not known, each with a patient who has it."""
        fields = _Fields.of(len(resources.places))
        new: dict[bytes, tuple[_Wording, int]] = {}
        lengths = resources.ends - resources.starts
        order = np.lexsort((lengths, resources.alike))
        edges = np.flatnonzero(np.diff(resources.alike[order]) | np.diff(lengths[order])) + 1
        for some in np.split(order, edges):
            while len(some):
                some = self._take(resources, some, fields, new)
        return fields, new

    def _heads(
        self, resources: Resources, heads: Places, new: dict[bytes, tuple[_Wording, int]]
    ) -> tuple[Places, Bytes]:
        """Look at what stands in each bundle before its first entry, from and to `heads` (n, 2).

        Gives the patients whose bundle has to be checked in full, and the ids (n, 40) of all bundles.
        """
        everybody, alike = np.arange(len(heads)), np.zeros(len(heads), np.int64)
        part = dataclasses.replace(
            resources, starts=heads[:, 0], ends=heads[:, 1], places=everybody, alike=alike
        )
        fields, found = self._fields_of(part)
        new |= found
        return everybody[fields.wrong | ~_are_ids(fields.id)], fields.id

    def _take(
        self, resources: Resources, some: Places, fields: _Fields, new: dict[bytes, tuple[_Wording, int]]
    ) -> Places:
        """Take the fields of those of some equally long lines that have the wording of the first; gives the others."""
        length = int(resources.ends[some[0]] - resources.starts[some[0]])
        lines = windows(resources.content, length)[resources.starts[some]]
        wording = _wording_of(lines[0].tobytes())
        if "id" not in wording.fields:
            # Not as we spell it: each is checked in full.
            fields.wrong[some] = True
            fields.kind[some] = [_kind_of(line.tobytes()) for line in lines]
            return some[:0]
        text = wording.text.tobytes()
        if text in self._sound:
            wording = self._sound[text]
        else:
            new.setdefault(text, (wording, int(resources.places[some[0]])))
        fields.put(some, {name: lines[:, place] for name, place in wording.fields.items()}, wording.kind)
        for place in wording.fields.values():
            lines[:, place] = _BLANK
        equal = lines == wording.text
        if equal.all():
            return some[:0]
        others: Places = some[~equal.all(axis=1)]
        fields.forget(others)
        return others


def _wording_of(line: bytes) -> _Wording:
    fields, text = {}, np.frombuffer(line, np.uint8).copy()
    for match in _FIELDS.finditer(line):
        name = match.lastgroup
        # A field that stands there again is part of the wording, so that every such line is checked in full.
        if name is not None and name not in fields:
            fields[name] = slice(*match.span(name))
            text[fields[name]] = _BLANK
    return _Wording(text, fields, _kind_of(line))


def _kind_of(line: bytes) -> int:
    found = _TYPE.search(line)
    return _KINDS.get(found[1] if found else b"", _OTHER)


def _are_numbers(text: Bytes) -> Mask:
    """Which of these (m, w) are unsigned numbers as JSON has them: digits, and one point at most, within them."""
    point, digit = text == ord("."), (text >= ord("0")) & (text <= ord("9"))
    sound: Mask = (point | digit).all(axis=1) & (point.sum(axis=1) <= 1) & digit[:, 0] & digit[:, -1]
    if text.shape[1] > 1:
        sound &= (text[:, 0] != ord("0")) | point[:, 1]
    return sound


def _check_whole(resources: Resources) -> Places | None:
    """Between resources stands what separates them and nothing else; each bundle holds resources of one patient.

    Gives where each bundle starts and its first entry does, (n, 2); None where there are no bundles.
    """
    content, bundles = resources.content, resources.bundles
    order = np.argsort(resources.starts)
    starts, ends = resources.starts[order], resources.ends[order]
    heads = None
    if bundles is None:
        whole = (
            np.array_equal(starts, np.append(0, ends[:-1] + 1))
            and int(ends[-1]) + 1 == len(content)
            and bool(np.all(content[ends] == ord("\n")))
        )
    else:
        first = np.searchsorted(starts, bundles[:, 0])
        last = np.append(first[1:], len(starts)) - 1
        heads, inner = np.stack([bundles[:, 0], starts[first]], axis=1), np.ones(len(starts), bool)
        inner[last] = False
        end = windows(content, len(BUNDLE_END))[ends[last]]
        whole = (
            np.array_equal(bundles[:, 0], np.append(0, bundles[:-1, 1] + 1))
            and np.array_equal(bundles[:, 1] + 1, ends[last] + len(BUNDLE_END))
            and int(bundles[-1, 1]) + 1 == len(content)
            and np.array_equal(starts[1:][inner[:-1]], ends[inner] + 1)
            and bool(np.all(content[ends[inner]] == ord(",")))
            and bool(np.all(end == np.frombuffer(BUNDLE_END, np.uint8)))
            and np.array_equal(resources.places[order], np.repeat(np.arange(len(first)), last + 1 - first))
        )
    if not whole:
        raise GemelError("GEM703", "Between the resources stands something else than what separates them.")
    return heads


def _suspicious(fields: _Fields, resources: Resources) -> Mask:
    """Which lines (m,) have fields that are not plainly right."""
    places, n = resources.places, int(resources.places.max(initial=-1)) + 1
    patient, encounter = fields.kind == _PATIENT, fields.kind == _ENCOUNTER
    if not np.array_equal(np.sort(places[patient]), np.arange(n)):
        raise GemelError("GEM703", "The resources of a patient do not start with the Patient.")
    of_place = np.empty(n, np.int64)
    of_place[places[patient]] = np.flatnonzero(patient)
    wrong: Mask = fields.wrong | ~_are_ids(fields.id)
    words = fields.id.view(np.uint64)
    subject, owner = fields.subject.view(np.uint64), words[of_place[places]]
    wrong |= ~patient & (subject != owner).any(axis=1)
    visited = np.flatnonzero(fields.encounter[:, 0])
    wrong[visited] |= ~_leads_to(
        fields.encounter.view(np.uint64)[visited], places[visited], words, places, encounter
    )
    wrong |= _out_of_time(fields, patient, of_place[places])
    return wrong


def _out_of_time(fields: _Fields, patient: Mask, own: Places) -> Mask:
    """Which lines are told of a day that is none, or not between birth and death; `own` is the line of their Patient."""
    day, later = _days(fields.day), _days(fields.later)
    has_later = fields.later[:, 0] > 0
    born, died = (
        np.maximum(day[own], (EARLIEST - INDEX_DATE).days),
        np.where(has_later, later, 2**31 - 1)[own],
    )
    last = np.where(has_later, later, day)
    outside = (day == _NEVER) | (last == _NEVER) | (last < day) | (day < born) | (last > died)
    # A Patient's own days are those of birth and death.
    outside_life = (day == _NEVER) | (day >= 0) | (has_later & (later < 0))
    return np.asarray(np.where(patient, outside_life, outside), bool)


def _key(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A number (m,) for each text (m, 5), equal for equal ones."""
    mixed: NDArray[np.uint64] = (words * _MIX).sum(axis=1, dtype=np.uint64)
    return mixed


def _are_ids(text: Bytes) -> Mask:
    """Which of these (m, 40) are UUIDs of version 5."""
    sound: Mask = (_CLASSES[text[:, :ID_LENGTH]] == _UUID_CLASSES).all(axis=1)
    sound &= (text[:, 14] == ord("5")) & _IS_VARIANT[text[:, 19]]
    return sound


def _check_apart(words: NDArray[np.uint64]) -> None:
    """No id is used twice; lines without one are others' to check."""
    words = words[words[:, 0] > 0]
    keys = _key(words)
    ordered = np.sort(keys)
    if doubted := set(ordered[1:][ordered[1:] == ordered[:-1]].tolist()):
        texts = [words[at].tobytes() for at in np.flatnonzero(np.isin(keys, list(doubted)))]
        if len(set(texts)) < len(texts):
            raise GemelError("GEM703", "An id is used twice.")


def _leads_to(
    references: NDArray[np.uint64],
    owners: Places,
    ids: NDArray[np.uint64],
    places: Places,
    encounter: Mask,
) -> Mask:
    """Which references (r,) are ids of an Encounter of the same patient."""
    known = np.flatnonzero(encounter)
    if not len(known):
        return np.zeros(len(references), bool)
    keys = _key(ids[known])
    order = np.argsort(keys)
    at = np.searchsorted(keys[order], _key(references)).clip(max=len(known) - 1)
    found = known[order[at]]
    leads: Mask = (ids[found] == references).all(axis=1) & (places[found] == owners)
    return leads


def _days(text: Bytes) -> NDArray[np.int64]:
    """Days from the index date of dates (m, 10); `_NEVER` for what is no date of the calendar's years."""
    digits = text.T.astype(np.int32) - ord("0")
    sound = (digits[4] == _HYPHEN) & (digits[7] == _HYPHEN)
    for place in (0, 1, 2, 3, 5, 6, 8, 9):
        sound &= (digits[place] >= 0) & (digits[place] <= 9)
    year = ((digits[0] * 10 + digits[1]) * 10 + digits[2]) * 10 + digits[3]
    month, day = digits[5] * 10 + digits[6], digits[8] * 10 + digits[9]
    sound &= (
        (year >= _FIRST_YEAR) & (year <= _LAST_YEAR) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)
    )
    at = np.where(sound, ((year - _FIRST_YEAR) * 12 + month - 1) * 31 + day - 1, 0)
    return np.where(sound, _calendar()[at], _NEVER)


@functools.cache
def _calendar() -> NDArray[np.int64]:
    """Days from the index date by year, month and day of the month; `_NEVER` for the 30th of February."""
    months = np.arange(f"{_FIRST_YEAR}-01", f"{_LAST_YEAR + 1}-01", dtype="datetime64[M]")
    days = months.astype("datetime64[D]")[:, None] + np.arange(31)
    exists = days.astype("datetime64[M]") == months[:, None]
    since = days.astype(np.int64) - np.datetime64(INDEX_DATE, "D").astype(np.int64)
    return np.where(exists, since, _NEVER).ravel()
