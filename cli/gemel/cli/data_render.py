"""The tables of `gemel data`: what a person at a terminal sees. Texts of an export are shown, never interpreted."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from gemel.cli.output import table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console
    from rich.table import Table

SHOWN_REJECTS = 20
SHOWN_INVALID = 5
SHOWN_CODES = 10
SHOWN_LEFT_OUT = 10
SHOWN_TO_DO = 12
COUNTS = ("read", "accepted", "rejected")


def counts_text(counted: Mapping[str, int]) -> str:
    """Counts in a line: `Observation 3, Patient 1`."""
    return ", ".join(f"{name} {count}" for name, count in counted.items())


def _plain(text: object) -> str:
    """A text without what a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def _add(made: Table, *cells: object, style: str | None = None) -> None:
    """A row whose cells are texts and nothing else: brackets are no markup."""
    from rich.text import Text

    made.add_row(*(Text(_plain(cell)) for cell in cells), style=style)


def _say(console: Console, text: str) -> None:
    console.print(_plain(text), markup=False)


def render_check(console: Console, report: dict[str, Any]) -> None:
    """The whole report of a check."""
    made = table("File", ">Read", ">Accepted", ">Rejected", title=f"FHIR {report['fhir_version']}")
    for file in report["files"]:
        _add(made, file["file"], *(file[name] for name in COUNTS))
    _add(made, "together", *(report[name] for name in ("read", "accepted", "rejected_total")), style="bold")
    console.print(made)
    _render_coverage(console, report)
    _render_drift(console, report)
    _render_rejects(console, report)
    _render_units(console, report)
    _render_codes(console, report)
    _render_remarks(console, report)
    _render_to_do(console, report)


def _render_coverage(console: Console, report: dict[str, Any]) -> None:
    if not report["coverage"]:
        return
    made = table(
        "Concept",
        ">Values",
        ">Bounds",
        ">Patients",
        ">Share",
        ">Years",
        ">Implausible",
        ">No value",
        ">Unused",
    )
    unused: Counter[str] = Counter()
    for key, number in report["unused"].items():
        unused[key.partition(": ")[2]] += number
    for one in report["coverage"]:
        years = f"{one['first_year']}-{one['last_year']}" if one["first_year"] else ""
        _add(
            made,
            one["concept"],
            one["values"],
            one["comparators"],
            one["patients"],
            f"{one['share']:.0%}",
            years,
            one["implausible"],
            one["absent"],
            unused[one["concept"]],
        )
    console.print(made)
    _say(
        console,
        'Patients have a value or a bound ("<5"). Left out: implausible values, records without a value, and unused '
        "ones, which give the concept none (such as a diagnosis with the code of something measured).",
    )


def _render_drift(console: Console, report: dict[str, Any]) -> None:
    if not report["drift"]:
        return
    made = table(
        "Feature", ">Patients", ">Mean", ">Reference", ">Scales off", "Verdict", title="Against the reference"
    )
    for one in report["drift"]:
        mean = "" if one["mean"] is None else f"{one['mean']:.4g}"
        off = "" if one["smd"] is None else f"{one['smd']:+.2f}"
        _add(made, one["feature"], one["patients"], mean, f"{one['reference_mean']:g}", off, one["verdict"])
    console.print(made)


def _render_rejects(console: Console, report: dict[str, Any]) -> None:
    if not report["rejects"]:
        return
    made = table("Rejected", "Code", "Reason")
    for reject in report["rejects"][:SHOWN_REJECTS]:
        _add(made, f"{reject['file']}:{reject['place'] or reject['line']}", reject["code"], _place(reject))
    console.print(made)
    if report["rejected_total"] > SHOWN_REJECTS:
        _say(console, f"The first {SHOWN_REJECTS} rejected lines are shown; --format json lists more.")


def _place(reject: dict[str, Any]) -> str:
    """Where in which resource, and why: `Observation $.valueQuantity: no unit`."""
    return f"{reject['resource_type'] or ''} {reject['path']}: {reject['reason']}".strip()


def _render_units(console: Console, report: dict[str, Any]) -> None:
    """Which units cannot be used, where to see one, and what to do."""
    if not report["unit_examples"]:
        return
    from gemel.data_adapters.meaning.account import needs_quantity

    made = table("Unit", "Of", ">Values", "Code", "For example", title="Units that cannot be used")
    for problem in report["unit_examples"][:SHOWN_CODES]:
        none = "none: a text or an integer" if needs_quantity(problem["reason"]) else "none"
        unit, concept = problem["unit"] or none, problem["concept"] or "a code outside the programme"
        _add(made, unit, concept, problem["count"], problem["code"], problem["example"])
    console.print(made)
    _say(
        console,
        "To do: say in a mapping what they mean (--suggest-mapping FILE writes the lines), or write UCUM in "
        "valueQuantity.code at the source (texts and integers only there, as a valueQuantity). Until then these values "
        "are left out; none is guessed.",
    )


def _render_codes(console: Console, report: dict[str, Any]) -> None:
    """Which codes the programme does not know, and what to do."""
    if not report["unmapped"]:
        return
    total = report["unmapped_total"]
    made = table(
        ">Times", "Code", "Called", "System", title=f"Codes that the programme does not know ({total})"
    )
    for code in report["unmapped"][:SHOWN_CODES]:
        _add(made, code["count"], code["code"] or "(none)", code["display"], code["system"] or "(no system)")
    console.print(made)
    _say(
        console,
        "To do: nothing, if none of them means a concept above. Else map them (--suggest-mapping FILE writes the "
        "lines), or export the standard code (LOINC, SNOMED CT or ICD-10) as a further coding beside the local one.",
    )


def _render_remarks(console: Console, report: dict[str, Any]) -> None:
    validation, consent, mapping = report["validation"], report["consent"], report["mapping"]
    withheld = report["withheld"]
    remarks = {
        "patients": f"{report['patients']} ({counts_text(report['people']['sex'])})"
        if report["patients"]
        else "0",
        "withheld": f"{withheld['patients']} patients ({counts_text(consent['reasons'])})"
        if withheld["patients"]
        else "",
        "opt-out entries that name no patient of the export": consent["unmatched"] or "",
        "Consents that name no patient of the export": consent["nobody"] or "",
        "genders that are not FHIR's": counts_text(
            {code or "(no code)": number for code, number in report["unknown_genders"].items()}
        ),
        "rejected, by code": counts_text(report["rejects_by_code"]),
        "left out, by reason": counts_text(report["excluded"]),
        "synthetic": report["synthetic"] or "",
        "whose patient is not in the export": counts_text(report["orphans"]),
        "replaced by newer versions": counts_text(report["superseded"]),
        "deleted by the export": counts_text(report["deleted"]),
        "without any date": counts_text(report["undated"]),
        "not read": "; ".join(report["unread"][:SHOWN_CODES]),
        "dates without a day": counts_text(report["partial_dates"]),
        "implausible, for example": ", ".join(report["implausible_examples"][:SHOWN_INVALID]),
        "unit taken from the mapping": counts_text(report["default_units"]),
        "mapping entries that map nothing": "; ".join(mapping["skipped"][:SHOWN_CODES]),
        "mapping entries that the export never says": "; ".join(mapping["never_seen"][:SHOWN_CODES]),
        "FHIR version": report["fhir_version_reason"],
        f"FHIR {validation['models']} models": f"{validation['checked']} lines, {validation['failed']} failed",
    }
    for name, value in remarks.items():
        if value != "":
            _say(console, f"{name}: {value}")
    for example in validation["examples"][:SHOWN_INVALID]:
        _say(console, f"  {example['file']}:{example['place'] or example['line']} {example['reason']}")


def _render_to_do(console: Console, report: dict[str, Any]) -> None:
    made = table("", "What", "To do", title="What to do")
    for item in report["to_do"][:SHOWN_TO_DO]:
        _add(made, item["weight"], item["what"], item["fix"])
    if report["to_do"]:
        console.print(made)
    if len(report["to_do"]) > SHOWN_TO_DO:
        _say(console, f"{len(report['to_do']) - SHOWN_TO_DO} more are in --format json and in --html FILE.")
    _say(console, report["notice"])


def render_views(console: Console, written: Sequence[dict[str, Any]]) -> None:
    """The files that views were written to."""
    made = table("View", ">Rows", "File")
    for file in written:
        _add(made, file["view"], file["rows"], file["file"])
    console.print(made)


def render_card(console: Console, result: dict[str, Any]) -> None:
    """What a data set holds: who is in, who is out and why, and how many have each value."""
    card = result["card"]
    cohort = card["cohort"]
    made = table(
        "Patients", ">Number", title=f"{card['programme']} {card['programme_version']} of {card['source']}"
    )
    _add(made, "read", cohort["patients"])
    for reason, number in card["withheld"].items():
        _add(made, f"withheld before: {reason}", number)
    for reason, number in cohort["excluded"].items():
        _add(made, f"out: {card['reasons'].get(reason) or reason}", number)
    _add(made, "in the data set", cohort["included"], style="bold")
    console.print(made)
    made = table("Feature", ">Patients", ">p5", ">Median", ">p95")
    for name, number in card["coverage"].items():
        lies = card["distributions"].get(name, {})
        shown = (lies.get(rank) for rank in ("p5", "median", "p95"))
        _add(made, name, number, *("" if value is None else f"{value:.4g}" for value in shown))
    console.print(made)
    made = table("Outcome", ">Occurred", ">Censored", ">Before the index date")
    for name, events in card["events"].items():
        _add(made, name, events["occurred"], events["censored"], events["prevalent"])
    console.print(made)
    _render_inputs(console, card)
    _render_left_out(console, card)
    for name in ("dataset", "card_file", "key_file", "snapshot"):
        _say(console, f"{name.replace('_', ' ')}: {result[name]}")


def _render_inputs(console: Console, card: dict[str, Any]) -> None:
    """What became of the further inputs, with the files that were refused and the links that nothing is called by."""
    for one in card["inputs"]:
        _say(
            console,
            f"{one['input']}: {counts_text(one['items'])}; facts: {counts_text(one['facts']) or 'none'}",
        )
        files = [reject for reject in one["rejected"] if not reject["place"]]
        if one["files_rejected"]:
            _say(console, f"  {one['files_rejected']} files rejected:")
        for reject in files[:SHOWN_LEFT_OUT]:
            _say(console, f"    {reject['file']}: {reject['code']} {reject['reason']}")
    if card["links_unused_total"]:
        _say(
            console,
            f"{card['links_unused_total']} rows of the link tables name nothing that was read: "
            f"{', '.join(card['links_unused'][:SHOWN_LEFT_OUT])}",
        )


def _render_left_out(console: Console, card: dict[str, Any]) -> None:
    """Rejected lines or rows, and the entries of the opt-out list that name nobody."""
    from rich.text import Text

    if card["future"]:
        said = f"left out as dated after today: {counts_text(card['future'])}; a mapping may say dates_shifted = true."
        console.print(Text(said, style="bold"))
    rejected = sum(file["rejected"] for file in card["files"])
    is_cdm = card["source"].startswith("OMOP")
    if rejected:
        where = "card.json lists the first 100" if is_cdm else "`gemel data check` names them"
        kind = "rows" if is_cdm else "lines"
        _say(console, f"{rejected} {kind} were left out ({counts_text(card['rejects'])}); {where}.")
    if is_cdm:
        for reject in card["rejected"][:SHOWN_LEFT_OUT]:
            _say(console, f"  {reject['file']}:{reject['place']} {reject['code']} {reject['reason']}")
    if card["opt_out_unmatched"]:
        lines = ", ".join(str(line) for line in card["opt_out_unmatched_lines"][:SHOWN_LEFT_OUT])
        warning = (
            f"ATTENTION: {card['opt_out_unmatched']} entries of the opt-out list name nobody in this source "
            f"(lines {lines}). If one of them is a typing error, somebody who opted out is in the data set."
        )
        console.print(Text(warning, style="bold red"))


def render_fetched(console: Console, result: dict[str, Any]) -> None:
    """What was fetched."""
    made = table("Resource", ">Fetched", title=f"Export in {_plain(result['folder'])}")
    for name, number in result["lines"].items():
        _add(made, name, number)
    console.print(made)
    remarks = {
        "as of": result["transaction_time"] or "",
        "files of deletions": result["deleted_files"] or "",
        "what the server could not export": counts_text(result["problems"]),
    }
    for name, value in remarks.items():
        if value:
            _say(console, f"{name}: {value}")
    for note in result["notes"]:
        _say(console, note)
