"""What to do about what was found: the fix of each rejected line, and the list that a data steward starts with."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from gemel.core.error_catalogue import CATALOGUE
from gemel.core.programme import Programme
from gemel.data_adapters.meaning.account import FactsAccount, UnitProblem
from gemel.data_adapters.quality.report import CheckReport, CodeCount, RejectedLine, RejectGroup, ToDo
from gemel.data_adapters.reading.intake import MAX_REJECTS_LISTED, Reject

_CONCEPT_AT_END = re.compile(r"\(([a-z][a-z0-9_]*)\)$|: ([a-z][a-z0-9_]*) needs a valueQuantity$")
_EMPTY_WORDS = frozenset({"disease", "disorder", "or", "and", "of", "the"})
_SHOWN_ALIKE = 3
_UNIT_AT_START = re.compile(r"^'([^']*)' cannot become")


def fix_of(code: str, reason: str, programme: Programme | None) -> str:
    """What to do about a rejected line: by the site's mapping where a line of it solves it, else by the catalogue."""
    concept = _concept_of(reason, programme)
    if code == "GEM202" and concept is not None and "needs a valueQuantity" not in reason:
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


def to_do(report: CheckReport, programme: Programme | None) -> list[ToDo]:
    """What a person should do or decide, the gravest first."""
    return [*_musts(report), *_shoulds(report, programme), *_looks(report)]


def _musts(report: CheckReport) -> Iterator[ToDo]:
    """What keeps a data set from being built, or from being right about who is in it."""
    if report.fhir_version not in ("R4", "R5"):
        yield ToDo(
            "must",
            f"The export is believed to be FHIR {report.fhir_version}. {report.fhir_version_reason}",
            CATALOGUE["GEM213"].remedy,
        )
    if report.synthetic:
        yield ToDo(
            "must", f"{report.synthetic} lines say that they are synthetic.", CATALOGUE["GEM211"].remedy
        )
    if not report.patients:
        yield ToDo("must", "There is no patient to build a data set from.", CATALOGUE["GEM205"].remedy)
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


def _shoulds(report: CheckReport, programme: Programme | None) -> Iterator[ToDo]:
    """What loses values that the programme wants."""
    for problem in report.unit_examples:
        if problem.concept:
            yield _unit_to_do(problem, programme)
    yield from _hidden_units(report)
    yield from _missing_concepts(report)
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


def _missing_concepts(report: CheckReport) -> Iterator[ToDo]:
    """Concepts that nobody has: with unknown codes that are called as the concept is, or all others together."""
    if not report.patients:
        return
    missing = [concept for concept in report.coverage if not concept.patients]
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
    rest = [name for name, codes in alike.items() if not codes]
    if rest:
        yield ToDo(
            "should",
            f"No patient has any record of {', '.join(rest)}.",
            "If the hospital records them, find their codes below among those that the programme does not know, and "
            "map them under [codes] in the mapping. If nobody has them, nothing is wrong.",
        )


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
        if not problem.unit:
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
    reason = f"{problem.unit!r} cannot become ({problem.concept})" if problem.unit else f"({problem.concept})"
    where = f" (first at {problem.example})" if problem.example else ""
    return ToDo(
        "should",
        f"{problem.count} values of {problem.concept} were left out: {unit}{where}.",
        fix_of(problem.code, reason, programme),
    )


def _looks(report: CheckReport) -> Iterator[ToDo]:
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
        if concept.implausible:
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
            f"{report.validation.failed} of {report.validation.checked} lines that were read are refused by the FHIR "
            "R4B models.",
            "They are used as far as their elements could be read. The source should write them as the standard says.",
        )
    if report.rejected_total > MAX_REJECTS_LISTED:
        yield ToDo(
            "look",
            f"Only the first {MAX_REJECTS_LISTED} of {report.rejected_total} rejected lines are listed.",
            "Mend those first, then check again.",
        )
