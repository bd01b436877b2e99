"""The entry point of `gemel`: one group per noun, and the verbs of daily use."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
import typer.core

from gemel.cli import (
    audit,
    data,
    doctor,
    explain,
    federation,
    ledger,
    model,
    node,
    programme,
    study,
    synth,
    twin,
    verify,
)
from gemel.cli.output import Format, FormatOption, failures, report, say
from gemel.core.errors import GemelError

# typer 0.20 escapes the brackets of defaults for rich, and imports rich to do so, even where help is plain.
typer.core.HAS_RICH = False

app = typer.Typer(
    name="gemel",
    help="Train one virtual human twin across hospitals without moving a patient record.",
    epilog="Exit codes: 0 ok, 1 failed, 2 usage, 3 refused by policy or budget, "
    "4 cannot reach a peer, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    # Plain help: it is quoted in docs/commands.md, and it needs no import of rich.
    rich_markup_mode=None,
    # Rich tracebacks would print local variables, which may hold patients' values.
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"gemel {version('gemel')}")
        raise typer.Exit


@app.callback()
def gemel(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and stop.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Train one virtual human twin across hospitals without moving a patient record."""


@app.command()
def demo(
    *,
    programme: Annotated[str, typer.Option(metavar="NAME", help="An installed programme.")] = "fatty_liver",
    out: Annotated[Path, typer.Option(help="Folder for the report and all files.")] = Path("out/demo"),
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of open data. Without the programme's file in it, its people are simulated.",
        ),
    ] = None,
    hospitals: Annotated[int, typer.Option(min=2, max=20, help="Hospitals to deal the people out to.")] = 3,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Rounds of training.", show_default="the programme's"),
    ] = None,
    epsilon: Annotated[
        float, typer.Option(min=0.1, max=100, help="Budget of each patient, everything included.")
    ] = 3.0,
    seed: Annotated[int, typer.Option(help="Seed of the split and of the virtual cohort.")] = 0,
    output: FormatOption = Format.TABLE,
) -> None:
    """Run the whole walk of a programme on this machine, over real Flower.

    Hospitals made from open data, a signed study, private training, evaluation, one patient's what-if, a virtual cohort, one
    report.
    """
    say("Loading torch, Flower and the FHIR models …")
    with failures(output):
        from gemel.cli.demo.run import Settings, main

        settings = Settings(hospitals=hospitals, rounds=rounds or 0, epsilon=epsilon, seed=seed, data=data)
        main(programme, out, settings, as_json=output is Format.JSON)


app.command("doctor")(doctor.doctor)
app.add_typer(data.app, name="data")
app.add_typer(ledger.app, name="ledger")
app.add_typer(federation.app, name="federation")
app.add_typer(study.app, name="study")
app.add_typer(node.app, name="node")
app.add_typer(model.app, name="model")
app.add_typer(programme.app, name="programme")
app.add_typer(twin.app, name="twin")
app.add_typer(synth.app, name="synth")
app.command("verify")(verify.verify)
app.command("audit")(audit.audit)
app.command("explain")(explain.explain)


def run() -> None:
    """Run the command line; expected failures become a code, a message and an exit status."""
    # No telemetry, no update check: a hospital's firewall would rightly raise an alarm.
    os.environ.update(doctor.QUIET_ENVIRONMENT)
    try:
        app()
    except GemelError as error:
        report(error)
        sys.exit(int(error.exit_code))


if __name__ == "__main__":
    run()
