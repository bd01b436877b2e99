"""`gemel ledger`: what was spent, on what, and whether the record of it still holds."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemel.cli.output import Format, FormatOption, emit, failures, say, table
from gemel.cli.verify import read_document
from gemel.core.errors import GemelError

if TYPE_CHECKING:
    from rich.console import Console

    from gemel.core.signing import SignedDocument
    from gemel.privacy.ledger_chain import LedgerEntry

app = typer.Typer(help="The privacy ledger of a hospital.", no_args_is_help=True)

Source = Annotated[
    Path,
    typer.Argument(
        metavar="HOME_OR_LEDGER", help="A node's home, or an exported ledger.", show_default=False
    ),
]


def load(path: Path) -> tuple[SignedDocument, tuple[LedgerEntry, ...]]:
    """The ledger of a node's home, or an exported one, verified to the last entry.

    Raises:
        GemelError: GEM106 neither of the two, GEM407 a home that cannot be used, GEM102, GEM105 or GEM302
            a ledger that was changed.
    """
    from gemel.privacy.ledger_chain import verify_ledger_document

    home = next((folder for folder in (path, path.parent) if (folder / "node.json").is_file()), None)
    # An export may lie in a home, too: a file is the node's own ledger only if it is the database itself.
    own = home is not None and (path.is_dir() or path.suffix == ".sqlite")
    document = _export(home) if home is not None and own else _read(path)
    return document, verify_ledger_document(document)


def _export(folder: Path) -> SignedDocument:
    from gemel.client_node.home import NodeHome

    home = NodeHome.open(folder)
    # Opening would make an empty ledger where there is none, and a lost one would look like nothing spent.
    if not (folder / "ledger.sqlite").is_file():
        raise GemelError("GEM407", f"{folder} holds no ledger: the node has never run, or lost it.")
    try:
        with home.open_ledger() as ledger:
            return ledger.export()
    except sqlite3.OperationalError as error:
        raise GemelError("GEM407", f"The ledger of {folder} cannot be opened: {error}.") from error


def _read(path: Path) -> SignedDocument:
    document = read_document(path)
    if document.kind != "ledger":
        raise GemelError("GEM106", f"{path} holds a {document.kind}, not a ledger.")
    return document


def _summary(document: SignedDocument) -> dict[str, Any]:
    payload = document.payload
    remaining = max(0.0, payload["epsilon_cap"] - payload["epsilon_spent"])
    return {**payload, "epsilon_remaining": remaining}


@app.command()
def show(
    source: Source,
    *,
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write it as a signed document for others to verify."),
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show every charge, what is spent and what remains."""
    with failures(output):
        document, entries = load(source)
        summary = _summary(document)
        if export is not None:
            _write(export, document)

        def render(console: Console) -> None:
            made = table(">#", "When (UTC)", "Entry", "Study", "Task", "Releases", ">epsilon after")
            for entry in entries:
                made.add_row(
                    str(entry.seq),
                    entry.written_at.removesuffix("+00:00").replace("T", " "),
                    entry.kind,
                    entry.study_sha256[:8],
                    entry.task,
                    ", ".join(f"{m.count} x {m.kind} z={m.noise_multiplier:.4g}" for m in entry.mechanisms),
                    f"{entry.epsilon_after:.6f}",
                )
            console.print(made)
            console.print(
                f"{summary['site']}: epsilon {summary['epsilon_spent']} of {summary['epsilon_cap']} spent, "
                f"{summary['epsilon_remaining']:.6f} remaining, at delta {summary['delta']}, "
                "for each patient of the hospital.",
                markup=False,
            )

        emit(summary, output, render=render)


def _write(path: Path, document: SignedDocument) -> None:
    try:
        path.write_bytes(document.to_bytes())
    except OSError as error:
        raise GemelError(
            "GEM106", f"{path} cannot be written: {error.strerror}.", hint="Choose another file."
        ) from error
    say(f"Wrote {path}; anybody can check it with: gemel verify {path}")


@app.command()
def verify(source: Source, *, output: FormatOption = Format.TABLE) -> None:
    """Verify signatures, chain and sums of a ledger.

    Exit code 3 says that it was changed.
    """
    from gemel.core.signing import fingerprint

    with failures(output):
        document, entries = load(source)
        payload = document.payload
        result = {
            "ok": True,
            "site": payload["site"],
            "public_key": payload["public_key"],
            "fingerprint": fingerprint(payload["public_key"]),
            "entries": len(entries),
            "head": payload["head"],
            "epsilon_spent": payload["epsilon_spent"],
            "epsilon_cap": payload["epsilon_cap"],
            "delta": payload["delta"],
        }

        def render(console: Console) -> None:
            made = table("", "")
            for name, value in result.items():
                made.add_row(name, "yes" if value is True else str(value))
            console.print(made)

        emit(result, output, render=render)
