"""The rules for single lines of an export: what a resource needs before a patient's data set may rest on it.

A line at fault is rejected. A line that is well formed but says of itself that it does not count (entered in error,
another status) is accepted, and counted as excluded: it may replace an older version of itself.
"""

from __future__ import annotations

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import date

import msgspec

from gemel.core.programme import Concept, Programme
from gemel.data_adapters.concepts import ConceptIndex
from gemel.data_adapters.intake import Coding, Fault, Header, type_fault
from gemel.data_adapters.units import COMMON_ALIASES, find_conversion

USABLE_OBSERVATIONS = ("final", "amended", "corrected")
INDEX_ENCOUNTERS = ("finished",)
UNUSED_ENCOUNTERS = ("planned", "cancelled", "entered-in-error")
NEGATED = ("entered-in-error", "refuted")
MAX_EXAMPLES = 20


class CodeableConcept(msgspec.Struct):
    """FHIR CodeableConcept, as far as it is used."""

    coding: list[Coding] | None = None
    text: str | None = None


class Quantity(msgspec.Struct):
    """FHIR Quantity, as far as it is used."""

    value: float | None = None
    unit: str | None = None
    code: str | None = None
    comparator: str | None = None


class Reference(msgspec.Struct):
    """FHIR Reference, as far as it is used."""

    reference: str | None = None


class Period(msgspec.Struct):
    """FHIR Period."""

    start: str | None = None
    end: str | None = None


class Patient(msgspec.Struct):
    """FHIR Patient, as far as it is used."""

    birthDate: str | None = None
    deceasedDateTime: str | None = None


class Component(msgspec.Struct):
    """A component of an Observation."""

    code: CodeableConcept | None = None
    valueQuantity: Quantity | None = None
    dataAbsentReason: CodeableConcept | None = None


class Observation(msgspec.Struct):
    """FHIR Observation, as far as it is used; `context` is STU3's."""

    status: str | None = None
    code: CodeableConcept | None = None
    subject: Reference | None = None
    effectiveDateTime: str | None = None
    effectiveInstant: str | None = None
    effectivePeriod: Period | None = None
    valueQuantity: Quantity | None = None
    dataAbsentReason: CodeableConcept | None = None
    component: list[Component] | None = None
    context: msgspec.Raw | None = None


class Condition(msgspec.Struct):
    """FHIR Condition, as far as it is used; a text as status, and `assertedDate`, are STU3's."""

    clinicalStatus: CodeableConcept | str | None = None
    verificationStatus: CodeableConcept | str | None = None
    code: CodeableConcept | None = None
    subject: Reference | None = None
    onsetDateTime: str | None = None
    recordedDate: str | None = None
    assertedDate: str | None = None


class Encounter(msgspec.Struct):
    """FHIR Encounter, as far as it is used; `actualPeriod` is R5's."""

    status: str | None = None
    subject: Reference | None = None
    period: Period | None = None
    actualPeriod: Period | None = None


class ClinicalRules:
    """Judges lines one by one and keeps the tallies of what it saw.

    Attributes:
        excluded: Lines that say of themselves that they do not count, by (type, reason).
        synthetic: Lines with the HTEST security label.
        other_versions: Lines of another FHIR version, by version.
        unmapped: Codes that no concept of the programme knows, by (system, code).
        values: Usable values or diagnoses, by concept.
        patients: Patients (references) with at least one of them, by concept.
        implausible, comparators, absent: Values left out, by concept.
        partial_dates: Dates without a day, by element.
        examples: Up to 20 values outside plausible bounds.
    """

    def __init__(
        self, programme: Programme | None = None, *, aliases: Mapping[str, str] = COMMON_ALIASES
    ) -> None:
        self._concepts = ConceptIndex(programme) if programme is not None else None
        self._aliases = aliases
        self.excluded: Counter[tuple[str, str]] = Counter()
        self.synthetic = 0
        self.other_versions: Counter[str] = Counter()
        self.unmapped: Counter[tuple[str, str]] = Counter()
        self.values: Counter[str] = Counter()
        self.patients: defaultdict[str, set[str]] = defaultdict(set)
        self.implausible: Counter[str] = Counter()
        self.comparators: Counter[str] = Counter()
        self.absent: Counter[str] = Counter()
        self.partial_dates: Counter[str] = Counter()
        self.examples: list[str] = []

    def judge(self, header: Header, content: bytes) -> Fault | None:
        """What is wrong with a resource, or None."""
        if not header.id:
            return Fault("GEM207", "$.id", "the resource has no id")
        security = header.meta.security if header.meta is not None else None
        if security and any(label.code == "HTEST" for label in security):
            self.synthetic += 1
        rule = _RULES.get(header.resourceType)
        if rule is None:
            return None
        decode, method = rule
        try:
            resource = decode(content)
        except msgspec.ValidationError as error:
            return type_fault(error)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return Fault("GEM201", "$", f"not JSON: {error}")
        fault: Fault | None = method(self, resource)
        return fault

    def _patient(self, patient: Patient) -> Fault | None:
        return self._dates(
            ("Patient.birthDate", patient.birthDate), ("Patient.deceasedDateTime", patient.deceasedDateTime)
        )

    def _encounter(self, encounter: Encounter) -> Fault | None:
        if encounter.actualPeriod is not None:
            return self._other_version("R5", "$.actualPeriod")
        if encounter.status in UNUSED_ENCOUNTERS:
            self.excluded["Encounter", f"status {encounter.status}"] += 1
            return None
        fault = _subject_fault(encounter.subject)
        if fault is not None:
            return fault
        period = encounter.period or Period()
        if encounter.status in INDEX_ENCOUNTERS and not period.start:
            return Fault("GEM207", "$.period.start", "a finished encounter has no start")
        return self._dates(("Encounter.period.start", period.start), ("Encounter.period.end", period.end))

    def _condition(self, condition: Condition) -> Fault | None:
        for status in (condition.clinicalStatus, condition.verificationStatus):
            if isinstance(status, str):
                return self._other_version("STU3", "$.clinicalStatus")
        if condition.assertedDate is not None:
            return self._other_version("STU3", "$.assertedDate")
        for status in (condition.clinicalStatus, condition.verificationStatus):
            for coding in _codings(status if isinstance(status, CodeableConcept) else None):
                if coding.code in NEGATED:
                    self.excluded["Condition", coding.code] += 1
                    return None
        fault = _subject_fault(condition.subject) or _code_fault(condition.code)
        if fault is not None:
            return fault
        when = condition.onsetDateTime or condition.recordedDate
        if not when:
            return Fault("GEM207", "$.onsetDateTime", "neither onsetDateTime nor recordedDate")
        fault = self._dates(
            ("Condition.onsetDateTime", condition.onsetDateTime),
            ("Condition.recordedDate", condition.recordedDate),
        )
        if fault is None:
            for concept in self._mapped(condition.code):
                self._count(concept, condition.subject)
        return fault

    def _observation(self, observation: Observation) -> Fault | None:
        if observation.context is not None:
            return self._other_version("STU3", "$.context")
        if observation.status not in USABLE_OBSERVATIONS:
            self.excluded["Observation", f"status {observation.status or 'missing'}"] += 1
            return None
        fault = _subject_fault(observation.subject) or _code_fault(observation.code)
        if fault is not None:
            return fault
        period = observation.effectivePeriod or Period()
        when = observation.effectiveDateTime or observation.effectiveInstant or period.start
        if not when:
            return Fault("GEM207", "$.effectiveDateTime", "the observation has no date")
        fault = self._dates(("Observation.effective", when))
        if fault is not None:
            return fault
        measured = list(self._measured(observation))
        for path, concepts, quantity, _ in measured:
            fault = self._unit_fault(path, concepts, quantity)
            if fault is not None:
                return fault
        for _, concepts, quantity, absent in measured:
            for concept in concepts:
                self._value(concept, quantity, absent, observation.subject)
        return None

    def _measured(
        self, observation: Observation
    ) -> Iterator[tuple[str, tuple[Concept, ...], Quantity | None, bool]]:
        """The observation's own value and those of its components."""
        if observation.valueQuantity is not None or not observation.component:
            concepts = self._mapped(observation.code)
            absent = observation.dataAbsentReason is not None
            yield "$.valueQuantity", concepts, observation.valueQuantity, absent
        for i, component in enumerate(observation.component or ()):
            concepts = self._mapped(component.code)
            absent = component.dataAbsentReason is not None
            yield f"$.component[{i}].valueQuantity", concepts, component.valueQuantity, absent

    def _unit_fault(
        self, path: str, concepts: tuple[Concept, ...], quantity: Quantity | None
    ) -> Fault | None:
        if quantity is None or quantity.value is None:
            return None
        unit = quantity.code or quantity.unit
        if not unit:
            return Fault("GEM202", path, "the quantity has a value and no unit")
        for concept in concepts:
            if concept.unit is not None and find_conversion(unit, concept, aliases=self._aliases) is None:
                return Fault(
                    "GEM203", f"{path}.code", f"{unit!r} cannot become {concept.unit} ({concept.name})"
                )
        return None

    def _value(
        self, concept: Concept, quantity: Quantity | None, absent: bool, subject: Reference | None
    ) -> None:
        if concept.unit is None:
            return
        if quantity is None or quantity.value is None:
            # A missing value without a reason is missing all the same.
            self.absent[concept.name] += 1
            return
        if quantity.comparator is not None:
            self.comparators[concept.name] += 1
            return
        conversion = find_conversion(quantity.code or quantity.unit or "", concept, aliases=self._aliases)
        if conversion is None:
            return
        value = conversion(quantity.value)
        if (concept.low is not None and value < concept.low) or (
            concept.high is not None and value > concept.high
        ):
            self.implausible[concept.name] += 1
            if len(self.examples) < MAX_EXAMPLES:
                self.examples.append(f"{concept.name} = {value:.6g} {concept.unit}")
            return
        self._count(concept, subject)

    def _count(self, concept: Concept, subject: Reference | None) -> None:
        self.values[concept.name] += 1
        if subject is not None and subject.reference is not None:
            self.patients[concept.name].add(subject.reference)

    def _mapped(self, code: CodeableConcept | None) -> tuple[Concept, ...]:
        """The concepts of a code; one that no coding maps is counted under its first coding."""
        if self._concepts is None:
            return ()
        found: tuple[Concept, ...] = ()
        codings = _codings(code)
        for coding in codings:
            found += self._concepts.find(coding.system or "", coding.code or "")
        if not found:
            first = codings[0] if codings else Coding(None, "text only")
            self.unmapped[first.system or "", first.code or ""] += 1
        return tuple(dict.fromkeys(found)) if len(found) > 1 else found

    def _dates(self, *dates: tuple[str, str | None]) -> Fault | None:
        for element, text in dates:
            if not text:
                continue
            if not is_date(text):
                return Fault("GEM210", f"$.{element.partition('.')[2]}", "not a FHIR date")
            if len(text) < 10:
                self.partial_dates[element] += 1
        return None

    def _other_version(self, version: str, path: str) -> Fault:
        self.other_versions[version] += 1
        return Fault("GEM213", path, f"the element is FHIR {version}'s")


_DATE = re.compile(
    r"\d{4}(-\d{2}(-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:\d{2})?)?)?)?", flags=re.ASCII
)


def is_date(text: str) -> bool:
    """True for a FHIR date or dateTime that names a day, month or year of the calendar.

    >>> is_date("2020-02"), is_date("2020-02-30"), is_date("2020-02-03T04:05:06+01:00")
    (True, False, True)
    """
    return _DATE.fullmatch(text) is not None and _in_calendar(text[:10])


@functools.lru_cache(maxsize=65_536)
def _in_calendar(day: str) -> bool:
    try:
        date.fromisoformat(day + "0000-01-01"[len(day) :])
    except ValueError:
        return False
    return True


def _codings(code: CodeableConcept | None) -> list[Coding]:
    return code.coding if code is not None and code.coding else []


def _subject_fault(subject: Reference | None) -> Fault | None:
    if subject is None or not subject.reference:
        return Fault("GEM207", "$.subject", "the resource names no patient")
    return None


def _code_fault(code: CodeableConcept | None) -> Fault | None:
    if code is None or not (code.coding or code.text):
        return Fault("GEM207", "$.code", "the resource has no code")
    return None


_RULES: dict[str, tuple[Callable[[bytes], object], Callable[..., Fault | None]]] = {
    "Patient": (msgspec.json.Decoder(Patient).decode, ClinicalRules._patient),
    "Encounter": (msgspec.json.Decoder(Encounter).decode, ClinicalRules._encounter),
    "Condition": (msgspec.json.Decoder(Condition).decode, ClinicalRules._condition),
    "Observation": (msgspec.json.Decoder(Observation).decode, ClinicalRules._observation),
}
