"""Checking an export before anything is built on it: what was read, rejected and why, and what it covers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from gemel.core.errors import GemelError
from gemel.core.programme import Feature, Outcome, Programme, Target
from gemel.data_adapters.meaning.account import FactsAccount
from gemel.data_adapters.meaning.consent import Withheld, withheld_patients
from gemel.data_adapters.meaning.facts import Facts
from gemel.data_adapters.meaning.fhir_facts import read_fhir
from gemel.data_adapters.meaning.mapping_entries import GENDERS
from gemel.data_adapters.meaning.site_mapping import NO_MAPPING, SiteMapping
from gemel.data_adapters.omop.source import is_omop
from gemel.data_adapters.quality import advice
from gemel.data_adapters.quality.distributions import (
    concept_years,
    count_years,
    describe_distributions,
    describe_people,
)
from gemel.data_adapters.quality.drift import ask_about_units, find_drift
from gemel.data_adapters.quality.report import (
    STAYS_INSIDE,
    CheckReport,
    CodeCount,
    ConceptCoverage,
    ConsentAccount,
    MappingUse,
    Validation,
)
from gemel.data_adapters.quality.second_look import MappingWatch, count_entries, find_displays, find_genders
from gemel.data_adapters.quality.validation import Validate, Validator
from gemel.data_adapters.reading.reader import ReadBlock
from gemel.data_adapters.sources.files import Block

_OMOP = "`gemel data build` reads it; the card.json that it writes lists what was rejected, and why."


def check_export(
    export: Path,
    programme: Programme | None = None,
    *,
    validate: Validate = "sample",
    mapping: SiteMapping = NO_MAPPING,
    opt_out: Path | None = None,
    on: date | None = None,
    workers: int = 1,
) -> CheckReport:
    """Read an export as a data set would be built from it, and say what is in it.

    Args:
        export: Folder of FHIR files, or one file.
        programme: Whose concepts to look for; without one, units and codes are not mapped.
        validate: Put no line that is a resource, up to 200 of each type, or every line through `fhir.resources`.
        mapping: The site's own words.
        opt_out: A file with a patient id, or `system|value` identifier, a line.
        on: The day as of which consent is judged; today by default.
        workers: Threads that read; with `validate="full"` also processes that validate.

    Raises:
        GemelError: GEM208 when the export cannot be read or is an OMOP CDM, GEM244 when the opt-out list cannot. Bad
            lines are reported, not raised; so is what would keep a data set from being built.
    """
    _refuse_cdm(export)
    day = on if on is not None else datetime.now(UTC).date()
    withheld = withheld_patients(export, opt_out=opt_out, on=day, mapping=mapping)
    watch = MappingWatch(mapping)
    with Facts() as facts, Validator(validate, withheld=withheld, workers=workers) as validator:

        def on_block(file: int, block: Block, read: ReadBlock) -> None:
            validator.offer(file, block, read)
            watch.watch(block)

        how: dict[str, Any] = {"mapping": mapping, "withheld": withheld, "workers": workers}
        account = read_fhir(export, programme, facts, on_block=on_block, **how)
        future = {} if mapping.dates_shifted else facts.leave_out_future(day + timedelta(days=1))
        validation = validator.finish([file.file for file in account.files], version=account.fhir_version)
        report = CheckReport(
            notice=STAYS_INSIDE,
            export=export.name or export.resolve().name,
            programme=f"{programme.name} {programme.version}" if programme is not None else None,
            checked_on=day.isoformat(),
            to_do=[],
            people=describe_people(facts),
            years=count_years(facts),
            coverage=_coverage(account, programme, concept_years(facts)),
            consent=_consent(withheld, account, day, mapping, opt_out),
            unmapped=_unmapped(account, find_displays(export, _codes(account), withheld=withheld)),
            unknown_genders=_genders(export, account, mapping, withheld),
            mapping=_mapping_use(mapping, watch),
            future=future,
            **_values(facts, account, programme),
            **_lines(account, programme, validation),
        )
    return msgspec.structs.replace(report, to_do=advice.to_do(report, programme, mapping))


def _refuse_cdm(export: Path) -> None:
    # What cannot be listed is told by those who read it.
    with suppress(OSError):
        if is_omop(export):
            raise GemelError("GEM208", f"{export} is an OMOP CDM, and a check reads FHIR.", hint=_OMOP)


def _codes(account: FactsAccount) -> set[tuple[str, str]]:
    return {(unknown.system, unknown.code) for unknown in account.unmapped}


def _unmapped(account: FactsAccount, displays: Mapping[tuple[str, str], str]) -> list[CodeCount]:
    return [
        CodeCount(u.system, u.code, u.count, displays.get((u.system, u.code), "")) for u in account.unmapped
    ]


def _genders(export: Path, account: FactsAccount, mapping: SiteMapping, withheld: Withheld) -> dict[str, int]:
    """The gender codes for which Patients are rejected."""
    if "GEM214" not in account.rejects_by_code:
        return {}
    return find_genders(export, known={*GENDERS, *mapping.genders}, withheld=withheld)


def _mapping_use(mapping: SiteMapping, watch: MappingWatch) -> MappingUse:
    return MappingUse(
        title=mapping.title,
        entries=count_entries(mapping),
        skipped=list(mapping.skipped),
        never_seen=watch.never_seen(),
    )


def _values(facts: Facts, account: FactsAccount, programme: Programme | None) -> dict[str, Any]:
    """How the values of the programme's concepts lie, and lie beside its reference."""
    if programme is None:
        return {"distributions": [], "drift": [], "unit_questions": []}
    drift = find_drift(facts, programme)
    return {
        "distributions": describe_distributions(facts, programme),
        "drift": drift,
        "unit_questions": ask_about_units(programme, drift, account.implausible_examples),
    }


def _lines(account: FactsAccount, programme: Programme | None, validation: Validation) -> dict[str, Any]:
    """What the account itself says, as far as the report shows it unchanged."""
    noted = {
        "GEM204": account.unmapped_total,
        "GEM206": sum(concept.implausible for concept in account.concepts),
        "GEM211": account.synthetic,
    }
    by_code = account.rejects_by_code
    rejects = advice.rejected_lines(account.rejects, programme)
    same = (
        *(
            "fhir_version",
            "files",
            "unread",
            "rejects_by_code",
            "excluded",
            "synthetic",
            "patients",
            "concepts",
        ),
        *("superseded", "deleted", "undated", "odd_ends", "unused", "default_units", "withheld", "orphans"),
        *("implausible_examples", "unmapped_total", "partial_dates"),
    )
    return {name: getattr(account, name) for name in same} | {
        "fhir_versions": account.versions,
        "fhir_version_reason": advice.explain_version(account),
        "read": sum(file.read for file in account.files),
        "accepted": sum(file.accepted for file in account.files),
        "rejected_total": sum(file.rejected for file in account.files),
        "rejects": rejects,
        "reject_groups": advice.group(rejects),
        "noted": {code: number for code, number in noted.items() if number},
        "unit_examples": account.unit_problems,
        "unit_problems": {code: by_code[code] for code in ("GEM202", "GEM203") if code in by_code},
        "validation": validation,
    }


def _coverage(
    account: FactsAccount, programme: Programme | None, years: dict[str, tuple[int, int]]
) -> list[ConceptCoverage]:
    if programme is None:
        return []
    needed: list[Feature | Outcome | Target] = [*programme.features, *programme.outcomes, *programme.targets]
    found = []
    for counted in account.concepts:
        concept = programme.concept(counted.concept)
        first, last = years.get(concept.name, (None, None))
        found.append(
            ConceptCoverage(
                concept=concept.name,
                title=concept.title,
                unit=concept.unit,
                values=counted.values,
                patients=counted.patients,
                share=counted.patients / max(account.patients, 1),
                implausible=counted.implausible,
                comparators=counted.bounds,
                absent=counted.absent,
                duplicates=counted.duplicates,
                first_year=first,
                last_year=last,
                needed_by=[one.name for one in needed if concept.name in one.concepts],
            )
        )
    return found


def _consent(
    withheld: Withheld, account: FactsAccount, day: date, mapping: SiteMapping, opt_out: Path | None
) -> ConsentAccount:
    return ConsentAccount(
        on=day.isoformat(),
        opt_out_list=opt_out is not None,
        required=mapping.require_consent,
        withheld=account.withheld,
        reasons=dict(withheld.reasons),
        consents=dict(withheld.consents),
        unread=withheld.unread,
        nobody=withheld.nobody,
        unmatched=withheld.unmatched,
    )
