"""Records as FHIR R4 resources: one template of bytes for each kind of statement, filled from columns.

Ids depend on the cohort's name, the row and the statement alone, and every resource is marked as synthetic.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import orjson

from gemel.synthetic.export.byte_columns import Bytes, Column, Lines, Places, column_of, windows
from gemel.synthetic.export.codes import Kind
from gemel.synthetic.export.ids import numbers_within, patient_numbers, spelt
from gemel.synthetic.export.records import INDEX_DATE, Days, Numbers, Records, Statement

Resource = dict[str, Any]

FHIR_VERSION = "4.0.1"
HTEST = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason",
    "code": "HTEST",
    "display": "test health data",
}
TAG_SYSTEM = "urn:gemel:tag"
RELEASE_SYSTEM = "urn:gemel:release"
PATIENT_SYSTEM = "urn:gemel:virtual-patient"
UCUM = "http://unitsofmeasure.org"
TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
# Where virtual patients live: a name that no server can have (RFC 2606).
BASE_URL = "https://virtual-patients.invalid/fhir"
# What stands after the last entry of a bundle.
BUNDLE_END = b"]}\n"

# Bodily measurements; every other unit is a laboratory's, or a score's.
_VITAL_UNITS = frozenset({"mm[Hg]", "kg/m2", "/min", "Cel", "kg", "cm"})
_GENDERS = (b"female", b"male", b"unknown")
_DAYS_OF_A_CENTURY = 36_525
_FIRST = "Encounter/first"


def marks(release: str) -> Resource:
    """The `meta` of every resource: the security label of test data, and which cohort it is of."""
    tags = [{"system": TAG_SYSTEM, "code": "synthetic"}, {"system": RELEASE_SYSTEM, "code": release}]
    return {"security": [HTEST], "tag": tags}


@dataclass(frozen=True)
class Resources:
    """The resources of some records as they go into files.

    Attributes:
        content: uint8 (bytes,), line after line.
        files: By type of resource, or "Bundle": the part of the content that belongs into its file.
        starts, ends: int64 (m,) of each resource in the content; in bundles, of its entry.
        places: int64 (m,), whose resource it is, counted from the first patient here.
        alike: int64 (m,): of one number are those that were spelt from one template.
        bundles: int64 (n, 2), start and end of each patient's bundle; None where each resource has a line.
    """

    content: Bytes
    files: dict[str, slice]
    starts: Places
    ends: Places
    places: Places
    alike: Places
    bundles: Places | None

    def of_patient(self, place: int) -> list[bytes]:
        """The resources, or entries, of a patient, the Patient first."""
        mine = np.flatnonzero(self.places == place)
        return [
            self.content[start:end].tobytes()
            for start, end in zip(self.starts[mine].tolist(), self.ends[mine].tolist(), strict=True)
        ]

    def bundle(self, place: int) -> bytes:
        """The bundle of a patient."""
        if self.bundles is None:
            raise ValueError("These resources are in no bundles.")
        start, end = self.bundles[place].tolist()
        return self.content[start:end].tobytes()


def resources_of(records: Records, *, bundled: bool = False, room: Bytes | None = None) -> Resources:
    """Every resource of some records: lines of a file for each type, or a transaction bundle for each patient.

    The content is written over `room` where that is large enough: memory that was used before is there at once.
    """
    spelling = _Spelling(records, bundled=bundled, room=np.empty(0, np.uint8) if room is None else room)
    blocks = spelling.blocks
    lengths = [block.lines.lengths() for block in blocks]
    places = np.concatenate([block.places for block in blocks])
    alike = np.repeat(np.arange(len(blocks)), [len(block.places) for block in blocks])
    lay = _in_bundles if bundled else _in_files
    starts, content, files, bundles = lay(spelling, lengths)
    for block, at in zip(blocks, starts, strict=True):
        block.lines.write(content, at)
    if bundles is not None:
        end = np.frombuffer(BUNDLE_END, np.uint8)
        windows(content, len(end))[bundles[:, 1] + 1 - len(end)] = end
    begin = np.concatenate(starts)
    return Resources(content, files, begin, begin + np.concatenate(lengths) - 1, places, alike, bundles)


_Laid = tuple[list[Places], Bytes, dict[str, slice], Places | None]


def _in_files(spelling: _Spelling, lengths: list[Places]) -> _Laid:
    """Where each line starts: type after type."""
    blocks, files, at = spelling.blocks, dict[str, slice](), 0
    starts: list[Places] = [np.zeros(0, np.int64)] * len(blocks)
    for kind in dict.fromkeys(block.kind for block in blocks):
        begin = at
        for number, block in enumerate(blocks):
            if block.kind == kind:
                ends = np.cumsum(lengths[number])
                starts[number] = at + ends - lengths[number]
                at += int(ends[-1])
        files[kind] = slice(begin, at)
    return starts, spelling.content(at), files, None


def _in_bundles(spelling: _Spelling, lengths: list[Places]) -> _Laid:
    """Where each entry starts: patient after patient. The heads are written already."""
    heads = spelling.heads()
    size = heads.lengths()
    for block, some in zip(spelling.blocks, lengths, strict=True):
        size[block.places] += some
    # The last entry has no comma.
    size += len(BUNDLE_END) - 1
    ends = np.cumsum(size)
    content = spelling.content(int(ends[-1]))
    bundles = np.stack([ends - size, ends - 1], axis=1)
    heads.write(content, bundles[:, 0])
    at, starts = bundles[:, 0] + heads.lengths(), []
    for block, some in zip(spelling.blocks, lengths, strict=True):
        starts.append(at[block.places])
        at[block.places] += some
    return starts, content, {"Bundle": slice(0, len(content))}, bundles


class _Block(NamedTuple):
    """Resources that are spelt alike, at most one of each patient."""

    kind: str
    places: Places
    lines: Lines


class _Encounters(NamedTuple):
    """A visit of each of some patients: int64 (m,), increasing, and the days."""

    name: str
    places: Places
    days: Days


class _Spelling:
    """The templates and columns of some records.

    Attributes:
        blocks: Those of the Patients first.
    """

    def __init__(self, records: Records, *, bundled: bool, room: Bytes) -> None:
        self.records, self._bundled, self._room = records, bundled, room
        self._rows = range(records.first, records.first + len(records))
        encounters, numbers = _encounters(records), patient_numbers(records.release, self._rows)
        self._patients, self._ids = spelt(numbers), self._all_ids(encounters, numbers)
        self.blocks: list[_Block] = []
        self._add_patients()
        for encounter in encounters.values():
            self._add_encounters(encounter)
        for statement in records.statements:
            if len(statement.rows):
                self._add_statement(statement, encounters)

    def content(self, size: int) -> Bytes:
        """Room for so many bytes."""
        return self._room[:size] if size <= len(self._room) else np.empty(size, np.uint8)

    def heads(self) -> Lines:
        """The bundles of all patients, up to their first entry."""
        release = self.records.release
        head = {"resourceType": "Bundle", "id": "@id@", "meta": marks(release), "type": "transaction"}
        return Lines(orjson.dumps(head)[:-1] + b',"entry":[', {"id": Column(self._ids["Bundle"])})

    def _all_ids(self, encounters: Mapping[str, _Encounters], numbers: Bytes) -> dict[str, Bytes]:
        """The ids (m, 36) of all but the Patients, by name."""
        places = {"Bundle": np.arange(len(self.records))} if self._bundled else {}
        places |= {name: encounter.places for name, encounter in encounters.items()}
        places |= {s.name: s.rows - self.records.first for s in self.records.statements}
        counts = [len(some) for some in places.values()]
        ids = spelt(numbers_within(numbers[np.concatenate([*places.values()])], [*places], counts))
        return dict(zip(places, np.split(ids, np.cumsum(counts)[:-1]), strict=True))

    def _add_patients(self) -> None:
        records = self.records
        resource = self._resource("Patient") | {
            "identifier": [{"system": PATIENT_SYSTEM, "value": f"{records.release}-@row@"}],
            "name": [{"family": "Synthetic-@short@"}],
            "gender": "@gender@",
            "birthDate": "@born@",
        }
        rows = [b"%d" % row for row in self._rows]
        for died in (False, True):
            places = np.flatnonzero(records.died == died)
            columns = {
                "id": Column(self._patients[places]),
                "row": column_of(rows, places),
                "short": Column(self._patients[places, :8]),
                "gender": column_of(_GENDERS, records.male[places].astype(np.int64)),
                "born": Column(_dates(-records.born_days[places])),
                "died": Column(_dates(records.end_days[places])),
            }
            self._add(resource | ({"deceasedDateTime": "@died@"} if died else {}), places, columns)

    def _add_encounters(self, encounters: _Encounters) -> None:
        resource = self._resource("Encounter") | {
            "status": "finished",
            "class": {"system": f"{TERMINOLOGY}/v3-ActCode", "code": "AMB", "display": "ambulatory"},
            "subject": {"reference": "Patient/@patient@"},
            "period": {"start": "@day@", "end": "@day@"},
        }
        columns = {
            "id": Column(self._ids[encounters.name]),
            "patient": Column(self._patients[encounters.places]),
            "day": Column(_dates(encounters.days)),
        }
        self._add(resource, encounters.places, columns)

    def _add_statement(self, statement: Statement, encounters: Mapping[str, _Encounters]) -> None:
        places = statement.rows - self.records.first
        kind, body = _spelt(statement)
        columns = {
            "id": Column(self._ids[statement.name]),
            "patient": Column(self._patients[places]),
            "day": Column(_dates(statement.days)),
        }
        if statement.values is not None:
            columns["number"] = _numbers(statement.values)
        resource = self._resource(kind) | body | {"subject": {"reference": "Patient/@patient@"}}
        if statement.visit is not None or not statement.days.any():
            name = _FIRST if statement.visit is None else _visit(statement.visit)
            there = np.searchsorted(encounters[name].places, places)
            columns["encounter"] = Column(self._ids[name][there])
            resource |= {"encounter": {"reference": "Encounter/@encounter@"}}
        self._add(resource, places, columns)

    def _resource(self, kind: str) -> Resource:
        return {"resourceType": kind, "id": "@id@", "meta": marks(self.records.release)}

    def _add(self, resource: Resource, places: Places, columns: Mapping[str, Column]) -> None:
        """Add a resource of each of these patients, with what separates it from the next."""
        if not len(places):
            return
        kind, text = resource["resourceType"], orjson.dumps(resource)
        if self._bundled:
            url = f"{kind}/@id@"
            request = {"method": "PUT", "url": url}
            entry = {"fullUrl": f"{BASE_URL}/{url}", "resource": "@resource@", "request": request}
            text = orjson.dumps(entry).replace(b'"@resource@"', text)
        self.blocks.append(_Block(kind, places, Lines(text + (b"," if self._bundled else b"\n"), columns)))


def _encounters(records: Records) -> dict[str, _Encounters]:
    """The visits of some patients by their name: the first, the last, one before, and further ones by their number."""
    everybody, nothing = np.arange(len(records)), np.zeros(len(records), np.int64)
    found = [
        _Encounters(_FIRST, everybody, nothing),
        _Encounters("Encounter/last", everybody, records.end_days),
    ]
    if records.look_back_days:
        found.append(_Encounters("Encounter/before", everybody, nothing - records.look_back_days))
    places, days = records.visit_rows - records.first, records.visit_days
    number = np.arange(len(places)) - np.searchsorted(places, places)
    for visit in range(int(number.max(initial=-1)) + 1):
        here = number == visit
        found.append(_Encounters(_visit(visit), places[here], days[here]))
    return {encounters.name: encounters for encounters in found}


def _visit(number: int) -> str:
    return f"Encounter/visit/{number}"


def _dates(days: Days) -> Bytes:
    """Dates (m, 10) by days from the index date."""
    if not len(days):
        return np.zeros((0, 10), np.uint8)
    first = int(days.min()) // _DAYS_OF_A_CENTURY
    return _calendar(first, int(days.max()) // _DAYS_OF_A_CENTURY)[days - first * _DAYS_OF_A_CENTURY]


@functools.lru_cache(maxsize=16)
def _calendar(first: int, last: int) -> Bytes:
    """The dates (days, 10) of some centuries, counted from the index date."""
    days = np.arange(first * _DAYS_OF_A_CENTURY, (last + 1) * _DAYS_OF_A_CENTURY)
    texts = np.datetime_as_string(np.datetime64(INDEX_DATE, "D") + days)
    return texts.astype("S10").view(np.uint8).reshape(-1, 10)


def _numbers(values: Numbers) -> Column:
    """Numbers as JSON has them, of six digits."""
    unique, place = np.unique(values, return_inverse=True)
    texts = [f"{value:.6g}" for value in unique.tolist()]
    return column_of(
        [(f"{float(text):f}".rstrip("0") if "e" in text else text).encode() for text in texts], place
    )


def _spelt(statement: Statement) -> tuple[str, Resource]:
    """As hospitals record it: a measurement, a prescription, a procedure or a diagnosis."""
    code = {
        "coding": [{"system": statement.code.system, "code": statement.code.code}],
        "text": statement.title,
    }
    unit = statement.concept.unit
    if unit is not None:
        category = "vital-signs" if unit in _VITAL_UNITS else "survey" if unit[:1] == "{" else "laboratory"
        coding = {"system": f"{TERMINOLOGY}/observation-category", "code": category}
        return "Observation", {
            "status": "final",
            "category": [{"coding": [coding]}],
            "code": code,
            "effectiveDateTime": "@day@",
            "valueQuantity": {"value": "#number#", "unit": unit, "system": UCUM, "code": unit},
        }
    if statement.kind is Kind.DRUG:
        return "MedicationRequest", {
            "status": "completed",
            "intent": "order",
            "medicationCodeableConcept": code,
            "authoredOn": "@day@",
        }
    if statement.kind is Kind.PROCEDURE:
        return "Procedure", {"status": "completed", "code": code, "performedDateTime": "@day@"}
    return "Condition", {
        "clinicalStatus": {"coding": [{"system": f"{TERMINOLOGY}/condition-clinical", "code": "active"}]},
        "verificationStatus": {
            "coding": [{"system": f"{TERMINOLOGY}/condition-ver-status", "code": "confirmed"}]
        },
        "code": code,
        "onsetDateTime": "@day@",
        "recordedDate": "@day@",
    }
