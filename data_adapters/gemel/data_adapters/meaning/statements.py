"""What each kind of resource says about a patient, and the rules that a line must meet, as SQL over its elements.

A line at fault is rejected. A line that is well formed but says of itself that it does not count (entered in error,
another status) is accepted, and counted as excluded: it may replace an older version of itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gemel.data_adapters.meaning.dates import DATE_REASONS
from gemel.data_adapters.meaning.site_mapping import SiteMapping
from gemel.data_adapters.meaning.units import UCUM_SYSTEMS
from gemel.data_adapters.reading.intake import Fault
from gemel.data_adapters.reading.shape import quote_text

USABLE_OBSERVATIONS = ("final", "amended", "corrected")
INDEX_ENCOUNTERS = ("finished", "completed", "discharged")  # R4's, and R5's two
UNUSED_ENCOUNTERS = ("planned", "cancelled", "entered-in-error")
# A suspicion is no diagnosis, whether FHIR or a national extension says so.
NEGATED = ("entered-in-error", "refuted", "unconfirmed", "provisional", "differential")
GENDERS = ("male", "female", "other", "unknown")
BOUNDS = ("<", "<=", ">", ">=")
# The medication was not given, will not be, or is an idea; the procedure did not take place.
_UNUSED = {
    "Procedure": ("entered-in-error", "not-done", "preparation", "on-hold", "stopped"),
    "MedicationRequest": ("entered-in-error", "cancelled", "draft"),
    "MedicationStatement": ("entered-in-error", "not-taken", "intended", "draft"),
    "MedicationAdministration": ("entered-in-error", "not-done"),
    "MedicationDispense": ("entered-in-error", "cancelled", "declined", "preparation"),
    "Immunization": ("entered-in-error", "not-done"),
}
TEXT_ONLY = "text only"


class Check(NamedTuple):
    """A condition in SQL under which a line is at fault; `{part}` in the path is the number of the component."""

    when: str
    code: str
    path: str
    reason: str

    def fault(self, part: int = 0) -> Fault:
        """The fault of a line (or component) for which the condition holds."""
        return Fault(self.code, self.path.replace("{part}", str(part)), self.reason)


# (name for the report, SQL)
Dates = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Statement:
    """How one resource type is read; all but the names are SQL over its elements.

    Attributes:
        resource: The type.
        concept: Its CodeableConcept, and `path` of it.
        subject: The element that names the patient.
        early, late, held: Checks before and after `excluded`, the reason why the line does not count (or NULL), and
            those of its value, after all others.
        dates: Elements that must be dates, as (name for the report, SQL).
        start, end, encounter: When, until when, and the reference to the encounter that may say when.
        quantity: The Quantity that goes with it; `is_measured` when this is what the line is about.
        waits: True while another resource is needed to say which concept it is.
        r4, r5: Whether an element is there that only R4 (and before) or only R5 has.
    """

    resource: str
    concept: str = "code"
    path: str = "$.code"
    subject: str = "subject"
    early: tuple[Check, ...] = ()
    excluded: str = "NULL"
    late: tuple[Check, ...] = ()
    held: tuple[Check, ...] = ()
    dates: Dates = ()
    start: str = "NULL"
    end: str = "NULL"
    encounter: str = "NULL"
    quantity: str | None = None
    is_measured: bool = False
    waits: str = "FALSE"
    r4: str = "FALSE"
    r5: str = "FALSE"

    def checks(self, *, final: bool) -> tuple[tuple[Check, ...], tuple[Check, ...]]:
        """All checks, those before and those after `excluded`; `final` when no other resource is waited for."""
        modified = Check("len(modifierExtension) > 0", "GEM215", "$.modifierExtension", MODIFIED)
        late = [*subject_checks(self.subject, final=final)]
        if self.resource in _MEDICATED:
            late.append(
                Check(f"{_no_code(self.concept)} AND {_REFERENCE} IS NULL", "GEM207", self.path, _NO_CODE)
            )
        else:
            late.append(Check(_no_code(self.concept), "GEM207", self.path, _NO_CODE))
        return (modified, *self.early), (*late, *self.late, *date_checks(self.dates), *self.held)


MODIFIED = "a modifier extension may turn the meaning of the resource"
_NO_CODE = "the resource has no code"
_MEDICATED = ("MedicationRequest", "MedicationStatement", "MedicationAdministration", "MedicationDispense")
_REFERENCE = "nullif(coalesce(medicationReference.reference, medication.reference.reference), '')"


def _no_code(concept: str) -> str:
    return f"coalesce(len({concept}.coding), 0) = 0 AND coalesce({concept}.text, '') = ''"


def date_checks(dates: Dates) -> tuple[Check, ...]:
    """That what is there is a date, and no placeholder for one; on the columns of `date_faults`."""
    return tuple(
        Check(f"date_fault_{i} = {kind}", "GEM210", f"$.{name.partition('.')[2]}", reason)
        for i, (name, _) in enumerate(dates)
        for kind, reason in DATE_REASONS.items()
    )


def date_faults(dates: Dates) -> str:
    """What is wrong with each date, as columns: a form that is looked at once."""
    return ", ".join(f"fhir_date_fault({sql}) AS date_fault_{i}" for i, (_, sql) in enumerate(dates))


def subject_checks(element: str, *, final: bool) -> tuple[Check, ...]:
    """That a line names a patient: by a reference, or by an identifier that must have been resolved when `final`."""
    nobody, place = f"fhir_unnamed({element})", f"$.{element}"
    nameless = f"{nobody} AND fhir_named_by({element}) IS NULL"
    checks = (Check(nameless, "GEM207", place, "the resource names no patient"),)
    if not final:
        return checks
    reason = "the identifier is that of no patient of the export, or of several"
    return (*checks, Check(nobody, "GEM207", place, reason))


def waits_for_subject(element: str, more: str = "FALSE", *, final: bool) -> str:
    """True for a line (not at fault, not excluded) whose patient, or what `more` says, is to be looked up first."""
    if final:
        return "FALSE"
    return f"fault IS NULL AND excluded IS NULL AND coalesce(fhir_unnamed({element}) OR ({more}), FALSE)"


def partial_mask(dates: Dates) -> str:
    """A bit for each date that names no day."""
    bits = [
        f"CASE WHEN length({sql}) BETWEEN 1 AND 9 THEN {1 << i} ELSE 0 END"
        for i, (_, sql) in enumerate(dates)
    ]
    return " + ".join(bits) or "0"


def labelled() -> str:
    """True for a resource with the security label of synthetic records."""
    return "coalesce(list_contains(list_transform(meta.security, lambda l: l.code), 'HTEST'), FALSE)"


def cases(checks: Sequence[Check], *, offset: int = 0) -> str:
    """The branches of a CASE that gives the number of the first check that holds."""
    return " ".join(f"WHEN {check.when} THEN {offset + i}" for i, check in enumerate(checks))


def unit_of(quantity: str) -> str:
    """The unit that counts: the UCUM code, else the text, else a code of another system; '' when there is none."""
    ucum = ", ".join(quote_text(system) for system in UCUM_SYSTEMS)
    return (
        f"coalesce(CASE WHEN {quantity}.code <> '' AND coalesce(nullif({quantity}.system, '') IN ({ucum}), TRUE) "
        f"THEN {quantity}.code ELSE coalesce(nullif({quantity}.unit, ''), {quantity}.code) END, '')"
    )


def other_version(when: str, path: str) -> Check:
    """A line of FHIR STU3."""
    return Check(f"{when} IS NOT NULL", "GEM213", path, "the element is FHIR STU3's")


def held_checks(holder: str, path: str) -> tuple[Check, ...]:
    """What may be wrong with the value of an observation or component, whatever its concept.

    Args:
        holder: Prefix of the elements in SQL: "" or "c." of a component.
        path: Where they stand, "$" or "$.component[{part}]".
    """
    quantity = f"{holder}valueQuantity"
    others = f"({holder}valueString IS NOT NULL OR {holder}valueInteger IS NOT NULL)"
    value = f"{quantity}.value IS NOT NULL"
    known = ", ".join(quote_text(bound) for bound in (*BOUNDS, "ad"))
    return (
        Check(f"{quantity} IS NOT NULL AND {others}", "GEM214", f"{path}.value[x]", "more than one value"),
        Check(
            f"{value} AND {holder}dataAbsentReason IS NOT NULL",
            "GEM214",
            f"{path}.dataAbsentReason",
            "a value stands beside the reason for none",
        ),
        Check(
            f"{quantity}.comparator NOT IN ({known})",
            "GEM214",
            f"{path}.valueQuantity.comparator",
            "not one of <, <=, >=, >, ad",
        ),
    )


COMPONENT_CHECKS = (
    Check("len(c.modifierExtension) > 0", "GEM215", "$.component[{part}].modifierExtension", MODIFIED),
    Check(_no_code("c.code"), "GEM207", "$.component[{part}].code", _NO_CODE),
    *held_checks("c.", "$.component[{part}]"),
)
# An observation with components and no value of its own is the name of a panel.
HOLDS = "(valueQuantity IS NOT NULL OR coalesce(len(component), 0) = 0)"


def usable_observations(mapping: SiteMapping) -> tuple[str, ...]:
    """The statuses of observations that count at a site."""
    return (*USABLE_OBSERVATIONS, "preliminary") if mapping.preliminary else USABLE_OBSERVATIONS


def _observation(mapping: SiteMapping) -> Statement:
    usable = usable_observations(mapping)
    when = "coalesce(nullif(effectiveDateTime, ''), nullif(effectiveInstant, ''), effectivePeriod.start)"
    return Statement(
        "Observation",
        early=(other_version("context", "$.context"),),
        excluded=f"CASE WHEN coalesce(status, '') NOT IN {usable} "
        "THEN 'status ' || coalesce(nullif(status, ''), 'missing') END",
        late=(
            Check(
                f"coalesce({when}, '') = ''",
                "GEM207",
                "$.effectiveDateTime",
                "the observation has no date",
            ),
        ),
        held=tuple(check._replace(when=f"{HOLDS} AND ({check.when})") for check in held_checks("", "$")),
        dates=(("Observation.effective", when),),
        start=when,
        end="effectivePeriod.end",
        quantity="valueQuantity",
        is_measured=True,
    )


_NEGATED_CODES = "CASE WHEN len({0}.coding) > 0 THEN list_transform({0}.coding, lambda c: c.code) ELSE [] END"


def _negated(*statuses: str) -> str:
    codes = " || ".join(f"({_NEGATED_CODES.format(status)})" for status in statuses)
    return f"list_filter({codes}, lambda x: x IN {NEGATED})[1]"


# Of German diagnoses: A was ruled out, V is suspected. G (confirmed) and Z (state after) count.
CERTAINTY = "http://fhir.de/StructureDefinition/icd-10-gm-diagnosesicherheit"
_UNCERTAIN = f"""list_filter(flatten(list_transform(coalesce(code.coding, []), lambda c: list_transform(
    list_filter(coalesce(c.extension, []), lambda e: e.url = {quote_text(CERTAINTY)}),
    lambda e: CASE coalesce(e.valueCoding.code, e.valueCode) WHEN 'A' THEN 'diagnosesicherheit A (ruled out)'
        WHEN 'V' THEN 'diagnosesicherheit V (suspected)' END))), lambda reason: reason IS NOT NULL)[1]"""

_CONDITION = Statement(
    "Condition",
    early=(other_version("assertedDate", "$.assertedDate"),),
    excluded=f"coalesce({_negated('clinicalStatus', 'verificationStatus')}, {_UNCERTAIN})",
    dates=(
        ("Condition.onsetDateTime", "onsetDateTime"),
        ("Condition.onsetPeriod.start", "onsetPeriod.start"),
        ("Condition.recordedDate", "recordedDate"),
    ),
    start="coalesce(nullif(onsetDateTime, ''), nullif(onsetPeriod.start, ''), recordedDate)",
    end="coalesce(nullif(abatementDateTime, ''), nullif(abatementPeriod.start, ''), abatementPeriod.end)",
    encounter="encounter.reference",
)


def _unused(resource: str, more: str = "") -> str:
    return f"CASE WHEN status IN {_UNUSED[resource]} THEN 'status ' || status {more} END"


_PROCEDURE = Statement(
    "Procedure",
    early=(other_version("notDone", "$.notDone"),),
    excluded=_unused("Procedure"),
    dates=(
        ("Procedure.performedDateTime", "coalesce(performedDateTime, occurrenceDateTime)"),
        ("Procedure.performedPeriod.start", "coalesce(performedPeriod.start, occurrencePeriod.start)"),
    ),
    start="coalesce(nullif(performedDateTime, ''), nullif(occurrenceDateTime, ''), nullif(performedPeriod.start, ''), "
    "occurrencePeriod.start)",
    end="coalesce(nullif(performedPeriod.end, ''), occurrencePeriod.end)",
    encounter="encounter.reference",
    r4="performedDateTime IS NOT NULL OR performedPeriod IS NOT NULL",
    r5="occurrenceDateTime IS NOT NULL OR occurrencePeriod IS NOT NULL",
)


def _medication(
    resource: str,
    *,
    dates: tuple[str, ...],
    quantity: str,
    end: str = "NULL",
    encounter: str = "NULL",
    more: str = "",
    r5: str = "FALSE",
) -> Statement:
    """A statement about a medication: coded, contained, or in a resource of its own that it waits for."""
    contained = f"list_filter(contained, lambda m: '#' || m.id = {_REFERENCE})[1].code"
    concept = f"coalesce(medicationCodeableConcept, medication.concept, {contained})"
    early = (other_version("context", "$.context"),) if resource == "MedicationRequest" else ()
    return Statement(
        resource,
        concept=concept,
        path="$.medication[x]",
        early=early,
        excluded=_unused(resource, more),
        dates=tuple((f"{resource}.{name}", name) for name in dates),
        start=f"coalesce({', '.join(f'nullif({name}, {chr(39) * 2})' for name in dates)})",
        waits=f"{_no_code(concept)} AND NOT starts_with({_REFERENCE}, '#')",
        r4="medicationCodeableConcept IS NOT NULL OR medicationReference IS NOT NULL",
        r5=f"medication IS NOT NULL OR {r5}",
        end=end,
        encounter=encounter,
        quantity=quantity,
    )


_ORDERED_DOSE = "dosageInstruction[1].doseAndRate[1].doseQuantity"
_MEDICATIONS = (
    _medication(
        "MedicationRequest",
        dates=("authoredOn",),
        more="WHEN doNotPerform THEN 'doNotPerform' WHEN intent IN ('proposal', 'option') THEN 'intent ' || intent",
        end="dispenseRequest.validityPeriod.end",
        encounter="encounter.reference",
        quantity=_ORDERED_DOSE,
    ),
    _medication(
        "MedicationStatement",
        dates=("effectiveDateTime", "effectivePeriod.start"),
        end="effectivePeriod.end",
        quantity="dosage[1].doseAndRate[1].doseQuantity",
    ),
    _medication(
        "MedicationAdministration",
        dates=("effectiveDateTime", "effectivePeriod.start", "occurenceDateTime", "occurencePeriod.start"),
        end="coalesce(effectivePeriod.end, occurencePeriod.end)",
        quantity="dosage.dose",
        r5="occurenceDateTime IS NOT NULL OR occurencePeriod IS NOT NULL",
    ),
    _medication("MedicationDispense", dates=("whenHandedOver", "whenPrepared"), quantity=_ORDERED_DOSE),
)

_IMMUNIZATION = Statement(
    "Immunization",
    concept="vaccineCode",
    path="$.vaccineCode",
    subject="patient",
    excluded=_unused("Immunization"),
    dates=(("Immunization.occurrenceDateTime", "occurrenceDateTime"),),
    start="occurrenceDateTime",
    encounter="encounter.reference",
)

_ALLERGY = Statement(
    "AllergyIntolerance",
    subject="patient",
    excluded=_negated("verificationStatus"),
    dates=(
        ("AllergyIntolerance.onsetDateTime", "onsetDateTime"),
        ("AllergyIntolerance.recordedDate", "recordedDate"),
    ),
    start="coalesce(nullif(onsetDateTime, ''), recordedDate)",
)


def statements(mapping: SiteMapping) -> dict[str, Statement]:
    """How each resource type that says something about a patient is read."""
    known = (_observation(mapping), _CONDITION, _PROCEDURE, *_MEDICATIONS, _IMMUNIZATION, _ALLERGY)
    return {statement.resource: statement for statement in known}
