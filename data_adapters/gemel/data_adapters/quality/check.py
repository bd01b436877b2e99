"""Checking an export before anything is built on it: what was read, rejected and why, and what it covers."""

from __future__ import annotations

import heapq
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from gemel.core.programme import Programme
from gemel.data_adapters.meaning.clinical import ClinicalRules
from gemel.data_adapters.meaning.units import COMMON_ALIASES
from gemel.data_adapters.reading.intake import AcceptedLine, FileCount, Intake, Reject
from gemel.data_adapters.reading.store import line_check
from gemel.data_adapters.views.run import compile_views, standard_views

Validate = Literal["off", "sample", "full"]

SAMPLE_LINES = 200
_MOST_FREQUENT = 50
_MAX_EXAMPLES = 50


class ConceptCoverage(msgspec.Struct, frozen=True):
    """Usable values (or diagnoses) of one concept, and the patients who have any."""

    concept: str
    values: int
    patients: int
    implausible: int
    comparators: int
    absent: int


class UnmappedCode(msgspec.Struct, frozen=True):
    """A code that the programme does not know."""

    system: str
    code: str
    count: int


class UnitProblem(msgspec.Struct, frozen=True):
    """Values that were rejected for their unit: GEM202 none, GEM203 not convertible; `example` is a file:line."""

    code: str
    concept: str
    unit: str
    count: int
    example: str


class Invalid(msgspec.Struct, frozen=True):
    """A line that `fhir.resources.R4B` does not accept. Its text holds no patient data."""

    file: str
    line: int
    resource_type: str
    reason: str


class Validation(msgspec.Struct, frozen=True):
    """How many accepted lines went through the full models, and how many failed."""

    mode: str
    checked: int
    failed: int
    examples: list[Invalid]


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `gemel data check` prints. Exact counts: it stays inside the hospital.

    For each file read = accepted + rejected. `rejects` lists the first 1000; `rejected_total` counts all.
    `noted` counts by code what was accepted and will not be used: GEM204 unknown codes, GEM206 implausible values,
    GEM211 synthetic records. `orphans` counts accepted lines whose patient is not in the export. `unread` names the
    entries of the folder that are no NDJSON.
    """

    fhir_version: str
    files: list[FileCount]
    unread: list[str]
    read: int
    accepted: int
    rejected_total: int
    rejects: list[Reject]
    rejects_by_code: dict[str, int]
    noted: dict[str, int]
    excluded: dict[str, int]
    synthetic: int
    patients: int
    coverage: list[ConceptCoverage]
    orphans: dict[str, int]
    unit_problems: dict[str, int]
    unit_examples: list[UnitProblem]
    implausible_examples: list[str]
    unmapped: list[UnmappedCode]
    unmapped_total: int
    partial_dates: dict[str, int]
    validation: Validation


def check_export(
    export: Path,
    programme: Programme | None = None,
    *,
    validate: Validate = "sample",
    aliases: Mapping[str, str] = COMMON_ALIASES,
) -> CheckReport:
    """Read an export once and say what is in it.

    Args:
        export: Folder of FHIR NDJSON files, or one file.
        programme: Whose concepts to look for; without one, units and codes are not mapped.
        validate: Put no accepted line, up to 200 of each type, or every line through `fhir.resources.R4B`.
        aliases: The site's table from recorded unit spellings to UCUM.

    Raises:
        GemelError: GEM208 when the export cannot be read. Bad lines are reported, not raised.
    """
    rules = ClinicalRules(programme, aliases=aliases)
    intake = Intake()
    judge = line_check(compile_views(standard_views())[1], rules.judge)
    validator = _Validator(validate, intake)
    for line in intake.read(export, judge):
        validator.offer(line)
    return _report(programme, rules, intake, validator.finish())


def _report(
    programme: Programme | None, rules: ClinicalRules, intake: Intake, validation: Validation
) -> CheckReport:
    noted = {
        "GEM204": rules.unmapped.total(),
        "GEM206": rules.implausible.total(),
        "GEM211": rules.synthetic,
    }
    unit_codes = ("GEM202", "GEM203")
    return CheckReport(
        fhir_version="+".join(sorted(rules.other_versions)) or "R4",
        files=intake.files,
        unread=intake.unread,
        read=sum(file.read for file in intake.files),
        accepted=sum(file.accepted for file in intake.files),
        rejected_total=sum(file.rejected for file in intake.files),
        rejects=intake.rejects,
        rejects_by_code=dict(sorted(intake.by_code.items())),
        noted={code: number for code, number in noted.items() if number},
        excluded={f"{kind}: {why}": n for (kind, why), n in sorted(rules.excluded.items())},
        synthetic=rules.synthetic,
        patients=sum(file.types.get("Patient", 0) for file in intake.files),
        coverage=_coverage(programme, rules),
        orphans=rules.orphans(),
        unit_examples=_unit_examples(rules, intake),
        unit_problems={code: intake.by_code[code] for code in unit_codes if intake.by_code[code]},
        implausible_examples=rules.examples,
        unmapped=[
            UnmappedCode(system, code, count)
            for (system, code), count in rules.unmapped.most_common(_MOST_FREQUENT)
        ],
        unmapped_total=rules.unmapped.total(),
        partial_dates=dict(sorted(rules.partial_dates.items())),
        validation=validation,
    )


def _coverage(programme: Programme | None, rules: ClinicalRules) -> list[ConceptCoverage]:
    return [
        ConceptCoverage(
            concept.name,
            rules.values[concept.name],
            len(rules.patients.get(concept.name, ())),
            rules.implausible[concept.name],
            rules.comparators[concept.name],
            rules.absent[concept.name],
        )
        for concept in (programme.concepts if programme is not None else ())
    ]


def _unit_examples(rules: ClinicalRules, intake: Intake) -> list[UnitProblem]:
    """The most frequent unit problems, each with the first line that has it among the rejects that are listed."""
    first: dict[tuple[str, str], str] = {}
    for reject in intake.rejects:
        first.setdefault((reject.code, reject.reason), f"{reject.file}:{reject.line}")
    return [
        UnitProblem(code, concept, unit, count, first.get((code, reason), ""))
        for (code, concept, unit, reason), count in rules.unit_problems.most_common(_MOST_FREQUENT)
    ]


class _Validator:
    """Puts lines through the pydantic models, all of them or the sample with the lowest checksums of each type."""

    def __init__(self, mode: Validate, intake: Intake) -> None:
        self._mode = mode
        self._intake = intake
        self._samples: dict[str, list[tuple[int, int, int, bytes]]] = {}
        self._checked = 0
        self._failed = 0
        self._examples: list[Invalid] = []

    def offer(self, line: AcceptedLine) -> None:
        """Take a line into the sample, or validate it at once."""
        if self._mode == "full":
            self._validate(line.header.resourceType, line.file, line.line, line.content)
        elif self._mode == "sample":
            sample = self._samples.setdefault(line.header.resourceType, [])
            # The checksum chooses: the same lines whatever their order, and not the first patients only.
            item = (-zlib.crc32(line.content), line.file, line.line, line.content)
            if len(sample) < SAMPLE_LINES:
                heapq.heappush(sample, item)
            elif item[0] > sample[0][0]:
                heapq.heapreplace(sample, item)

    def finish(self) -> Validation:
        """Validate the sample and give the result."""
        for resource_type, sample in sorted(self._samples.items()):
            for _, file, number, content in sorted(sample, key=lambda item: item[1:3]):
                self._validate(resource_type, file, number, content)
        return Validation(self._mode, self._checked, self._failed, self._examples)

    def _validate(self, resource_type: str, file: int, line: int, content: bytes) -> None:
        self._checked += 1
        reason = _invalid(resource_type, content)
        if reason is None:
            return
        self._failed += 1
        if len(self._examples) < _MAX_EXAMPLES:
            name = self._intake.files[file].file
            self._examples.append(Invalid(name, line, resource_type, reason))


def _invalid(resource_type: str, content: bytes) -> str | None:
    """Why `fhir.resources.R4B` refuses a line, as places and kinds of error without the values; None if it does not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # R4B, never the top level of the package: that is R5.
        from fhir.resources.R4B import get_fhir_model_class
        from pydantic import ValidationError

        try:
            model: Any = get_fhir_model_class(resource_type)
        except (KeyError, LookupError, ValueError):
            return "not an R4B resource type"
        try:
            model.model_validate_json(content)
        except ValidationError as error:
            places = (".".join(str(part) for part in fault["loc"]) for fault in error.errors())
            kinds = (fault["type"] for fault in error.errors())
            return "; ".join(f"{place}: {kind}" for place, kind in zip(places, kinds, strict=True))[:300]
        except (TypeError, ValueError, AttributeError) as error:
            return type(error).__name__
    return None
