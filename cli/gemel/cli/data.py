"""`gemel data`: look at a FHIR export before anything is built from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gemel.cli.output import Format, FormatOption, emit, failures, say, table
from gemel.core.error_catalogue import ExitCode
from gemel.core.errors import GemelError

if TYPE_CHECKING:
    from rich.console import Console

    from gemel.core.programme import Programme

app = typer.Typer(help="FHIR exports: check them, and read them through views.", no_args_is_help=True)

SHOWN_REJECTS = 20
SHOWN_INVALID = 5
SHOWN_CODES = 10
COUNTS = ("read", "accepted", "rejected")
Export = Annotated[
    Path,
    typer.Argument(
        metavar="EXPORT", help="A folder of NDJSON files (plain or gzipped), or one file.", show_default=False
    ),
]


def find_programme(name: str) -> Programme:
    """The installed programme `NAME` (its newest version) or `NAME@VERSION`. Raises GEM104."""
    from gemel.twins.installed import find, installed

    plain, _, version = name.partition("@")
    versions = [programme.version for programme in installed() if programme.name == plain]
    if not versions:
        names = ", ".join(sorted({programme.name for programme in installed()}))
        raise GemelError("GEM104", f"Programme {plain} is not installed here; installed: {names}.")
    return find(plain, version or versions[-1])


@app.command()
def check(
    export: Export,
    *,
    programme: Annotated[
        str | None,
        typer.Option(
            metavar="P", help="Also say what this programme finds: its concepts and their coverage."
        ),
    ] = None,
    validate: Annotated[
        Literal["off", "sample", "full"],
        typer.Option(help="How many resources to hold against the FHIR R4 models."),
    ] = "sample",
    output: FormatOption = Format.TABLE,
) -> None:
    """Check an export: what was read, what was rejected, why.

    Lines, required elements, units, codes, dates and plausible values; nothing is changed.
    """
    with failures(output):
        import msgspec

        from gemel.data_adapters.quality.check import check_export

        chosen = find_programme(programme) if programme is not None else None
        checked = check_export(export, chosen, validate=validate)
        report = msgspec.to_builtins(checked)
        emit(report, output, render=lambda console: _render_check(console, report))
        if not checked.patients:
            # The account of the lines is still the result, so this is said beside it and not instead of it.
            say(str(GemelError("GEM205", f"{export} holds no accepted Patient.")))
            raise typer.Exit(int(ExitCode.FAILED))


def _render_check(console: Console, report: dict[str, Any]) -> None:
    made = table("File", ">Read", ">Accepted", ">Rejected", title=f"FHIR {report['fhir_version']}")
    for file in report["files"]:
        made.add_row(file["file"], *(str(file[name]) for name in COUNTS))
    made.add_row(
        "together", *(str(report[name]) for name in ("read", "accepted", "rejected_total")), style="bold"
    )
    console.print(made)
    if report["coverage"]:
        columns = ("values", "patients", "implausible")
        made = table("Concept", ">Values", ">Patients", ">Implausible")
        for concept in report["coverage"]:
            made.add_row(concept["concept"], *(str(concept[name]) for name in columns))
        console.print(made)
    if report["rejects"]:
        made = table("Rejected", "Code", "Reason")
        for reject in report["rejects"][:SHOWN_REJECTS]:
            made.add_row(f"{reject['file']}:{reject['line']}", reject["code"], _place(reject))
        console.print(made)
    _render_units(console, report)
    _render_codes(console, report)
    _render_remarks(console, report)


def _render_units(console: Console, report: dict[str, Any]) -> None:
    """Which units cannot be used, where to see one, and what to do."""
    if not report["unit_examples"]:
        return
    made = table("Unit", "Of", ">Values", "Code", "For example", title="Units that cannot be used")
    for problem in report["unit_examples"][:SHOWN_CODES]:
        unit, concept = problem["unit"] or "none", problem["concept"] or "a code outside the programme"
        made.add_row(unit, concept, str(problem["count"]), problem["code"], problem["example"])
    console.print(made)
    console.print(
        "To do: write UCUM in valueQuantity.code at the source (system http://unitsofmeasure.org). "
        "Until then these values are left out; none is guessed.",
        markup=False,
    )


def _render_codes(console: Console, report: dict[str, Any]) -> None:
    """Which codes the programme does not know, and what to do."""
    if not report["unmapped"]:
        return
    total = report["unmapped_total"]
    made = table(">Times", "Code", "System", title=f"Codes that the programme does not know ({total})")
    for code in report["unmapped"][:SHOWN_CODES]:
        made.add_row(str(code["count"]), code["code"] or "(none)", code["system"] or "(no system)")
    console.print(made)
    console.print(
        "To do: nothing, if none of them means a concept above. Else export the standard code (LOINC, SNOMED CT or "
        "ICD-10) as a further coding beside the local one; one that the programme lacks is for its authors to add.",
        markup=False,
    )


def _render_remarks(console: Console, report: dict[str, Any]) -> None:
    validation = report["validation"]
    remarks = {
        "patients": report["patients"],
        "rejected, by code": _counts(report["rejects_by_code"]),
        "left out, by reason": _counts(report["excluded"]),
        "synthetic": report["synthetic"] or "",
        "whose patient is not in the export": _counts(report["orphans"]),
        "not read": "; ".join(report["unread"][:SHOWN_CODES]),
        "dates without a day": _counts(report["partial_dates"]),
        "implausible, for example": ", ".join(report["implausible_examples"][:SHOWN_INVALID]),
        "FHIR R4B models": f"{validation['checked']} lines, {validation['failed']} failed",
    }
    for name, value in remarks.items():
        if value != "":
            console.print(f"{name}: {value}", markup=False)
    for example in validation["examples"][:SHOWN_INVALID]:
        console.print(f"  {example['file']}:{example['line']} {example['reason']}", markup=False)
    if report["rejected_total"] > SHOWN_REJECTS:
        console.print(f"The first {SHOWN_REJECTS} rejected lines are shown; --format json lists more.")


def _place(reject: dict[str, Any]) -> str:
    """Where in which resource, and why: `Observation $.valueQuantity: no unit`."""
    return f"{reject['resource_type'] or ''} {reject['path']}: {reject['reason']}".strip()


def _counts(counted: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counted.items())


@app.command()
def view(
    views: Annotated[
        list[Path],
        typer.Argument(
            metavar="VIEW.json... EXPORT", help="View definitions, then the export.", show_default=False
        ),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the tables.")],
    output: FormatOption = Format.TABLE,
) -> None:
    """Read an export through SQL-on-FHIR views.

    Writes one Parquet file per view, named after the view.
    """
    with failures(output):
        if len(views) < 2:
            raise GemelError("GEM209", "Name at least one view definition and then the export.")
        import pyarrow.parquet as pq

        from gemel.data_adapters.views.run import load_view, read_views, write_tables

        definitions, export = [load_view(path) for path in views[:-1]], views[-1]
        if out.exists() and not out.is_dir():
            raise typer.BadParameter(f"{out} is no folder", param_hint="--out")
        tables, intake = read_views(definitions, export)
        written = [
            {"view": path.stem, "file": str(path), "rows": pq.read_metadata(path).num_rows}
            for path in write_tables(tables, out)
        ]
        lines = {name: sum(getattr(file, name) for file in intake.files) for name in COUNTS}
        if lines["rejected"]:
            left_out = _counts(dict(sorted(intake.by_code.items())))
            say(f"{lines['rejected']} of {lines['read']} lines were left out ({left_out}).")
            say("  `gemel data check` names them.")
        if intake.unread:
            say(f"Not read: {'; '.join(intake.unread[:SHOWN_CODES])}.")

        def render(console: Console) -> None:
            made = table("View", ">Rows", "File")
            for file in written:
                made.add_row(str(file["view"]), str(file["rows"]), str(file["file"]))
            console.print(made)

        emit({"files": written, **lines, "unread": intake.unread}, output, render=render)
