"""`gemel ledger`: what was spent, on what, whether the record of it still holds, and what is given back."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gemel.cli.ledger_plan import plan
from gemel.cli.output import Format, FormatOption, emit, failures, say, table
from gemel.cli.verify import AnchorOption, read_document
from gemel.core.errors import GemelError

if TYPE_CHECKING:
    from rich.console import Console

    from gemel.client_node.home import NodeHome
    from gemel.core.mechanism import Mechanism
    from gemel.core.signing import SignedDocument
    from gemel.privacy.ledger import LedgerEntry

app = typer.Typer(help="The privacy ledger of a hospital.", no_args_is_help=True)
app.command("plan", no_args_is_help=True)(plan)

Source = Annotated[
    Path,
    typer.Argument(
        metavar="HOME_OR_LEDGER", help="A node's home, or an exported ledger.", show_default=False
    ),
]
Home = Annotated[Path, typer.Argument(metavar="HOME", help="A node's home.", show_default=False)]


@dataclass(frozen=True)
class Inside:
    """What only the hospital's own file says, and no export: it depends on who is in which cohort."""

    persons: int
    epsilon_of_worst_person: float


def load(path: Path) -> tuple[SignedDocument, tuple[LedgerEntry, ...], Inside | None]:
    """The ledger of a node's home, or an exported one, verified to the last entry; the third is None for an export.

    Raises:
        GemelError: GEM106 neither of the two, GEM407 a home that cannot be used, GEM102, GEM105, GEM302, GEM309 or
            GEM310 a ledger that was changed, rolled back, or written while the clock moved back.
    """
    from gemel.privacy.ledger import verify_ledger_document

    home = next((folder for folder in (path, path.parent) if (folder / "node.json").is_file()), None)
    # An export may lie in a home, too: a file is the node's own ledger only if it is the database itself.
    own = home is not None and (path.is_dir() or path.suffix == ".sqlite")
    document, inside = _export(home) if home is not None and own else (_read(path), None)
    return document, verify_ledger_document(document), inside


def _export(folder: Path) -> tuple[SignedDocument, Inside]:
    home = open_home(folder)
    try:
        with home.open_ledger() as ledger:
            ledger.verify()
            return ledger.export(), Inside(ledger.persons(), ledger.epsilon_of_worst_person())
    except sqlite3.OperationalError as error:
        raise GemelError("GEM407", f"The ledger of {folder} cannot be opened: {error}.") from error


def open_home(folder: Path) -> NodeHome:
    """A node's home that holds a ledger. Raises GEM407."""
    from gemel.client_node.home import NodeHome

    home = NodeHome.open(folder)
    # Opening would make an empty ledger where there is none, and a lost one would look like nothing spent.
    if not (folder / "ledger.sqlite").is_file():
        raise GemelError("GEM407", f"{folder} holds no ledger: the node has never run, or lost it.")
    return home


def _read(path: Path) -> SignedDocument:
    document = read_document(path)
    if document.kind != "ledger":
        raise GemelError("GEM106", f"{path} holds a {document.kind}, not a ledger.")
    return document


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
    """Show every charge, what is spent and what remains.

    From a node's home also what the patient who has spent most has spent. That number stays in the hospital.
    """
    with failures(output):
        document, entries, inside = load(source)
        summary: dict[str, Any] = dict(document.payload)
        if inside is not None:
            summary["inside"] = {
                "persons": inside.persons,
                "epsilon_of_worst_person": inside.epsilon_of_worst_person,
                "epsilon_remaining": max(0.0, summary["epsilon_cap"] - inside.epsilon_of_worst_person),
            }
        if export is not None:
            write_document(export, document)
        emit(summary, output, render=lambda console: _render(console, summary, entries))


def _render(console: Console, summary: dict[str, Any], entries: tuple[LedgerEntry, ...]) -> None:
    made = table(">#", "When (UTC)", "Entry", "Study", "Task", "What it costs", ">epsilon after")
    for entry in entries:
        made.add_row(
            str(entry.seq),
            entry.written_at.removesuffix("+00:00").replace("T", " "),
            entry.kind,
            entry.study_sha256[:8],
            entry.task or ", ".join(entry.tasks),
            "\n".join(f"{c.task} ({c.share}): {_costs(c.mechanisms)}" for c in entry.charges),
            f"{entry.epsilon_after:.6f}",
        )
    console.print(made)
    console.print(
        f"{summary['site']}: epsilon {summary['epsilon_spent']} at delta {summary['delta']} would have been spent by "
        f"a patient in everything that is reserved; the cap of each patient is {summary['epsilon_cap']}.",
        markup=False,
    )
    if (inside := summary.get("inside")) is not None:
        console.print(
            f"Only for the hospital: of {inside['persons']} patients in any study, the one who has spent most has "
            f"spent epsilon {inside['epsilon_of_worst_person']}; {inside['epsilon_remaining']:.6f} remain.",
            markup=False,
        )


def _costs(mechanisms: tuple[Mechanism, ...]) -> str:
    return ", ".join(f"{m.count} x {m.kind} z={m.noise_multiplier:.4g}" for m in mechanisms)


def write_document(path: Path, document: SignedDocument) -> None:
    """Write a signed document for others. Raises GEM106."""
    try:
        path.write_bytes(document.to_bytes())
    except OSError as error:
        raise GemelError(
            "GEM106", f"{path} cannot be written: {error.strerror}.", hint="Choose another file."
        ) from error
    say(f"Wrote {path}; anybody can check it with: gemel verify {path}")


@app.command()
def verify(source: Source, *, anchor: AnchorOption = None, output: FormatOption = Format.TABLE) -> None:
    """Verify signatures, chain, clock and sums of a ledger, and in a node's home the people behind it.

    With --anchor a ledger that was rolled back to an older copy is found too.
    Exit code 3 says that it was changed.
    """
    from gemel.core.signing import fingerprint
    from gemel.privacy.ledger import require_anchored

    with failures(output):
        document, entries, _ = load(source)
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
        if anchor is not None:
            result["anchored_entry"] = require_anchored(entries, read_document(anchor))

        def render(console: Console) -> None:
            made = table("", "")
            for name, value in result.items():
                made.add_row(name, "yes" if value is True else str(value))
            console.print(made)

        emit(result, output, render=render)


@app.command()
def expire(
    home: Home,
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="The study's hash, or how it begins.", show_default=False)
    ],
    *,
    steward: Annotated[str, typer.Option(metavar="NAME", help="Who decides: a steward of the hospital.")],
    key: Annotated[Path, typer.Option(metavar="FILE", help="The steward's signing key.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is in every export of the ledger.")],
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK", help="A task to give back; all that never began, unless told."),
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Give back what a study reserved and never began.

    What began is never given back. The steward's signed decision becomes part of the chain.
    """
    from gemel.core.signing import SigningKey
    from gemel.privacy.ledger import decide_expiry

    with failures(output):
        node = open_home(home)
        with node.open_ledger() as ledger:
            reserved = _one_reservation(ledger.entries(), study)
            decision = decide_expiry(
                site=node.config.site,
                reservation=reserved.sha256,
                tasks=tuple(task or ledger.unused(reserved.study_sha256)),
                reason=reason,
                steward=steward,
                key=SigningKey.load(key),
            )
            entry = ledger.expire(decision, stewards=node.config.stewards)
        result = {"ok": True, "study": entry.study_sha256, "tasks": list(entry.tasks), "entry": entry.seq,
                  "epsilon_spent": entry.epsilon_after}  # fmt: skip

        def render(console: Console) -> None:
            console.print(
                f"Given back: {', '.join(entry.tasks)}. Reserved now: epsilon {entry.epsilon_after}.",
                markup=False,
            )

        emit(result, output, render=render)


@app.command()
def evidence(
    home: Home,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where the two files go.")],
    output: FormatOption = Format.TABLE,
) -> None:
    """Write what was released to whom, in words, for a data-protection officer.

    As a page to read or print (evidence.html), and as a document that the node signed (evidence.json).
    """
    from gemel.cli.evidence_page import page
    from gemel.client_node.evidence import evidence as gather

    with failures(output):
        node = open_home(home)
        with node.open_ledger() as ledger:
            document = gather(node, ledger)
        files = {"evidence.json": document.to_bytes(), "evidence.html": page(document).encode()}
        try:
            out.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                (out / name).write_bytes(content)
        except OSError as error:
            raise GemelError(
                "GEM106", f"{out} cannot be written: {error.strerror}.", hint="Choose another folder."
            ) from error
        written = [str(out / name) for name in files]
        result = {"ok": True, "files": written, "sha256": document.payload_sha256}
        emit(result, output, render=lambda console: console.print("\n".join(written), markup=False))


def _one_reservation(entries: tuple[LedgerEntry, ...], study: str) -> LedgerEntry:
    found = [e for e in entries if e.charges and study and e.study_sha256.startswith(study.lower())]
    if len(found) != 1:
        raise GemelError("GEM308", f"{len(found)} reservations are of a study {study}.")
    return found[0]
