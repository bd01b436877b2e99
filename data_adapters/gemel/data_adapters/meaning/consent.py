"""Who may be read at all: FHIR Consent and the site's opt-out list, before anything else sees a patient.

Without a word, patients are in; a denial, a withdrawn permission or the opt-out list takes them out. With
`require = "consent"` in the site's mapping only those with a permission are in. A Consent that cannot be interpreted
takes its patient out: doubt never permits. Decided anew for each data set, as of a day.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec

from gemel.data_adapters.meaning.consent_rules import (
    Consent,
    Meta,
    Reference,
    Verdict,
    judge_consent,
)
from gemel.data_adapters.meaning.opt_out import Entry, OptOutList, read_opt_out
from gemel.data_adapters.meaning.site_mapping import NO_MAPPING, SiteMapping
from gemel.data_adapters.reading.json_line import NOT_JSON, RepeatedKeyError, check_line
from gemel.data_adapters.sources.files import open_export, read_blocks

OPTED_OUT = "on the opt-out list"

_REFERENCE = re.compile(r"(?:^|/)Patient/([A-Za-z0-9\-.]{1,64})(?:/_history/[^/]+)?$")
_NAMED_PATIENT = re.compile(rb"Patient\\?/([A-Za-z0-9\-.]{1,64})|urn:uuid:([A-Za-z0-9\-.]{1,64})")
# JSON may write letters as escapes; a type's name so written is looked at, too.
_ESCAPED_LETTER = re.compile(rb"\\u00[4-7][0-9a-fA-F]")
_WORST_FIRST = (Verdict.UNCLEAR, Verdict.DENY, Verdict.PARTIAL)


@dataclass(frozen=True)
class Withheld:
    """The patients of an export that no further step may see.

    Attributes:
        ids: Patient ids that are withheld.
        reasons: How many patients, by reason; each patient under one.
        only: With `require = "consent"`, the ids that are permitted; None when everybody not in `ids` is in.
        consents: Consents that decided (the newest version of each), by what they say.
        unread: Lines that are a Consent and cannot be read; the patients whom they name are withheld.
        nobody: Consents that name no patient of the export, or cannot be attributed to one.
        unmatched: Entries of the opt-out list that name no patient of the export: typing errors, perhaps.
        unmatched_lines: The lines of the list on which the first 100 of them stand.
    """

    ids: frozenset[str] = frozenset()
    reasons: Mapping[str, int] = field(default_factory=dict)
    only: frozenset[str] | None = None
    consents: Mapping[str, int] = field(default_factory=dict)
    unread: int = 0
    nobody: int = 0
    unmatched: int = 0
    unmatched_lines: tuple[int, ...] = ()

    def __contains__(self, patient_id: object) -> bool:
        """Whether a patient is withheld."""
        return patient_id in self.ids or (self.only is not None and patient_id not in self.only)


NOBODY = Withheld()


class _Patient(msgspec.Struct):
    """Any content, because the reading proper accepts a Patient whatever its identifiers look like."""

    resourceType: str
    id: str | None = None
    identifier: Any = None


class _Header(msgspec.Struct):
    resourceType: str


def withheld_patients(
    export: Path, *, opt_out: Path | None = None, on: date, mapping: SiteMapping = NO_MAPPING
) -> Withheld:
    """The patients that an export's Consents and an opt-out list remove, as of a day.

    One pass looks for Consents only; another for Patients when there is an opt-out list or a Consent that names its
    patient by identifier.

    Raises:
        GemelError: GEM208 when the export cannot be read; GEM244 when the opt-out list cannot.
    """
    listed = read_opt_out(opt_out) if opt_out is not None else OptOutList()
    book = _ConsentBook()
    for line in _lines_of(export, b"Consent"):
        book.take(line)
    verdicts, logical = book.verdicts(on)
    matched: set[str] = set()
    unmatched, unmatched_lines = len(listed), listed.lines_without(matched)
    nobody = book.unattributed
    if opt_out is not None or logical:
        patients = _Patients(listed, logical)
        for line in _lines_of(export, b"Patient"):
            patients.take(line)
        for key, says in logical.items():
            for patient_id in patients.identified.get(key, ()):
                verdicts[patient_id] += says
            nobody += 0 if key in patients.identified else len(says)
        matched, unmatched = patients.opted_out, patients.unmatched
        unmatched_lines = listed.lines_without(patients.matched)
    reasons = {patient_id: reason for patient_id, says in verdicts.items() if (reason := _reason(says))}
    reasons |= dict.fromkeys(matched, OPTED_OUT)
    only = None
    if mapping.require_consent:
        permitted = (patient_id for patient_id, says in verdicts.items() if Verdict.PERMIT in says)
        only = frozenset(patient_id for patient_id in permitted if patient_id not in reasons)
    return Withheld(
        ids=frozenset(reasons),
        reasons=dict(sorted(Counter(reasons.values()).items())),
        only=only,
        consents=dict(sorted(book.counts.items())),
        unread=book.unread,
        nobody=nobody,
        unmatched=unmatched,
        unmatched_lines=unmatched_lines,
    )


def _reason(says: list[Verdict]) -> str | None:
    """Why a patient is withheld: any denial or doubt, or a withdrawal that no other permission follows."""
    for worst in _WORST_FIRST:
        if worst in says:
            return worst.value
    return Verdict.WITHDRAWN.value if Verdict.WITHDRAWN in says and Verdict.PERMIT not in says else None


def _lines_of(export: Path, resource_type: bytes) -> Iterator[bytes]:
    """The lines that may be a resource of a type; most blocks are passed over without splitting them."""
    quoted = b'"' + resource_type + b'"'
    for file in open_export(export):
        for block in read_blocks(file):
            escaped = _ESCAPED_LETTER.search(block.data) is not None
            if quoted not in block.data and not escaped:
                continue
            for line in block.lines:
                if quoted in line or (escaped and _is_escaped(line, resource_type)):
                    yield line


def _is_escaped(line: bytes, resource_type: bytes) -> bool:
    if _ESCAPED_LETTER.search(line) is None:
        return False
    try:
        return _decode_header(line).resourceType.encode() == resource_type
    except (*NOT_JSON, msgspec.ValidationError):
        return False


_decode_header = msgspec.json.Decoder(_Header).decode
_decode_consent = msgspec.json.Decoder(Consent).decode
_decode_patient = msgspec.json.Decoder(_Patient).decode
_Version = tuple[datetime, int, str]


class _ConsentBook:
    """The newest version of each Consent. Versions that nothing tells apart all count, so that no order decides."""

    def __init__(self) -> None:
        self._newest: dict[str, tuple[_Version, list[Consent]]] = {}
        self._without_id: list[Consent] = []
        self._unreadable: list[str] = []
        self.counts: Counter[str] = Counter()
        self.unread = 0
        self.unattributed = 0

    def take(self, line: bytes) -> None:
        """Take in a line that mentions the type; other resources that do are passed over."""
        try:
            if _decode_header(line).resourceType != "Consent":
                return
            check_line(line)
            consent = _decode_consent(line)
        except (*NOT_JSON, msgspec.ValidationError, RepeatedKeyError):
            self._take_unreadable(line)
            return
        if not consent.id:
            self._without_id.append(consent)
            return
        version = _version(consent.meta)
        known = self._newest.get(consent.id)
        if known is None or version > known[0]:
            self._newest[consent.id] = (version, [consent])
        elif version == known[0]:
            known[1].append(consent)

    def _take_unreadable(self, line: bytes) -> None:
        # A line without the type's own key is another resource that is broken.
        if re.search(rb'"resourceType"\s*:\s*"Consent"', line) is None and not _ESCAPED_LETTER.search(line):
            return
        self.unread += 1
        named = [(first or second).decode() for first, second in _NAMED_PATIENT.findall(line)]
        self._unreadable += named
        self.unattributed += not named

    def verdicts(
        self, on: date
    ) -> tuple[defaultdict[str, list[Verdict]], dict[tuple[str, str], list[Verdict]]]:
        """What the Consents say, by patient id, and by (system, value) of an identifier."""
        by_id: defaultdict[str, list[Verdict]] = defaultdict(list)
        by_identifier: dict[tuple[str, str], list[Verdict]] = {}
        for named in self._unreadable:
            by_id[named].append(Verdict.UNCLEAR)
        versions = [consent for _, consents in self._newest.values() for consent in consents]
        for consent in [*versions, *self._without_id]:
            verdict = judge_consent(consent, on=on)
            self.counts[verdict.value] += 1
            patient = consent.patient or consent.subject or Reference()
            patient_id = _patient_id(patient.reference)
            identifier = patient.identifier
            if patient_id is not None:
                by_id[patient_id].append(verdict)
            elif identifier is not None and identifier.value:
                key = (identifier.system or "", identifier.value)
                by_identifier.setdefault(key, []).append(verdict)
            else:
                self.unattributed += 1
        return by_id, by_identifier


class _Patients:
    """Which patients an opt-out list and Consents by identifier mean."""

    def __init__(self, listed: OptOutList, logical: Mapping[tuple[str, str], object]) -> None:
        self._listed = listed
        self._logical = logical
        self.matched: set[Entry] = set()
        self.opted_out: set[str] = set()
        self.identified: defaultdict[tuple[str, str], set[str]] = defaultdict(set)

    def take(self, line: bytes) -> None:
        """Take in a line; what is no readable Patient is left to the reading proper, which rejects it."""
        try:
            patient = _decode_patient(line)
        except (*NOT_JSON, msgspec.ValidationError):
            return
        if patient.resourceType != "Patient" or not patient.id:
            return
        keys = _identifiers(patient.identifier)
        named: set[Entry] = set()
        named |= {patient.id, f"urn:uuid:{patient.id}", *(value for _, value in keys)} & self._listed.ids
        named |= keys & self._listed.identifiers
        if named:
            self.matched |= named
            self.opted_out.add(patient.id)
        for key in keys & self._logical.keys():
            self.identified[key].add(patient.id)

    @property
    def unmatched(self) -> int:
        """Entries of the list that no patient matched."""
        return len(self._listed) - len(self.matched)


def _identifiers(content: Any) -> set[tuple[str, str]]:
    """Each (system, value), also where numbers stand for texts, or one identifier for a list."""
    entries = content if isinstance(content, list) else [content]
    return {
        (str(entry.get("system") or ""), str(entry["value"]))
        for entry in entries
        if isinstance(entry, dict) and entry.get("value") is not None
    }


def _patient_id(reference: str | None) -> str | None:
    if not reference:
        return None
    if reference.startswith("urn:uuid:"):
        return reference[9:]
    found = _REFERENCE.search(reference)
    return found.group(1) if found is not None else None


def _version(meta: Meta | None) -> _Version:
    """Orders versions: by lastUpdated, then by versionId (as a number where it is one)."""
    text = (meta.lastUpdated if meta is not None else None) or ""
    version = (meta.versionId if meta is not None else None) or ""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        when = datetime.min
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return when, int(version) if version.isdecimal() and len(version) < 19 else -1, version
