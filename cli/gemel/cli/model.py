"""`gemel model`: the registry's twins, from a coordinator's home or over its service."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from gemel.cli.output import Format, FormatOption, emit, failures, say, table
from gemel.core.errors import GemelError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(help="Global twins: what they are, how good, where they come from.", no_args_is_help=True)

Name = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A twin's hash, its first 8 digits, or its study's id.", show_default=False
    ),
]
Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        metavar="HOME",
        help="The coordinator's home on this machine. Without it: the service of `gemel study login`.",
    ),
]
ONNX = "model.onnx"


class Source(Protocol):
    """Where models come from."""

    def list(self) -> Sequence[Mapping[str, Any]]:
        """Every model's record."""

    def show(self, name: str) -> Mapping[str, Any]:
        """One model."""

    def file(self, name: str, file: str) -> bytes:
        """One of its files."""


class _Home:
    """The registry in a coordinator's home."""

    def __init__(self, folder: Path) -> None:
        from gemel.server.home import CoordinatorHome

        if not (folder / "keys" / "coordinator.key").exists():
            raise GemelError("GEM524", f"{folder} is not a coordinator's home.")
        self._home = CoordinatorHome(folder)

    def list(self) -> Sequence[Mapping[str, Any]]:
        from gemel.server.registry.views import list_models

        return list_models(self._home)

    def show(self, name: str) -> Mapping[str, Any]:
        from gemel.server.registry.views import show_model

        return show_model(self._home, name)

    def file(self, name: str, file: str) -> bytes:
        from gemel.server.registry.views import model_file

        return model_file(self._home, name, file)[0]


def source_of(home: Path | None) -> Source:
    """The registry of a home, or that of the service that this person logged in to."""
    if home is not None:
        return _Home(home)
    from gemel.cli.model_service import ServiceModels

    return ServiceModels()


@app.command("list")
def list_(*, home: Home = None, output: FormatOption = Format.TABLE) -> None:
    """List the twins: the last of each run, and the checkpoints on the way."""
    with failures(output):
        models = list(source_of(home).list())
        emit({"models": models}, output, render=lambda console: _render_list(console, models))


@app.command()
def show(name: Name, *, home: Home = None, output: FormatOption = Format.TABLE) -> None:
    """Show one twin: its scores, its limits, what it cost, and its files."""
    with failures(output):
        model = dict(source_of(home).show(name))
        emit(model, output, render=lambda console: _render(console, model))


@app.command()
def card(name: Name, *, home: Home = None, output: FormatOption = Format.TABLE) -> None:
    """Print a twin's model card: Markdown, or JSON."""
    with failures(output):
        source = source_of(home)
        told = json.loads(source.file(name, "card.json"))
        page = "" if output is Format.JSON else source.file(name, "card.md").decode()
        emit(told, output, render=lambda console: console.print(page, markup=False))


@app.command()
def pull(
    name: Name,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the files.")],
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Also the ONNX form; made now when it is not there yet.")
    ] = False,
    home: Home = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Fetch a twin with its card, study and certificate; every file is checked against the signed record."""
    with failures(output):
        source = source_of(home)
        if onnx:
            say("Making or fetching the ONNX form …")
            source.file(name, ONNX)
        written = fetch(source, name, out)
        result = {"files": [str(path) for path in written]}
        emit(result, output, render=lambda console: console.print("\n".join(result["files"]), markup=False))
        say(f"Check the signature: gemel verify {out / 'model.json'}")


@app.command()
def track(
    name: Name,
    *,
    url: Annotated[str, typer.Option(help="The MLflow server: https://…, or http on this machine.")],
    home: Annotated[
        Path, typer.Option("--home", metavar="HOME", help="The coordinator's home.", show_default=False)
    ],
    token_file: Annotated[
        Path | None, typer.Option("--token-file", metavar="FILE", help="A file with MLflow's token.")
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Publish a twin to an MLflow tracking server: settings, scores, files, and a version of the programme's model.

    The registry's signed record stays the truth; its hash is on the copy.
    """
    with failures(output):
        from gemel.server.home import CoordinatorHome
        from gemel.server.registry.mlflow_tracking import TrackingServer
        from gemel.server.registry.registering import catch_up, open_models

        opened = CoordinatorHome(home)
        models = open_models(opened)
        catch_up(opened, models)
        token = "" if token_file is None else token_file.read_text().strip()
        with TrackingServer(url, token=token) as server:
            run = server.publish(models, models.find(name))
        result = {"mlflow_run": run, "url": url}
        emit(result, output, render=lambda console: console.print(f"MLflow run {run}", markup=False))


def fetch(source: Source, name: str, out: Path) -> list[Path]:
    """Write a twin's files and its signed record into a folder.

    Raises GEM532 when a file differs from the record, GEM102 or GEM103 when the record does not hold.
    """
    from gemel.core.canonical import sha256_hex
    from gemel.core.signing import read_signed

    record = source.file(name, "model.json")
    payload = read_signed(record, kind="model").payload
    contents = {"model.json": record}
    for file, listed in payload["files"].items():
        # The name comes from outside, and becomes a path.
        if file in contents or Path(file).name != file or file.startswith("."):
            raise GemelError("GEM532", f"The record names a file {file!r}.")
        contents[file] = source.file(str(payload["model_sha256"]), file)
        if sha256_hex(contents[file]) != listed["sha256"]:
            raise GemelError("GEM532", f"{file} differs from the signed record.")
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for file, content in contents.items():
        written.append(out / file)
        written[-1].write_bytes(content)
    return written


def _render_list(console: Console, models: Sequence[Mapping[str, Any]]) -> None:
    rows = table("model", "study", "programme", ">version", "state", "registered")
    for model in models:
        rows.add_row(
            model["model_sha256"][:12],
            model["study_id"],
            model["programme"],
            str(model["version"]),
            model["state"],
            model["registered_at"],
        )
    console.print(rows)


def _render(console: Console, model: Mapping[str, Any]) -> None:
    console.print(f"{model['model_sha256']}  ({model['state']}, version {model['version']})")
    console.print(f"study {model['study_id']} {model['study_sha256'][:12]}, programme {model['programme']}")
    if model["scores"]:
        scores = table("endpoint", "score", ">value", ">± error")
        for outcome, of in model["scores"].items():
            for score, told in of.items():
                scores.add_row(outcome, score, f"{told['value']:.3f}", f"{told['standard_error']:.3f}")
        console.print(scores)
    files = table("file", ">bytes", "sha-256")
    for file, listed in model["files"].items():
        files.add_row(file, f"{listed['bytes']:,}", listed["sha256"][:16])
    console.print(files)
    console.print(f"ONNX: {model['onnx']}", markup=False)
    for limit in model["limits"]:
        console.print(f"- {limit}", markup=False)
