"""`gemel synth`: virtual cohorts from what a run released: fit a model, put it to the test, draw from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer

from gemel.cli.output import Format, FormatOption, emit, failures, say
from gemel.core.error_catalogue import ExitCode

if TYPE_CHECKING:
    from gemel.synthetic.report import Finding, Override

app = typer.Typer(
    help="Virtual cohorts: fit what a run released, report on it, draw from it.", no_args_is_help=True
)

DRAWS = 5
# Those of `synthetic.export.Format`, without the import of Arrow.
FORMATS = ("fhir", "bundles", "omop", "parquet", "csv", "croissant", "health_dcat")
Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A model that gemel synth fit made.", show_default=False)
]
Folder = Annotated[
    Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the results.", show_default=False)
]
Patients = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="DIR",
        help="A data set of gemel data build, or a node's home: split here as the node splits it. May be repeated.",
    ),
]


Training = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="DIR", help="Instead of --data: a data set of patients who were counted. May be repeated."
    ),
]
Holdout = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="DIR", help="Instead of --data: a data set of patients who were not. May be repeated."
    ),
]
OpenData = Annotated[
    bool,
    typer.Option(
        "--open-data", help="The patients' data are public anyway: the public report may say exact numbers."
    ),
]
Quick = Annotated[
    bool, typer.Option("--quick", help="Fewer attacks: to look at, too few for a release to rest on.")
]
OfficersKey = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Your signing key, which signs the public report: others may then draw by it."
    ),
]
Draws = Annotated[int, typer.Option(min=DRAWS, max=100, help="Cohorts that are drawn and looked at.")]
ReportFile = Annotated[
    Path,
    typer.Option(
        metavar="FILE",
        help="The report on this model: internal/report.json of gemel synth report, or public/report.signed.json.",
        show_default=False,
    ),
]
Size = Annotated[int, typer.Option(min=1, help="Virtual patients of each cohort.")]
Where = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COND",
        help='What all of them have: "age_years>=70", "male=0", "death=no event". May be repeated.',
    ),
]
Cohorts = Annotated[
    int, typer.Option(min=1, max=1000, help="How many, each from the next seed, in DIR/1, DIR/2, …")
]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--as",
        click_type=click.Choice(FORMATS),
        help="What to write. May be repeated.",
        show_default="all but bundles",
    ),
]
Key = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Your signing key: gemel verify then names the signer.")
]
Officer = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="Fingerprint or public key of who signed the public report."),
]
Reason = Annotated[
    str | None,
    typer.Option(
        metavar="REASON", help="Release cohorts whose report does not pass, for this reason, on record."
    ),
]
Name = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who answers for the override.")]
Workers = Annotated[int, typer.Option(min=1, max=64, metavar="N", help="Processes that write FHIR.")]


@app.command(no_args_is_help=True)
def fit(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="A finished run's folder: the coordinator's, or what gemel study pull or simulate wrote.",
            show_default=False,
        ),
    ],
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="MODEL", help="The model's file (safetensors).")
    ] = Path("cohorts.safetensors"),
    output: FormatOption = Format.TABLE,
) -> None:
    """Fit the model that virtual cohorts are drawn from to what hospitals released. No patient is touched.

    The run's certificate is checked, and that the tables are those that it names. The file holds the tables, the fitted model,
    the signed study and the certificate: gemel verify MODEL checks it all again, offline.
    """
    with failures(output):
        from gemel.cli.synth_render import model_record, render_fit
        from gemel.synthetic.model_file import fit_run, write_model

        say("Checking the certificate, fitting …")
        model, content = fit_run(run)
        write_model(content, out)
        result = {"file": str(out), "bytes": len(content), **model_record(model)}
        emit(result, output, render=lambda console: render_fit(console, result))
        say(f"Next: gemel synth report {out} --data DIR -o report")


@app.command(no_args_is_help=True)
def report(
    model: Model,
    *,
    out: Folder,
    data: Patients = None,
    training: Training = None,
    holdout: Holdout = None,
    open_data: OpenData = False,
    quick: Quick = False,
    key: OfficersKey = None,
    draws: Draws = DRAWS,
    seed: Annotated[int, typer.Option(help="Of the first draw; the others follow.")] = 0,
    output: FormatOption = Format.TABLE,
) -> None:
    """Put a model to the test: what it promises, what attackers find, what its cohorts are good for. This is the gate.

    DIR/public is for everybody. DIR/internal has exact numbers about patients, is written only where patients were given, and stays
    where they are. Exit code 3: the report does not pass, and gemel synth sample refuses without a named override.
    """
    with failures(output):
        from gemel.cli.synth_evidence import Files, read_evidence
        from gemel.cli.synth_render import render_report
        from gemel.cli.synth_steps import examine, report_record, write_reports
        from gemel.core.signing import SigningKey
        from gemel.synthetic.model_file import read_model
        from gemel.synthetic.report.attacks import FULL, QUICK

        opened = read_model(model)
        files = Files(data or (), training or (), holdout or ())
        evidence = read_evidence(opened.tree.domain, files, open_data=open_data)
        if evidence is None:
            say("No patients were given: what needs them is not tested, and the report cannot pass.")
        say(f"{draws} draws, {'some' if quick else 'all'} attacks …")
        seeds, effort = range(seed, seed + draws), QUICK if quick else FULL
        made = examine(opened, evidence, seeds=seeds, effort=effort, heard=_tell_blocks())
        signing = SigningKey.load(key) if key is not None else None
        written = write_reports(made, out, internal=evidence is not None, key=signing)
        result = report_record(made, opened, model, written)
        emit(result, output, render=lambda console: render_report(console, result))
        if not result["passed"]:
            raise typer.Exit(int(ExitCode.REFUSED))


@app.command(no_args_is_help=True)
def sample(
    model: Model,
    *,
    out: Folder,
    report: ReportFile,
    patients: Size = 1000,
    where: Where = None,
    seed: Annotated[int, typer.Option(help="Of the first cohort; equal seeds give equal cohorts.")] = 0,
    cohorts: Cohorts = 1,
    formats: Formats = None,
    key: Key = None,
    officer: Officer = None,
    override: Reason = None,
    by: Name = None,
    workers: Workers = 1,
    output: FormatOption = Format.TABLE,
) -> None:
    """Draw virtual cohorts and write them, marked as synthetic in every resource, with their provenance.

    Without a report on this very model that passed nothing is written (GEM755), unless a named person overrides that: name and
    reason then stand in the manifest, the Provenance and the catalogues' records. Drawing costs no budget.
    """
    with failures(output):
        from gemel.cli.synth_conditions import read_conditions
        from gemel.cli.synth_render import cohort_record, render_cohorts
        from gemel.cli.synth_steps import Wanted, draw, read_report
        from gemel.core.signing import SigningKey
        from gemel.synthetic.export import USUAL_FORMATS
        from gemel.synthetic.export import Format as FileFormat
        from gemel.synthetic.model_file import read_model
        from gemel.synthetic.report import decide

        opened = read_model(model)
        document, vouched = read_report(report, officer=officer)
        answered = _override(override, by)
        decision = decide(document, model_sha256=opened.sha256, override=answered, vouched=vouched)
        wanted = Wanted(
            patients,
            range(seed, seed + cohorts),
            read_conditions(opened.tree.domain, where or ()),
            [FileFormat(name) for name in formats] if formats else USUAL_FORMATS,
            SigningKey.load(key) if key is not None else None,
            workers,
        )
        result: dict[str, Any] = {
            "model_sha256": opened.sha256,
            "where": {},
            "decision": decision.as_dict(),
            "cohorts": [],
        }
        for drawn, files, folder in draw(opened, decision, wanted, out):
            result["where"] = {name: list(levels) for name, levels in drawn.given.items()}
            result["cohorts"].append(cohort_record(drawn, files, folder))
        emit(result, output, render=lambda console: render_cohorts(console, result))
        say(f"Check it: gemel verify {result['cohorts'][0]['folder']}")


def _tell_blocks() -> Callable[[Finding], None]:
    """Says on stderr which part of a report is being worked on."""
    told: set[str] = set()

    def heard(finding: Finding) -> None:
        if finding.block not in told:
            told.add(finding.block)
            say(f"  {finding.block} …")

    return heard


def _override(reason: str | None, name: str | None) -> Override | None:
    """Who answers, and why: both or neither."""
    import datetime as dt

    from gemel.synthetic.report import Override

    if (reason is None) is not (name is None):
        raise typer.BadParameter("An override needs a reason and a name: --override REASON --by NAME.")
    if reason is None or name is None:
        return None
    return Override(by=name, reason=reason, at=f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}")
