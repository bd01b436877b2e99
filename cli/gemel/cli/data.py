"""`gemel data`: fetch a hospital's records, look at them, and build a data set from them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gemel.cli.output import Format, FormatOption, emit, failures, say
from gemel.core.error_catalogue import ExitCode
from gemel.core.errors import GemelError

if TYPE_CHECKING:
    from gemel.core.dataset import Dataset
    from gemel.core.programme import Programme
    from gemel.data_adapters.meaning.site_mapping import SiteMapping
    from gemel.data_adapters.quality.report import CheckReport
    from gemel.data_adapters.sources.settings import SourceSettings
    from gemel.data_adapters.views.view_definition import ViewDefinition

app = typer.Typer(
    help="A hospital's records: fetch, check, read through views, build data sets.", no_args_is_help=True
)

SHOWN_UNREAD = 10
COUNTS = ("read", "accepted", "rejected")
Export = Annotated[
    Path,
    typer.Argument(
        metavar="EXPORT",
        help="A folder of FHIR files (NDJSON or Bundles; plain, .gz, .zst), or one file.",
        show_default=False,
    ),
]
Mapping = Annotated[
    list[Path] | None,
    typer.Option(
        "--mapping", metavar="FILE", help="The site's own words: TOML, or a FHIR ConceptMap. May be repeated."
    ),
]
OptOut = Annotated[
    Path | None,
    typer.Option(
        "--opt-out", metavar="FILE", help="People who opted out: a patient id or system|value a line."
    ),
]
Workers = Annotated[int, typer.Option(min=1, max=64, metavar="N", help="Threads that read.")]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the results.")]


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
            metavar="P", help="Also say what this programme finds: its concepts, their coverage and drift."
        ),
    ] = None,
    mapping: Mapping = None,
    opt_out: OptOut = None,
    validate: Annotated[
        Literal["off", "sample", "full"],
        typer.Option(help="How many resources to hold against the FHIR models."),
    ] = "sample",
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the report as one HTML page.")
    ] = None,
    suggest_mapping: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write a mapping to fill in, of what is not known yet."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help='Exit with 1 when "What to do" has a "must".')
    ] = False,
    workers: Workers = 1,
    output: FormatOption = Format.TABLE,
) -> None:
    """Check an export: what was read, what was rejected, why, and what to do.

    Lines, required elements, units, codes, dates, plausible values, consent; nothing is changed. The exit code says
    whether the check ran (and found any patient), not whether the data are fit: see "What to do", or --strict.
    """
    with failures(output):
        import msgspec

        from gemel.cli.data_render import render_check
        from gemel.data_adapters.quality.check import check_export

        chosen = find_programme(programme) if programme is not None else None
        if suggest_mapping is not None:
            _require_new(suggest_mapping, chosen)
        site = _load(mapping)
        checked = check_export(
            export, chosen, validate=validate, mapping=site, opt_out=opt_out, workers=workers
        )
        if html is not None:
            from gemel.data_adapters.quality.html_report import render_report

            _write_inside(html, render_report(checked))
            say(f"Report: {html}")
        if suggest_mapping is not None and chosen is not None:
            _write_inside(suggest_mapping, _suggestion(checked, chosen))
            say(f"Mapping to fill in: {suggest_mapping}")
        report = msgspec.to_builtins(checked)
        emit(report, output, render=lambda console: render_check(console, report))
        _say_beside(checked, export, strict=strict)


def _say_beside(checked: CheckReport, export: Path, *, strict: bool) -> None:
    """What is said beside the result and not instead of it, and the exit code: the account is still the result."""
    if checked.consent.unmatched:
        say(f"{checked.consent.unmatched} entries of the opt-out list name no patient of this export.")
    if checked.consent.nobody:
        say(
            f"{checked.consent.nobody} Consents name no patient of this export: each may be a denial that is lost."
        )
    if not checked.patients:
        say(str(GemelError("GEM205", f"{export} holds no accepted Patient.")))
        raise typer.Exit(int(ExitCode.FAILED))
    if strict and any(item.weight == "must" for item in checked.to_do):
        raise typer.Exit(int(ExitCode.FAILED))


def _require_new(suggestion: Path, programme: Programme | None) -> None:
    option = "--suggest-mapping"
    if programme is None:
        raise typer.BadParameter("name a --programme, whose concepts to map to", param_hint=option)
    if suggestion.exists():
        reason = f"{suggestion} is there already, perhaps filled in: name another"
        raise typer.BadParameter(reason, param_hint=option)


def _load(paths: list[Path] | None) -> SiteMapping:
    from gemel.data_adapters.meaning.site_mapping import load_mapping

    return load_mapping(*(paths or ()))


def _suggestion(checked: CheckReport, programme: Programme) -> str:
    from gemel.data_adapters.meaning.mapping_suggestion import suggest

    codes = {(code.system, code.code): code for code in checked.unmapped}
    return suggest(
        {key: code.count for key, code in codes.items()},
        {(p.code, p.concept, p.unit, p.reason): p.count for p in checked.unit_examples},
        programme,
        genders=checked.unknown_genders,
        displays={key: code.display for key, code in codes.items() if code.display},
    )


def _write_inside(path: Path, content: str) -> None:
    """Write a file that only its owner may read, whole or not at all. Raises GEM234."""
    from gemel.data_adapters.sources.fetched import write_private

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, content.encode("utf-8"))
    except OSError as error:
        raise GemelError("GEM234", f"{path} cannot be written: {error.strerror}.") from error


@app.command()
def view(
    views: Annotated[
        list[Path],
        typer.Argument(
            metavar="VIEW.json... EXPORT", help="View definitions, then the export.", show_default=False
        ),
    ],
    *,
    out: Out,
    engine: Annotated[
        Literal["duckdb", "spark"], typer.Option(help="Spark needs PySpark and a Java runtime.")
    ] = "duckdb",
    workers: Workers = 1,
    output: FormatOption = Format.TABLE,
) -> None:
    """Read an export through SQL-on-FHIR views.

    Writes one Parquet file per view (with Spark: a folder of them), named after the view.
    """
    with failures(output):
        if len(views) < 2:
            raise GemelError("GEM209", "Name at least one view definition and then the export.")
        from gemel.cli.data_render import counts_text, render_views
        from gemel.data_adapters.reading.intake import Intake
        from gemel.data_adapters.views.run import write_views

        definitions, export = _load_views(views[:-1]), views[-1]
        intake = Intake()
        made_here = not out.exists()
        _make_folder(out, mode=0o777)
        try:
            paths = write_views(definitions, export, out, workers=workers, engine=engine, intake=intake)
        except GemelError:
            if made_here:
                with suppress(OSError):
                    out.rmdir()
            raise
        written = [{"view": path.stem, "file": str(path), "rows": _count_rows(path)} for path in paths]
        lines = {name: sum(getattr(file, name) for file in intake.files) for name in COUNTS}
        if lines["rejected"]:
            left_out = counts_text(dict(sorted(intake.by_code.items())))
            say(f"{lines['rejected']} of {lines['read']} lines were left out ({left_out}).")
            say("  `gemel data check` names them.")
        if intake.unread:
            say(f"Not read: {'; '.join(intake.unread[:SHOWN_UNREAD])}.")
        emit(
            {"files": written, **lines, "unread": intake.unread},
            output,
            render=lambda console: render_views(console, written),
        )


def _load_views(paths: list[Path]) -> list[ViewDefinition]:
    """The views, each compiled once, so that what is wrong is said of the file. Raises GEM209."""
    from gemel.data_adapters.views.compiler import compile_views
    from gemel.data_adapters.views.view_definition import in_file, load_view

    found: dict[str, Path] = {}
    definitions = []
    for path in paths:
        definition = load_view(path)
        with in_file(path):
            compile_views([definition])
        if definition.name in found:
            raise GemelError(
                "GEM209",
                f"{found[definition.name]} and {path} both define a view {definition.name}.",
                hint="Give each view a name of its own: its table is called so.",
            )
        found[definition.name] = path
        definitions.append(definition)
    return definitions


def _make_folder(out: Path, *, mode: int = 0o700) -> None:
    """Make a folder that (without another mode) only its owner may read. Raises GEM234."""
    _require_folder(out)
    try:
        out.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise GemelError(
            "GEM234",
            f"The folder {out} cannot be made: {error.strerror}.",
            hint="Name another folder with --out, where this user may write.",
        ) from error


def _require_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise typer.BadParameter(f"{out} is no folder", param_hint="--out")


def _count_rows(path: Path) -> int:
    """Rows of a Parquet file, or of a folder of them."""
    import pyarrow.dataset as ds

    return int(ds.dataset(path, format="parquet").count_rows())


Source = Annotated[
    str,
    typer.Argument(
        metavar="EXPORT",
        help="A FHIR export, or an OMOP CDM: a folder with its tables, or postgresql://USER@HOST/DATABASE.",
        show_default=False,
    ),
]
Further = Annotated[
    list[Path] | None,
    typer.Option(
        "--with",
        metavar="PATH",
        help="Images, wearables or genomes of the same patients: a file or a folder. May be repeated.",
    ),
]
Links = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="A CSV table that says whose each of them is. May be repeated."),
]
SubjectIsPatient = Annotated[
    bool,
    typer.Option("--subject-is-patient", help="A subject that no link table names is the id of a patient."),
]
Key = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The hospital's secret that makes pseudonyms, such as the node's keys/pseudonym.key. "
        "Without it DIR/pseudonym.key is used, and made when absent.",
    ),
]


@app.command()
def build(
    source: Source,
    *,
    programme: Annotated[str, typer.Option(metavar="P", help="Whose data set: NAME or NAME@VERSION.")],
    out: Out,
    mapping: Mapping = None,
    opt_out: OptOut = None,
    further: Further = None,
    links: Links = None,
    subject_is_patient: SubjectIsPatient = False,
    key: Key = None,
    workers: Workers = 1,
    output: FormatOption = Format.TABLE,
) -> None:
    """Build a programme's data set, and its card: who is in, who is out and why.

    Writes DIR/NAME-VERSION.safetensors and DIR/card.json. Patients without consent are removed before anything else.
    """
    with failures(output):
        import msgspec

        from gemel.cli.data_render import render_card
        from gemel.cli.pseudonym_key import KEY_NAME, make_key, read_key
        from gemel.data_adapters.dataset.build import build as build_dataset
        from gemel.data_adapters.inputs.read import FurtherInputs

        chosen, site = find_programme(programme), _load(mapping)
        _make_folder(out)
        secret = read_key(key) if key is not None else make_key(out / KEY_NAME)
        dataset, card = build_dataset(
            source if "://" in source else Path(source),
            chosen,
            pseudonym_key=secret,
            mapping=site,
            opt_out=opt_out,
            workers=workers,
            further=FurtherInputs(
                tuple(further or ()),
                tuple(links or ()),
                subject_is_patient=subject_is_patient,
                images=out / "images" if further else None,
            ),
        )
        path = out / f"{chosen.name}-{chosen.version}.safetensors"
        _write_built(
            dataset, path, msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n", out / "card.json"
        )
        result: dict[str, Any] = {
            "dataset": str(path),
            "card_file": str(out / "card.json"),
            "key_file": str(key or out / KEY_NAME),
            "snapshot": dataset.snapshot,
            "patients": len(dataset),
            "card": msgspec.to_builtins(card),
        }
        _warn_of_consents(card.consents_of_nobody)
        emit(result, output, render=lambda console: render_card(console, result))


def _warn_of_consents(number: int) -> None:
    if number:
        said = "If one of them is a denial, somebody who denied is in the data set."
        say(f"ATTENTION: {number} Consents name no patient of this export. {said}")
        say(
            "  Look each of them up: complete Consent.patient at the source, or use --opt-out; then build again."
        )


def _write_built(dataset: Dataset, path: Path, card: bytes, card_path: Path) -> None:
    """Write a data set and its card: both in full before either takes its name, the data set first.

    Should the machine stop between the two, the card's snapshot is not the data set's. Raises GEM234.
    """
    import os

    from gemel.data_adapters.sources.fetched import write_private

    new, new_card = (one.with_name(f".{one.name}.{os.getpid()}.new") for one in (path, card_path))
    try:
        dataset.save(new)
        new.chmod(0o600)
        write_private(new_card, card)
        new.replace(path)
        new_card.replace(card_path)
    except OSError as error:
        message = f"{path.parent} cannot take the data set and its card: {error.strerror}."
        raise GemelError("GEM234", message) from error
    finally:
        for one in (new, new_card):
            one.unlink(missing_ok=True)


@app.command("export")
def fetch_export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Address of a FHIR server, or a TOML file of settings (key, client id, scopes, searches).",
            show_default=False,
        ),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="A new folder for the export.")],
    types: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="TYPE", help="Only this resource type. May be repeated."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="Only what changed since an instant, or since an earlier export (its folder).",
        ),
    ] = None,
    group: Annotated[str | None, typer.Option(metavar="ID", help="Only the patients of this Group.")] = None,
    searches: Annotated[
        list[str] | None,
        typer.Option(
            "--search",
            metavar="QUERY",
            help="Search instead of $export: Type or Type?query. May be repeated.",
        ),
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Fetch an export from a FHIR server: Bulk Data $export, or searches.

    What was broken off goes on when the same is fetched into the same folder.
    """
    with failures(output):
        from gemel.cli.data_render import render_fetched
        from gemel.data_adapters.sources.fetch import fetch

        settings = _settings(source, types=types, since=since, group=group, searches=searches)
        fetched = fetch(settings, out, say=say)
        result = {
            "folder": str(fetched.folder),
            "transaction_time": fetched.transaction_time,
            "lines": dict(fetched.lines),
            "deleted_files": fetched.deleted_files,
            "problems": dict(fetched.problems),
            "notes": list(fetched.notes),
        }
        emit(result, output, render=lambda console: render_fetched(console, result))


def _settings(
    source: str,
    *,
    types: list[str] | None,
    since: str | None,
    group: str | None,
    searches: list[str] | None,
) -> SourceSettings:
    """The settings of a file or of an address, with what the options say instead. Raises GEM228."""
    import msgspec

    from gemel.data_adapters.sources.fetched import last_transaction_time
    from gemel.data_adapters.sources.settings import SourceSettings, load_source

    is_address = source.startswith(("https://", "http://"))
    settings = SourceSettings(base_url=source.rstrip("/")) if is_address else load_source(Path(source))
    changes: dict[str, Any] = {}
    if types:
        changes["types"] = tuple(types)
    if since is not None:
        changes["since"] = last_transaction_time(Path(since)) if Path(since).is_dir() else since
    if group is not None:
        changes |= {"level": "Group", "group": group}
    if searches:
        changes |= {"way": "search", "searches": tuple(searches)}
    return msgspec.structs.replace(settings, **changes)
