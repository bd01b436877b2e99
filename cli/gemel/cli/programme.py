"""`gemel programme`: the installed twins, what each declares, and whether its claims hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemel.cli.data import find_programme
from gemel.cli.output import Format, FormatOption, emit, failures, say, table

if TYPE_CHECKING:
    from rich.console import Console

    from gemel.twins.claims import CheckedClaim
    from gemel.twins.definition import TwinDefinition

app = typer.Typer(help="Installed programmes: their twins, claims and gates.", no_args_is_help=True)

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="An installed programme, or NAME@VERSION.", show_default=False)
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Folder of open data. Claims that need a file of it are skipped without.",
    ),
]


def find_definition(name: str) -> TwinDefinition:
    """All of an installed programme, by `NAME` or `NAME@VERSION`. Raises GEM104."""
    from gemel.twins.installed import definition_of

    return definition_of(find_programme(name))


@app.command("list")
def list_(*, output: FormatOption = Format.TABLE) -> None:
    """List the installed programmes: how far each is validated, and how many claims stand behind it."""
    with failures(output):
        from gemel.cli.programme_record import listed
        from gemel.twins.installed import definition_of, installed

        lines = [listed(definition_of(programme)) for programme in installed()]
        emit({"programmes": lines}, output, render=lambda console: _render_list(console, lines))


@app.command()
def show(name: Name, *, output: FormatOption = Format.TABLE) -> None:
    """Show a programme: question, cohort, features, treatments, physiology, baselines, claims, limits."""
    with failures(output):
        from gemel.cli.programme_record import record_of
        from gemel.cli.programme_render import render

        record = record_of(find_definition(name))
        emit(record, output, render=lambda console: render(console, record))


@app.command()
def check(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="An installed programme, or NAME@VERSION.", show_default=False),
    ] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Every installed programme.")] = False,
    data: Data = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Compute every claim of a programme, and hold each number against the published one.

    Exit code 1 when a claim fails. A claim against a number that nobody verified counts for no gate.
    """
    if (name is None) is not everything:
        raise typer.BadParameter("Name a programme, or say --all.")
    with failures(output):
        from gemel.twins.installed import definition_of, installed

        chosen = (
            [find_definition(name)] if name is not None else [definition_of(each) for each in installed()]
        )
        checked = [(definition, _checked(definition, data)) for definition in chosen]
        result = _result(checked)
        emit(result, output, render=lambda console: _render_check(console, result))
        if result["failed"]:
            raise typer.Exit(1)


def _checked(definition: TwinDefinition, data: Path | None) -> list[CheckedClaim]:
    """Each claim, one after the other: some compute for a while, and say so."""
    from gemel.twins.claims import check_claims

    found: list[CheckedClaim] = []
    for number, claim in enumerate(definition.claims, start=1):
        say(f"{definition.programme.name} {number}/{len(definition.claims)}: {claim.name} …")
        found += check_claims((claim,), data=data)
    return found


def _result(checked: list[tuple[TwinDefinition, list[CheckedClaim]]]) -> dict[str, Any]:
    from gemel.cli.programme_record import checked_line, gate_lines

    return {
        "programmes": [
            {
                "name": definition.programme.name,
                "version": definition.programme.version,
                "claims": [checked_line(claim) for claim in claims],
                "gates": gate_lines(claims),
            }
            for definition, claims in checked
        ],
        "failed": sum(claim.verdict.value == "fails" for _, claims in checked for claim in claims),
    }


def _render_list(console: Console, lines: list[dict[str, Any]]) -> None:
    rows = table("programme", "title", "grade", ">G0", ">G1", ">G2", "missing for more")
    for line in lines:
        gates = (str(line["gates"][gate] or "–") for gate in ("G0", "G1", "G2"))
        missing = "; ".join(line["missing"])
        rows.add_row(f"{line['name']} {line['version']}", line["title"], line["grade"], *gates, missing)
    console.print(rows)
    console.print(
        "G0: published numbers reproduced; G1: beaten or matched on data that nobody here made; G2: the whole walk. "
        "The number is that of claims;\n`gemel programme check --all` computes each. The walk of each programme: "
        "`gemel demo --programme NAME`.",
        markup=False,
    )


def _render_check(console: Console, result: dict[str, Any]) -> None:
    from gemel.cli.programme_render import number

    for programme in result["programmes"]:
        rows = table(
            "claim",
            "gate",
            ">computed",
            ">published",
            ">from",
            ">to",
            "unit",
            "mark",
            "verdict",
            title=f"{programme['name']} {programme['version']}",
        )
        for claim in programme["claims"]:
            told = claim["verdict"] + (f": no {claim['needs']}" if claim["verdict"] == "skipped" else "")
            numbers = (number(claim[key]) for key in ("computed", "value", "low", "high"))
            rows.add_row(claim["statement"], claim["gate"], *numbers, claim["unit"], claim["mark"], told)
        console.print(rows)
        sources = {claim["name"]: claim["source"] for claim in programme["claims"]}
        for name, source in sources.items():
            console.print(f"  {name}: {source}", markup=False)
        for gate, told in programme["gates"].items():
            counts = ", ".join(f"{count} {verdict}" for verdict, count in told.items() if count)
            console.print(f"{gate}: {counts or 'no claim'}", markup=False)
    console.print(
        "Marks: V read in the source; 2 read in somebody's code that cites it; C computed from what is named; "
        "U from memory, which supports nothing alone.",
        markup=False,
    )
