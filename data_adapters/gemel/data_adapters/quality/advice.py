"""What to do about what was found: the fix of each rejected line, and the list that a data steward starts with."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

import msgspec

from gemel.core.error_catalogue import CATALOGUE
from gemel.core.programme import Programme
from gemel.data_adapters.meaning.account import FactsAccount, UnitProblem, needs_quantity
from gemel.data_adapters.meaning.concepts import ConceptIndex
from gemel.data_adapters.meaning.mapping_entries import GENDERS
from gemel.data_adapters.meaning.site_mapping import SiteMapping
from gemel.data_adapters.quality.report import (
    CheckReport,
    CodeCount,
    ConceptCoverage,
    RejectedLine,
    RejectGroup,
    ToDo,
)
from gemel.data_adapters.reading.intake import MAX_REJECTS_LISTED, Reject

_CONCEPT_AT_END = re.compile(r"\(([a-z][a-z0-9_]*)\)$|: ([a-z][a-z0-9_]*) needs a valueQuantity$")
_EMPTY_WORDS = frozenset({"disease", "disorder", "or", "and", "of", "the"})
_SHOWN_ALIKE = 3
_GENDER = f"not one of {GENDERS[0]}"
_GENDERS_TOO = ", ".join(gender for gender in GENDERS if gender != "female")
_NO_QUANTITY = (
    'Texts ("135 mmHg", "<20 mg/dL") and bare integers are not read, and no mapping changes that: write value, unit and '
    "comparator as a valueQuantity at the source."
)
# From this share of a concept's values on, a unit that the mapping gives is in doubt before the values are.
_NEARLY_ALL = 0.9
_UNIT_AT_START = re.compile(r"^'([^']*)' cannot become")


def fix_of(code: str, reason: str, programme: Programme | None) -> str:
    """What to do about a rejected line: by the site's mapping where a line of it solves it, else by the catalogue."""
    concept = _concept_of(reason, programme)
    if code == "GEM214" and reason.startswith(_GENDER):
        return (
            f'Say what the code means under [genders] in the mapping: "..." = "female" (or {_GENDERS_TOO}).'
        )
    if code == "GEM202" and needs_quantity(reason):
        return _NO_QUANTITY
    if code == "GEM202" and concept is not None:
        return (
            f"If every such value has the same unit, name it under [default_units] in the mapping: "
            f'{concept} = "...". Else: {CATALOGUE[code].remedy}'
        )
    if code == "GEM202" and concept is None and programme is not None:
        return (
            f"The code is none of the programme's, but the whole line is left out, with any other value in it. "
            f"{CATALOGUE[code].remedy}"
        )
    if code == "GEM203" and concept is not None:
        found = _UNIT_AT_START.match(reason)
        unit = found.group(1) if found is not None else "..."
        return (
            f'If the spelling means a unit of that kind, say so under [units_of.{concept}] in the mapping: "{unit}" = '
            f'"(UCUM)". Else: {CATALOGUE[code].remedy}'
        )
    return CATALOGUE[code].remedy


def _concept_of(reason: str, programme: Programme | None) -> str | None:
    found = _CONCEPT_AT_END.search(reason)
    name = (found.group(1) or found.group(2)) if found is not None else None
    known = {concept.name for concept in programme.concepts} if programme is not None else set()
    return name if name in known else None


def rejected_lines(rejects: Iterable[Reject], programme: Programme | None) -> list[RejectedLine]:
    """The rejected lines, each with its fix."""
    return [
        RejectedLine(**msgspec.structs.asdict(reject), fix=fix_of(reject.code, reject.reason, programme))
        for reject in rejects
    ]


def group(rejects: Sequence[RejectedLine]) -> list[RejectGroup]:
    """The same faults together, the most frequent first."""
    counts = Counter(_kind(reject) for reject in rejects)
    first = {_kind(reject): reject for reject in reversed(rejects)}
    return [
        RejectGroup(
            code=reject.code,
            resource_type=reject.resource_type,
            path=reject.path,
            reason=reject.reason,
            count=number,
            example=f"{reject.file}:{reject.place or reject.line}",
            fix=reject.fix,
        )
        for kind, number in counts.most_common()
        for reject in (first[kind],)
    ]


def _kind(reject: RejectedLine) -> tuple[str, str, str, str]:
    """What makes two faults the same: all but the numbers in path and reason."""
    path, reason = (re.sub(r"\d+", "*", text) for text in (reject.path, reject.reason))
    return reject.code, reject.resource_type or "", path, reason


def explain_version(account: FactsAccount) -> str:
    """Why the export is believed to be of its FHIR version."""
    if not account.versions:
        return "No line has an element that only STU3 or only R5 has. R4 and R4B cannot be told apart by what is read."
    shown = ", ".join(f"{version} in {number}" for version, number in account.versions.items())
    return f"Lines with elements that only one version has: {shown}."


def to_do(report: CheckReport, programme: Programme | None, mapping: SiteMapping) -> list[ToDo]:
    """What a person should do or decide, the gravest first."""
    doubted = dict(_doubted_units(report, mapping, ConceptIndex(programme, mapping))) if programme else {}
    return [
        *doubted.values(),
        *_musts(report),
        *_consent_musts(report),
        *_shoulds(report, programme, doubted),
        *_looks(report, doubted),
    ]


def _doubted_units(
    report: CheckReport, mapping: SiteMapping, index: ConceptIndex
) -> Iterator[tuple[str, ToDo]]:
    """Concepts nearly all of whose values are implausible in the unit that the mapping gives them."""
    spellings = {one.concept: one.units for one in report.concepts}
    for one in report.coverage:
        judged = one.values + one.comparators + one.implausible
        units = spellings[one.concept]
        if not one.implausible or one.implausible < _NEARLY_ALL * judged:
            continue
        entries = list(_entries_for(one.concept, units, mapping))
        if one.concept in report.default_units:
            entries += _defaults_for(one.concept, mapping, index)
        if entries:
            yield (
                one.concept,
                ToDo(
                    "must",
                    f"{one.implausible} of {judged} values of {one.concept} are outside its plausible bounds, in a unit "
                    f"that the mapping gives: {'; '.join(entries)}.",
                    "Correct this entry first: the unit is probably not what the hospital records.",
                ),
            )


def _defaults_for(concept: str, mapping: SiteMapping, index: ConceptIndex) -> Iterator[str]:
    """The entries of a mapping that give a concept's values a unit, as "file:line [section] key"."""
    for key in mapping.default_units:
        system, bar, code = key.rpartition("|")
        if key == concept or (bar and concept in {found.name for found in index.find(system, code)}):
            yield f"{mapping.place('default_units', key)} [default_units] {key!r}"


def _entries_for(concept: str, units: Iterable[str], mapping: SiteMapping) -> Iterator[str]:
    """The entries of a mapping that explain spellings of a concept's units, as "file:line [section] key"."""
    own = mapping.concept_units.get(concept, {})
    for unit in units:
        if unit in own:
            yield f"{mapping.place(concept, unit)} [units_of.{concept}] {unit!r}"
        elif unit in mapping.units:
            yield f"{mapping.place('units', unit)} [units] {unit!r}"


def _musts(report: CheckReport) -> Iterator[ToDo]:
    """What keeps a data set from being built, or from being right about who is in it."""
    if report.fhir_version not in ("R4", "R5"):
        yield ToDo(
            "must",
            f"The export is believed to be FHIR {report.fhir_version}. {report.fhir_version_reason}",
            CATALOGUE["GEM213"].remedy,
        )
    if report.future:
        said = ", ".join(f"{name} {number}" for name, number in report.future.items())
        yield ToDo(
            "must",
            f"Dated after today, and left out ({said}; a death so dated is one without a date).",
            "Correct the dates at the source; where they were moved to hide them, say dates_shifted = true in the mapping.",
        )
    if report.synthetic:
        yield ToDo(
            "must", f"{report.synthetic} lines say that they are synthetic.", CATALOGUE["GEM211"].remedy
        )
    if not report.patients:
        yield ToDo("must", "There is no patient to build a data set from.", CATALOGUE["GEM205"].remedy)
    if report.unknown_genders:
        said = ", ".join(f"{code or 'what is no code'} ({n})" for code, n in report.unknown_genders.items())
        first = next((code for code in report.unknown_genders if code), "...")
        yield ToDo(
            "must",
            f"{sum(report.unknown_genders.values())} Patients are rejected for a gender that FHIR does not have: {said}.",
            f'Say what each code means under [genders] in the mapping: "{first}" = "female" (or {_GENDERS_TOO}).',
        )


def _consent_musts(report: CheckReport) -> Iterator[ToDo]:
    """Where somebody who asked to be out may still be in."""
    if report.consent.nobody:
        yield ToDo(
            "must",
            f"{report.consent.nobody} Consents name no patient of this export (or cannot be read and name nobody): each "
            "may be a denial that is lost.",
            "Look each of them up: complete Consent.patient at the source, or name the patient in the opt-out list "
            "(--opt-out). Nobody is withheld for them.",
        )
    if report.consent.unmatched:
        yield ToDo(
            "must",
            f"Entries of the opt-out list that name no patient of this export: {report.consent.unmatched}.",
            "Look each of them up: a mistyped entry leaves a person in who asked to be out. Fine if they are patients "
            "of another export.",
        )
    if report.consent.unread:
        yield ToDo(
            "must",
            f"{report.consent.unread} Consent lines cannot be read; the patients whom they name are withheld.",
            "Repair these lines: the rejects name them.",
        )


def _shoulds(report: CheckReport, programme: Programme | None, doubted: Container[str]) -> Iterator[ToDo]:
    """What loses values that the programme wants."""
    for problem in report.unit_examples:
        if problem.concept:
            yield _unit_to_do(problem, programme)
    yield from _hidden_units(report)
    if report.undated:
        yield ToDo(
            "should",
            f"Records of the programme's concepts without any date, left out: {_counts(report.undated)}.",
            "Export the date of each (onsetDateTime or recordedDate, effectiveDateTime), or the encounter with its period.",
        )
    yield from _missing_concepts(report, doubted)
    other = {
        (code, number) for code, number in report.rejects_by_code.items() if code not in ("GEM202", "GEM203")
    }
    for code, number in sorted(other, key=lambda item: (-item[1], item[0])):
        yield ToDo(
            "should",
            f"Rejected with {code}: {number}. {CATALOGUE[code].title}.",
            CATALOGUE[code].remedy,
        )
    if report.orphans:
        yield ToDo(
            "should",
            f"Accepted lines of patients who are not in the export: {sum(report.orphans.values())}.",
            "Export the Patients with their records, or take these records out.",
        )
    for entry in report.mapping.skipped:
        yield ToDo("should", f"An entry of the mapping maps nothing: {entry}", "Correct or remove it.")


def _missing_concepts(report: CheckReport, doubted: Container[str]) -> Iterator[ToDo]:
    """Concepts that nobody has: with unknown codes that are called as the concept is, or all others together."""
    if not report.patients:
        return
    told = {problem.concept for problem in report.unit_examples}
    missing = [
        one for one in report.coverage if not (one.patients or one.concept in doubted or one.concept in told)
    ]
    alike = {concept.concept: called_alike(concept.title, report.unmapped) for concept in missing}
    for name, codes in alike.items():
        if codes:
            shown = "; ".join(
                f"{c.system}|{c.code} ({c.display}, {c.count} times)" for c in codes[:_SHOWN_ALIKE]
            )
            yield ToDo(
                "should",
                f"No patient has any record of {name}, but codes that the programme does not know are called alike: "
                f"{shown}.",
                f'If a code means the concept, map it under [codes] in the mapping: "system|code" = "{name}". That it is '
                "called alike proves nothing.",
            )
    left_out = {one.concept: _left_out(one, report) for one in missing}
    for name in alike:
        if left_out[name]:
            yield ToDo(
                "should",
                f"No patient has a usable value of {name}; its records are there: {left_out[name]}.",
                "Look at these records: what they say cannot be used as it stands.",
            )
    rest = [name for name, codes in alike.items() if not codes and not left_out[name]]
    if rest:
        undated = f", and none of the records without a date ({_counts(report.undated)}) is theirs"
        yield ToDo(
            "should",
            f"No patient has any record of {', '.join(rest)}.",
            "If the hospital records them, find their codes below among those that the programme does not know, and "
            f"map them under [codes] in the mapping. If nobody has them{undated if report.undated else ''}, nothing is wrong.",
        )


def _left_out(one: ConceptCoverage, report: CheckReport) -> str:
    """What of a concept was accepted and gives no value, in words; what was rejected has its own place."""
    unused = sum(n for key, n in report.unused.items() if key.partition(": ")[2] == one.concept)
    recorded = sum(sum(found.units.values()) for found in report.concepts if found.concept == one.concept)
    found = {
        "outside its plausible bounds": one.implausible,
        "without a value": one.absent,
        "of a kind that gives it no value": unused,
        "in lines that were rejected or replaced, or without a date": max(
            0, recorded - one.implausible - unused
        ),
    }
    return ", ".join(f"{n} {words}" for words, n in found.items() if n)


def _counts(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counted.items())


def called_alike(title: str, codes: Iterable[CodeCount]) -> list[CodeCount]:
    """Codes whose display holds every word of a title, but the words that say nothing."""
    words = _words(title) - _EMPTY_WORDS
    return [code for code in codes if words and words <= _words(code.display)]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def _hidden_units(report: CheckReport) -> Iterator[ToDo]:
    """Values of the programme without a unit in lines that were rejected for another value of theirs (a panel)."""
    named: Counter[str] = Counter()
    for problem in report.unit_examples:
        if not problem.unit and not problem.is_no_quantity:
            named[problem.concept] += problem.count
    for one in report.concepts:
        hidden = one.units.get("", 0) - report.default_units.get(one.concept, 0) - named[one.concept]
        if hidden > 0:
            yield ToDo(
                "should",
                f"{hidden} values of {one.concept} have no unit, in lines that were rejected for another value "
                "without a unit.",
                f"For all values of these lines: {CATALOGUE['GEM202'].remedy}",
            )


def _unit_to_do(problem: UnitProblem, programme: Programme | None) -> ToDo:
    unit = f"the unit {problem.unit!r}" if problem.unit else "no unit"
    if problem.is_no_quantity:
        unit = "no quantity, but a text or a bare integer"
    where = f" (first at {problem.example})" if problem.example else ""
    return ToDo(
        "should",
        f"{problem.count} values of {problem.concept} were left out: {unit}{where}.",
        fix_of(problem.code, problem.reason, programme),
    )


def _looks(report: CheckReport, doubted: Container[str]) -> Iterator[ToDo]:
    """What somebody who knows the hospital should look at."""
    for question in report.unit_questions:
        yield ToDo(
            "look", question.question, "Compare some of these values with the laboratory's own system."
        )
    for drift in report.drift:
        if drift.verdict == "differs strongly":
            yield ToDo(
                "look",
                f"{drift.title} differs strongly from the programme's reference. {drift.explanation}",
                "Other patients than elsewhere, or a coding or unit that is not what it says: look which.",
            )
    for concept in report.coverage:
        if concept.implausible and concept.concept not in doubted:
            yield ToDo(
                "look",
                f"Values of {concept.concept} outside its plausible bounds, left out: {concept.implausible}.",
                CATALOGUE["GEM206"].remedy,
            )
    if report.mapping.never_seen:
        yield ToDo(
            "look",
            f"Entries of the mapping whose words this export never says: {len(report.mapping.never_seen)}.",
            "Check their spelling; remove what is out of use.",
        )
    if report.validation.failed:
        yield ToDo(
            "look",
            f"{report.validation.failed} of the {report.validation.checked} lines that were put through the FHIR "
            f"{report.validation.models} models are refused by them ({report.read} lines were read; those that are no "
            "resource are not put through).",
            "They are used as far as their elements could be read. The source should write them as the standard says.",
        )
    if report.rejected_total > MAX_REJECTS_LISTED:
        yield ToDo(
            "look",
            f"Only the first {MAX_REJECTS_LISTED} of {report.rejected_total} rejected lines are listed.",
            "Mend those first, then check again.",
        )
