"""Records as FHIR R4 resources: one template of bytes for each kind of statement, filled from columns.

Ids depend on the cohort's name, the row and the statement alone, and every resource is marked as synthetic.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from gemel.synthetic.export.codes import Kind
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

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:gemel:virtual-cohort")
# Bodily measurements; every other unit is a laboratory's, or a score's.
_VITAL_UNITS = frozenset({"mm[Hg]", "kg/m2", "/min", "Cel", "kg", "cm"})
_SLOT = re.compile(rb'"@number@"|@(\w+)@')
_HEX = np.array([f"{byte:02x}" for byte in range(256)], "S2").view(np.uint8).reshape(256, 2)
# Where the bytes of a UUID stand in its text.
_PLACES = ((0, 8, 0), (8, 12, 9), (12, 16, 14), (16, 20, 19), (20, 32, 24))


def identify(release: str, kind: str, row: int, part: str = "") -> str:
    """The id of one resource: UUIDv5 of release, type, row and part."""
    return str(uuid.uuid5(_NAMESPACE, f"{release}/{kind}/{row}/{part}"))


def identify_rows(release: str, kind: str, rows: Sequence[int], part: str = "") -> list[bytes]:
    """The same for many rows, as columns."""
    if not rows:
        return []
    start, end = _NAMESPACE.bytes + f"{release}/{kind}/".encode(), f"/{part}".encode()
    # UUIDv5 is defined by SHA-1; nothing here rests on its strength.
    digests = [
        hashlib.sha1(b"%b%d%b" % (start, row, end), usedforsecurity=False).digest()[:16] for row in rows
    ]
    numbers = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16).copy()
    numbers[:, 6] = numbers[:, 6] & 0x0F | 0x50
    numbers[:, 8] = numbers[:, 8] & 0x3F | 0x80
    digits = _HEX[numbers].reshape(-1, 32)
    text = np.full((len(digits), 36), ord("-"), np.uint8)
    for first, last, place in _PLACES:
        text[:, place : place + last - first] = digits[:, first:last]
    found: list[bytes] = text.view("S36").ravel().tolist()
    return found


def patient_ids(release: str, patients: int) -> list[str]:
    """The id of every virtual patient, in order."""
    return [number.decode() for number in identify_rows(release, "Patient", range(patients))]


def marks(release: str) -> Resource:
    """The `meta` of every resource: the security label of test data, and which cohort it is of."""
    tags = [{"system": TAG_SYSTEM, "code": "synthetic"}, {"system": RELEASE_SYSTEM, "code": release}]
    return {"security": [HTEST], "tag": tags}


class Lines:
    """Every resource of some records as JSON: lines of a file for each type, or entries of a bundle for each patient.

    Attributes:
        by_type: For each type its lines; empty when `bundled`.
        of_patient: For each patient its lines, or entries, the Patient first.
    """

    def __init__(self, records: Records, *, bundled: bool = False) -> None:
        self.records, self.release, self._bundled = records, records.release, bundled
        self.by_type: dict[str, list[bytes]] = {}
        self.of_patient: list[list[bytes]] = [[] for _ in range(len(records))]
        self._rows = range(records.first, records.first + len(records))
        self._patients = identify_rows(self.release, "Patient", self._rows)
        self._write_patients()
        first = self._encounters("first", np.zeros(len(records), np.int64))
        self._encounters("last", records.end_days)
        if records.look_back_days:
            self._encounters("before", np.full(len(records), -records.look_back_days))
        self._visits = self._further_visits()
        for statement in records.statements:
            self._state(statement, first)

    def bundles(self) -> list[bytes]:
        """One transaction bundle for each patient, of `bundled` entries."""
        head = {"resourceType": "Bundle", "id": "@id@", "meta": marks(self.release), "type": "transaction"}
        template = _Template(orjson.dumps(head)[:-1] + b',"entry":[')
        heads = template.fill({"id": identify_rows(self.release, "Bundle", self._rows)})
        return [
            b",".join([head + own[0], *own[1:-1], own[-1] + b"]}"])
            for head, own in zip(heads, self.of_patient, strict=True)
        ]

    def _write_patients(self) -> None:
        records, release = self.records, self.release
        resource = self._resource("Patient") | {
            "identifier": [{"system": PATIENT_SYSTEM, "value": f"{release}-@row@"}],
            "name": [{"family": "Synthetic-@short@"}],
            "gender": "@gender@",
            "birthDate": "@born@",
        }
        columns = {
            "id": self._patients,
            "row": [b"%d" % row for row in self._rows],
            "short": [number[:8] for number in self._patients],
            "gender": [(b"female", b"male", b"unknown")[male] for male in records.male.tolist()],
            "born": _day_texts(-records.born_days),
            "died": _day_texts(records.end_days),
        }
        for died in (False, True):
            places = np.flatnonzero(records.died == died).tolist()
            some = {slot: [texts[place] for place in places] for slot, texts in columns.items()}
            self._write(resource | ({"deceasedDateTime": "@died@"} if died else {}), places, some)

    def _encounters(self, part: str, days: Days) -> list[bytes]:
        return self._encounters_at(part, np.arange(len(self.records)), days)

    def _encounters_at(self, part: str, places: Days, days: Days) -> list[bytes]:
        resource = self._resource("Encounter") | {
            "status": "finished",
            "class": {"system": f"{TERMINOLOGY}/v3-ActCode", "code": "AMB", "display": "ambulatory"},
            "subject": {"reference": "Patient/@patient@"},
            "period": {"start": "@day@", "end": "@day@"},
        }
        ids = identify_rows(self.release, "Encounter", (places + self.records.first).tolist(), part)
        patients = [self._patients[place] for place in places.tolist()]
        columns = {"id": ids, "patient": patients, "day": _day_texts(days)}
        self._write(resource, places.tolist(), columns)
        return ids

    def _further_visits(self) -> dict[tuple[int, int], bytes]:
        """The encounters of further visits, by place and day."""
        places, days = self.records.visit_rows - self.records.first, self.records.visit_days
        number = np.arange(len(places)) - np.searchsorted(places, places)
        found: dict[tuple[int, int], bytes] = {}
        for visit in range(int(number.max(initial=-1)) + 1):
            here = number == visit
            ids = self._encounters_at(f"visit/{visit}", places[here], days[here])
            found |= dict(zip(zip(places[here].tolist(), days[here].tolist(), strict=True), ids, strict=True))
        return found

    def _state(self, statement: Statement, first: list[bytes]) -> None:
        places = (statement.rows - self.records.first).tolist()
        if not places:
            return
        kind, body = _spelt(statement)
        columns = {
            "id": identify_rows(self.release, kind, statement.rows.tolist(), statement.name),
            "patient": [self._patients[place] for place in places],
            "day": _day_texts(statement.days),
        }
        if statement.values is not None:
            columns["number"] = _number_texts(statement.values)
        visited = {}
        if statement.name.startswith("visit/"):
            visited = {"encounter": {"reference": "Encounter/@encounter@"}}
            days = statement.days.tolist()
            columns["encounter"] = [self._visits[at] for at in zip(places, days, strict=True)]
        elif not statement.days.any():
            visited = {"encounter": {"reference": "Encounter/@encounter@"}}
            columns["encounter"] = [first[place] for place in places]
        subject = {"subject": {"reference": "Patient/@patient@"}}
        self._write(self._resource(kind) | body | subject | visited, places, columns)

    def _resource(self, kind: str) -> Resource:
        return {"resourceType": kind, "id": "@id@", "meta": marks(self.release)}

    def _write(
        self, resource: Resource, places: Sequence[int], columns: Mapping[str, Sequence[bytes]]
    ) -> None:
        """Fill a resource for the patients at these places."""
        kind, text = resource["resourceType"], orjson.dumps(resource)
        if self._bundled:
            url = f"{kind}/@id@"
            entry = {"fullUrl": f"{BASE_URL}/{url}", "resource": "@resource@", "request": _put(url)}
            text = orjson.dumps(entry).replace(b'"@resource@"', text)
        lines = _Template(text).fill(columns)
        if not self._bundled:
            self.by_type.setdefault(kind, []).extend(lines)
        of_patient = self.of_patient
        for place, line in zip(places, lines, strict=True):
            of_patient[place].append(line)


class _Template:
    """A line with slots: bytes up to the first slot, and so on."""

    def __init__(self, text: bytes) -> None:
        self._slots = [(match[1] or b"number").decode() for match in _SLOT.finditer(text)]
        self._text = _SLOT.sub(b"%b", text.replace(b"%", b"%%"))

    def fill(self, columns: Mapping[str, Sequence[bytes]]) -> list[bytes]:
        """One line for each row of the columns."""
        text = self._text
        return [text % row for row in zip(*(columns[slot] for slot in self._slots), strict=True)]


def _put(url: str) -> Resource:
    return {"method": "PUT", "url": url}


@functools.cache
def _day_text(day: int) -> bytes:
    return (INDEX_DATE + datetime.timedelta(days=day)).isoformat().encode()


def _day_texts(days: Days) -> list[bytes]:
    return [_day_text(day) for day in days.tolist()]


def _number_texts(values: Numbers) -> list[bytes]:
    unique, place = np.unique(values, return_inverse=True)
    texts = [f"{value:.6g}" for value in unique.tolist()]
    encoded = [(f"{float(text):f}".rstrip("0") if "e" in text else text).encode() for text in texts]
    return [encoded[at] for at in place.tolist()]


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
            "valueQuantity": {"value": "@number@", "unit": unit, "system": UCUM, "code": unit},
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
