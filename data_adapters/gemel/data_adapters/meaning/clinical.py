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

from gemel.core.concepts import Concept
from gemel.core.programme import Programme
from gemel.data_adapters.meaning.concepts import ConceptIndex
from gemel.data_adapters.meaning.units import COMMON_ALIASES, UCUM_SYSTEMS, find_conversion
from gemel.data_adapters.reading.intake import Coding, Fault, Header, type_fault
from gemel.data_adapters.reading.json_line import NOT_JSON

USABLE_OBSERVATIONS = ("final", "amended", "corrected")
INDEX_ENCOUNTERS = ("finished",)
UNUSED_ENCOUNTERS = ("planned", "cancelled", "entered-in-error")
NEGATED = ("entered-in-error", "refuted")
GENDERS = ("male", "female", "other", "unknown")
# Outside lie the placeholders for "open" and "not known" (9999-12-31, 0001-01-01). Years to come stay in:
# de-identified records are shifted by centuries.
FIRST_YEAR, LAST_YEAR = "1850", "2299"
MAX_EXAMPLES = 20


class CodeableConcept(msgspec.Struct):
    """FHIR CodeableConcept, as far as it is used."""

    coding: list[Coding] | None = None
    text: str | None = None


class Quantity(msgspec.Struct, forbid_unknown_fields=True):
    """FHIR Quantity, whole: a misspelt `comparator` must not make "<30" a 30."""

    value: float | None = None
    unit: str | None = None
    system: str | None = None
    code: str | None = None
    comparator: str | None = None
    id: str | None = None
    extension: list[msgspec.Raw] | None = None
    value_extension: msgspec.Raw | None = msgspec.field(name="_value", default=None)
    unit_extension: msgspec.Raw | None = msgspec.field(name="_unit", default=None)
    system_extension: msgspec.Raw | None = msgspec.field(name="_system", default=None)
    code_extension: msgspec.Raw | None = msgspec.field(name="_code", default=None)
    comparator_extension: msgspec.Raw | None = msgspec.field(name="_comparator", default=None)


class Reference(msgspec.Struct):
    """FHIR Reference, as far as it is used."""

    reference: str | None = None


class Period(msgspec.Struct):
    """FHIR Period."""

    start: str | None = None
    end: str | None = None


class Patient(msgspec.Struct):
    """FHIR Patient, as far as it is used."""

    gender: str | None = None
    birthDate: str | None = None
    deceasedDateTime: str | None = None


class Component(msgspec.Struct):
    """A component of an Observation."""

    code: CodeableConcept | None = None
    valueQuantity: Quantity | None = None
    valueInteger: int | None = None
    valueString: str | None = None
    dataAbsentReason: CodeableConcept | None = None
    modifierExtension: list[msgspec.Raw] | None = None


class Observation(msgspec.Struct):
    """FHIR Observation, as far as it is used; `context` is STU3's."""

    status: str | None = None
    code: CodeableConcept | None = None
    subject: Reference | None = None
    effectiveDateTime: str | None = None
    effectiveInstant: str | None = None
    effectivePeriod: Period | None = None
    valueQuantity: Quantity | None = None
    valueInteger: int | None = None
    valueString: str | None = None
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
    onsetPeriod: Period | None = None
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
        unit_problems: Values rejected for their unit, by (code of the fault, concept or "", unit or "", reason).
        people: Ids of the patients read.
        subjects: Lines that name a patient, by (type, key of the reference; None when it names no Patient).
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
        self.unit_problems: Counter[tuple[str, str, str, str]] = Counter()
        self.people: set[str] = set()
        self.subjects: Counter[tuple[str, str | None]] = Counter()

    def judge(self, header: Header, content: bytes) -> Fault | None:
        """What is wrong with a resource, or None."""
        if not header.id:
            return Fault("GEM207", "$.id", "the resource has no id")
        if _ID.fullmatch(header.id) is None:
            return Fault("GEM214", "$.id", "a FHIR id is 1 to 64 letters, digits, '-' and '.'")
        security = header.meta.security if header.meta is not None else None
        if security and any(label.code == "HTEST" for label in security):
            self.synthetic += 1
        rule = _RULES.get(header.resourceType)
        if rule is None:
            return None
        if header.modifierExtension:
            return _MODIFIED
        decode, method = rule
        try:
            resource = decode(content)
        except msgspec.ValidationError as error:
            return type_fault(error)
        except NOT_JSON as error:
            return Fault("GEM201", "$", f"not JSON: {error}")
        fault: Fault | None = method(self, resource)
        if fault is None:
            self._person(header, resource)
        return fault

    def orphans(self) -> dict[str, int]:
        """Accepted lines whose patient is not in the export, by type (a line that does not count may name none)."""
        counts: Counter[str] = Counter()
        for (kind, key), number in self.subjects.items():
            if key not in self.people:
                counts[kind] += number
        return dict(sorted(counts.items()))

    def _person(self, header: Header, resource: object) -> None:
        if isinstance(resource, Patient):
            self.people.add(header.id or "")
            return
        subject: Reference | None = getattr(resource, "subject", None)
        if subject is not None and subject.reference:
            self.subjects[header.resourceType, patient_key(subject.reference)] += 1

    def _patient(self, patient: Patient) -> Fault | None:
        if patient.gender and patient.gender not in GENDERS:
            return Fault("GEM214", "$.gender", f"not one of {', '.join(GENDERS)}")
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
        fault = self._dates(("Encounter.period.start", period.start), ("Encounter.period.end", period.end))
        if fault is None and _ends_before_it_starts(period):
            return Fault("GEM210", "$.period", "the period ends before it starts")
        return fault

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
        period = condition.onsetPeriod or Period()
        if not (condition.onsetDateTime or period.start or condition.recordedDate):
            reason = "no onsetDateTime, onsetPeriod.start or recordedDate (an age, range or text is no date)"
            return Fault("GEM207", "$.onsetDateTime", reason)
        fault = self._dates(
            ("Condition.onsetDateTime", condition.onsetDateTime),
            ("Condition.onsetPeriod.start", period.start),
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
        for path, concepts, holder in measured:
            fault = self._value_fault(path, concepts, holder) or self._unit_fault(
                path, concepts, holder.valueQuantity
            )
            if fault is not None:
                return fault
        for _, concepts, holder in measured:
            for concept in concepts:
                self._value(concept, holder.valueQuantity, observation.subject)
        return None

    def _measured(
        self, observation: Observation
    ) -> Iterator[tuple[str, tuple[Concept, ...], Observation | Component]]:
        """What holds a value, with its path and concepts: the observation itself, and its components."""
        if observation.valueQuantity is not None or not observation.component:
            yield "$", self._mapped(observation.code), observation
        for i, component in enumerate(observation.component or ()):
            yield f"$.component[{i}]", self._mapped(component.code), component

    def _value_fault(
        self, path: str, concepts: tuple[Concept, ...], holder: Observation | Component
    ) -> Fault | None:
        """A value that is none, or no quantity where the concept needs one."""
        if isinstance(holder, Component) and holder.modifierExtension:
            return _MODIFIED._replace(path=f"{path}.modifierExtension")
        if isinstance(holder, Component) and (fault := _code_fault(holder.code)) is not None:
            return fault._replace(path=f"{path}.code")
        quantity = holder.valueQuantity
        if quantity is not None and (holder.valueString is not None or holder.valueInteger is not None):
            return Fault("GEM214", f"{path}.value[x]", "more than one value")
        if quantity is not None and quantity.value is not None:
            if holder.dataAbsentReason is not None:
                return Fault(
                    "GEM214", f"{path}.dataAbsentReason", "a value stands beside the reason for none"
                )
            return None
        needing = [concept.name for concept in concepts if concept.unit is not None]
        for element in ("valueInteger", "valueString"):
            if needing and getattr(holder, element) is not None:
                reason = f"{element} has no unit: {needing[0]} needs a valueQuantity"
                return self._unit_problem("GEM202", f"{path}.{element}", needing[0], "", reason)
        return None

    def _unit_fault(
        self, path: str, concepts: tuple[Concept, ...], quantity: Quantity | None
    ) -> Fault | None:
        if quantity is None or quantity.value is None:
            return None
        unit = _unit(quantity)
        if not unit:
            name = concepts[0].name if concepts else ""
            reason = f"the quantity has a value and no unit{f' ({name})' if name else ''}"
            return self._unit_problem("GEM202", f"{path}.valueQuantity", name, "", reason)
        for concept in concepts:
            if concept.unit is not None and find_conversion(unit, concept, aliases=self._aliases) is None:
                reason = f"{unit!r} cannot become {concept.unit} ({concept.name})"
                return self._unit_problem("GEM203", f"{path}.valueQuantity.code", concept.name, unit, reason)
        return None

    def _unit_problem(self, code: str, path: str, concept: str, unit: str, reason: str) -> Fault:
        self.unit_problems[code, concept, unit, reason] += 1
        return Fault(code, path, reason)

    def _value(self, concept: Concept, quantity: Quantity | None, subject: Reference | None) -> None:
        if concept.unit is None:
            return
        if quantity is None or quantity.value is None:
            # A missing value without a reason is missing all the same.
            self.absent[concept.name] += 1
            return
        if quantity.comparator is not None:
            self.comparators[concept.name] += 1
            return
        conversion = find_conversion(_unit(quantity), concept, aliases=self._aliases)
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
            key = patient_key(subject.reference)
            if key is not None:
                self.patients[concept.name].add(key)

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
            if not FIRST_YEAR <= text[:4] <= LAST_YEAR:
                reason = f"the year is a placeholder or an error: not in {FIRST_YEAR} to {LAST_YEAR}"
                return Fault("GEM210", f"$.{element.partition('.')[2]}", reason)
            if len(text) < 10:
                self.partial_dates[element] += 1
        return None

    def _other_version(self, version: str, path: str) -> Fault:
        self.other_versions[version] += 1
        return Fault("GEM213", path, f"the element is FHIR {version}'s")


_DATE = re.compile(
    r"\d{4}(-\d{2}(-\d{2}(T([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d+)?)?"
    r"(Z|[+-](0\d|1[0-3]):[0-5]\d|[+-]14:00)?)?)?)?",
    flags=re.ASCII,
)
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_PATIENT_REFERENCE = re.compile(r"(?:^|/)Patient/([A-Za-z0-9\-.]{1,64})(?:/_history/[^/]+)?$")
_MODIFIED = Fault(
    "GEM215", "$.modifierExtension", "a modifier extension may turn the meaning of the resource"
)


@functools.lru_cache(maxsize=65_536)
def patient_key(reference: str) -> str | None:
    """The id in a reference to a Patient, as views read it; None when it names something else.

    >>> patient_key("https://fhir.example/Patient/p1/_history/2"), patient_key("urn:uuid:0a-b"), patient_key("Group/g")
    ('p1', '0a-b', None)
    """
    if reference.startswith("urn:uuid:"):
        return reference[9:]
    found = _PATIENT_REFERENCE.search(reference)
    return found.group(1) if found is not None else None


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


def _ends_before_it_starts(period: Period) -> bool:
    """Compared by day, or by the month or year when one of them says no more."""
    start, end = (period.start or "")[:10], (period.end or "")[:10]
    shared = min(len(start), len(end))
    return end[:shared] < start[:shared]


def _unit(quantity: Quantity) -> str:
    """The unit that counts: the UCUM code, else the text, else a code of another system."""
    if quantity.code and (not quantity.system or quantity.system in UCUM_SYSTEMS):
        return quantity.code
    return quantity.unit or quantity.code or ""


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
