"""Every resource that is written is read back and checked: what a schema library does not look at, and much faster.

`fhir.resources` accepts status "banana", dangling references and any unit; it is the second opinion of the tests.
Elements, bindings and forms are types, which msgspec checks while it parses; what relates elements is code. Every line is
parsed; of a part that many resources share (the marks, a code) each wording is looked into once.
"""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import msgspec

from gemel.core.concepts import Concept, load_concepts
from gemel.core.errors import GemelError
from gemel.synthetic.export.fhir import BASE_URL
from gemel.synthetic.export.records import INDEX_DATE, LONG_AGO

EARLIEST = INDEX_DATE + datetime.timedelta(days=LONG_AGO)

_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_NAMES = re.compile(rf"(?:[A-Za-z]+/{_UUID}\n?)+")
Text = Annotated[str, msgspec.Meta(min_length=1)]


class _Element(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    pass


class _Resource(_Element, frozen=True):
    id: Text
    meta: msgspec.Raw

    def shared(self) -> Shared:
        return (self.meta,)


# Elements as they stand there: each wording is looked into once.
Shared = tuple[msgspec.Raw, ...]


class _Htest(_Element, frozen=True):
    system: Literal["http://terminology.hl7.org/CodeSystem/v3-ActReason"]
    code: Literal["HTEST"]
    display: Literal["test health data"]


class _Synthetic(_Element, frozen=True):
    system: Literal["urn:gemel:tag"]
    code: Literal["synthetic"]


class _Release(_Element, frozen=True):
    system: Literal["urn:gemel:release"]
    code: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]


class _Meta(_Element, frozen=True):
    security: tuple[_Htest]
    tag: tuple[_Synthetic, _Release]


class _Reference(_Element, frozen=True):
    reference: Text


class _Coding(_Element, frozen=True):
    system: Text
    code: Text


class _Concept(_Element, frozen=True):
    coding: tuple[_Coding]
    text: Text


class _Class(_Element, frozen=True):
    system: Literal["http://terminology.hl7.org/CodeSystem/v3-ActCode"]
    code: Literal["AMB"]
    display: Literal["ambulatory"]


class _Period(_Element, frozen=True):
    start: datetime.date
    end: datetime.date


class _Clinical(_Element, frozen=True):
    system: Literal["http://terminology.hl7.org/CodeSystem/condition-clinical"]
    code: Literal["active"]


class _ClinicalStatus(_Element, frozen=True):
    coding: tuple[_Clinical]


class _Verification(_Element, frozen=True):
    system: Literal["http://terminology.hl7.org/CodeSystem/condition-ver-status"]
    code: Literal["confirmed"]


class _VerificationStatus(_Element, frozen=True):
    coding: tuple[_Verification]


class _Category(_Element, frozen=True):
    system: Literal["http://terminology.hl7.org/CodeSystem/observation-category"]
    code: Literal["vital-signs", "survey", "laboratory"]


class _Categories(_Element, frozen=True):
    coding: tuple[_Category]


class _Quantity(_Element, frozen=True):
    value: float
    unit: Text
    system: Literal["http://unitsofmeasure.org"]
    code: Text


class _Identifier(_Element, frozen=True):
    system: Literal["urn:gemel:virtual-patient"]
    value: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}-[0-9]+$")]


class _Name(_Element, frozen=True):
    family: Annotated[str, msgspec.Meta(pattern="^Synthetic-[0-9a-f]{8}$")]


class Patient(_Resource, frozen=True, tag_field="resourceType", tag=True):  # noqa: D101
    identifier: tuple[_Identifier]
    name: tuple[_Name]
    gender: Literal["male", "female", "unknown"]
    birthDate: datetime.date
    deceasedDateTime: datetime.date | None = None

    def fault(self, own: Own) -> str | None:  # noqa: D102
        if self.id != own.patient:
            return "it is another patient"
        if not self.birthDate < INDEX_DATE:
            return "the birth is not before the index date"
        return "the death is before the index date" if own.died < INDEX_DATE else None


class Encounter(_Resource, frozen=True, tag_field="resourceType", tag=True):  # noqa: D101
    status: Literal["finished"]
    class_: msgspec.Raw = msgspec.field(name="class")
    subject: _Reference
    period: _Period

    def shared(self) -> Shared:  # noqa: D102
        return (self.meta, self.class_)

    def fault(self, own: Own) -> str | None:  # noqa: D102
        if self.period.end < self.period.start:
            return "it ends before it starts"
        return own.fault(self.subject, self.period.start, None) or own.fault(
            self.subject, self.period.end, None
        )


class Condition(_Resource, frozen=True, tag_field="resourceType", tag=True):  # noqa: D101
    clinicalStatus: msgspec.Raw
    verificationStatus: msgspec.Raw
    code: msgspec.Raw
    onsetDateTime: datetime.date
    recordedDate: datetime.date
    subject: _Reference
    encounter: _Reference | None = None

    def shared(self) -> Shared:  # noqa: D102
        return (self.meta, self.clinicalStatus, self.verificationStatus, self.code)

    def fault(self, own: Own) -> str | None:  # noqa: D102
        if self.recordedDate < self.onsetDateTime:
            return "it was recorded before its onset"
        return own.fault(self.subject, self.onsetDateTime, self.encounter)


class Observation(_Resource, frozen=True, tag_field="resourceType", tag=True):  # noqa: D101
    status: Literal["final"]
    category: msgspec.Raw
    code: msgspec.Raw
    effectiveDateTime: datetime.date
    valueQuantity: _Quantity
    subject: _Reference
    encounter: _Reference | None = None

    def shared(self) -> Shared:  # noqa: D102
        return (self.meta, self.category, self.code)

    def fault(self, own: Own) -> str | None:  # noqa: D102
        quantity = self.valueQuantity
        if quantity.code not in own.units or quantity.unit != quantity.code:
            return f"the unit {quantity.code!r} is none of the UCUM units that concepts have"
        return own.fault(self.subject, self.effectiveDateTime, self.encounter)


class MedicationRequest(_Resource, frozen=True, tag_field="resourceType", tag=True):  # noqa: D101
    status: Literal["completed"]
    intent: Literal["order"]
    medicationCodeableConcept: msgspec.Raw
    authoredOn: datetime.date
    subject: _Reference
    encounter: _Reference | None = None

    def shared(self) -> Shared:  # noqa: D102
        return (self.meta, self.medicationCodeableConcept)

    def fault(self, own: Own) -> str | None:  # noqa: D102
        return own.fault(self.subject, self.authoredOn, self.encounter)


class Procedure(_Resource, frozen=True, tag_field="resourceType", tag=True):  # noqa: D101
    status: Literal["completed"]
    code: msgspec.Raw
    performedDateTime: datetime.date
    subject: _Reference
    encounter: _Reference | None = None

    def shared(self) -> Shared:  # noqa: D102
        return (self.meta, self.code)

    def fault(self, own: Own) -> str | None:  # noqa: D102
        return own.fault(self.subject, self.performedDateTime, self.encounter)


# What each type shares with others of its kind, as `shared` gives it, and what that must be.
_SHARED: dict[type, tuple[Any, ...]] = {
    Patient: (_Meta,),
    Encounter: (_Meta, _Class),
    Condition: (_Meta, _ClinicalStatus, _VerificationStatus, _Concept),
    Observation: (_Meta, tuple[_Categories], _Concept),
    MedicationRequest: (_Meta, _Concept),
    Procedure: (_Meta, _Concept),
}
AnyResource = Patient | Encounter | Condition | Observation | MedicationRequest | Procedure


class _Request(_Element, frozen=True):
    method: Literal["PUT"]
    url: Text


class _Entry(_Element, frozen=True):
    fullUrl: Text
    resource: AnyResource
    request: _Request


class Bundle(_Resource, frozen=True, tag_field="resourceType", tag=True):  # noqa: D101
    type: Literal["transaction"]
    entry: list[_Entry]


@functools.cache
def ucum_units() -> frozenset[str]:
    """The UCUM units that the concept library measures in; a test holds each against the UCUM grammar."""
    return frozenset(concept.unit for concept in load_concepts().values() if concept.unit is not None)


@functools.cache
def library_codes() -> frozenset[tuple[str, str]]:
    """The codes of the concept library, each with its system."""
    return _codes(load_concepts().values())


def _codes(concepts: Iterable[Concept]) -> frozenset[tuple[str, str]]:
    return frozenset((code.system, code.code) for concept in concepts for code in concept.codes)


class Own:
    """What the resources of one patient may refer to."""

    def __init__(self, patient: Patient, names: Sequence[str], units: frozenset[str]) -> None:
        self.patient, self.known, self.units = patient.id, frozenset(names), units
        self.reference = f"Patient/{patient.id}"
        self.born = max(patient.birthDate, EARLIEST)
        self.died = patient.deceasedDateTime or datetime.date.max

    def fault(self, subject: _Reference, day: datetime.date, encounter: _Reference | None) -> str | None:
        """What is wrong with whom and when a resource is about, or None."""
        if subject.reference != self.reference:
            return f"{subject.reference} is not in these resources"
        if encounter is not None and encounter.reference not in self.known:
            return f"{encounter.reference} is not in these resources"
        if day < self.born:
            return "it happened before the birth, or before any virtual record starts"
        return "it happened after the death" if day > self.died else None


class Checker:
    """Checks the resources of one patient after the other; the units and codes of `concepts` may stand there too."""

    def __init__(self, concepts: Iterable[Concept] = ()) -> None:
        own = tuple(concepts)
        self._units = ucum_units() | {concept.unit for concept in own if concept.unit is not None}
        self._codes = library_codes() | _codes(own)
        self._resources = msgspec.json.Decoder(list[AnyResource])
        self._bundle = msgspec.json.Decoder(Bundle)
        self._sound: dict[type, set[bytes]] = {kind: set() for kind in _SHARED}
        self._sound_marks: set[bytes] = set()

    def check_lines(self, lines: Sequence[bytes]) -> None:
        """Check a patient's resources, one line each, the Patient first. Raises GEM703."""
        self._check(_parsed(self._resources, b"[" + b",".join(lines) + b"]"))

    def check_bundle(self, line: bytes) -> None:
        """Check a patient's transaction bundle and all that is in it. Raises GEM703."""
        bundle = _parsed(self._bundle, line)
        if _NAMES.fullmatch(f"Bundle/{bundle.id}") is None:
            raise GemelError("GEM703", f"Bundle/{bundle.id}: its id is no UUID of version 5.")
        if bytes(bundle.meta) not in self._sound_marks:
            self._check_shared(bundle, (_Meta,))
            self._sound_marks.add(bytes(bundle.meta))
        names = self._check([entry.resource for entry in bundle.entry])
        for entry, name in zip(bundle.entry, names, strict=True):
            if entry.request.url != name or entry.fullUrl != f"{BASE_URL}/{name}":
                raise GemelError("GEM703", f"{name}: its entry of Bundle/{bundle.id} has another address.")

    def _check(self, resources: Sequence[Any]) -> list[str]:
        """Check a patient's resources; gives their types and ids."""
        names = [f"{type(resource).__name__}/{resource.id}" for resource in resources]
        if not resources or type(resources[0]) is not Patient:
            raise GemelError("GEM703", "The resources of a patient do not start with the Patient.")
        own = Own(resources[0], names, self._units)
        if len(own.known) < len(names):
            raise GemelError("GEM703", f"{names[0]}: an id is used twice.")
        if _NAMES.fullmatch("\n".join(names)) is None:
            raise GemelError("GEM703", f"{names[0]}: an id is no UUID of version 5.")
        sound = self._sound
        for resource in resources:
            wording = b"".join(resource.shared())
            if wording not in sound[type(resource)]:
                self._check_shared(resource, _SHARED[type(resource)])
                sound[type(resource)].add(wording)
            fault = resource.fault(own)
            if fault is not None:
                raise GemelError("GEM703", f"{type(resource).__name__}/{resource.id}: {fault}.")
        return names

    def _check_shared(self, resource: Any, shapes: Sequence[Any]) -> None:
        for part, shape in zip(resource.shared(), shapes, strict=True):
            found = _parsed(msgspec.json.Decoder(shape), part)
            if (
                isinstance(found, _Concept)
                and (found.coding[0].system, found.coding[0].code) not in self._codes
            ):
                raise GemelError("GEM703", f"{found.coding[0].code} is no code of the concepts.")


def _parsed(decoder: msgspec.json.Decoder[Any], text: bytes | msgspec.Raw) -> Any:
    try:
        return decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise GemelError("GEM703", f"{error}.") from error
