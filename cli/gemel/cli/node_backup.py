"""`gemel node backup` and `restore`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gemel.cli.output import Format, FormatOption, emit, failures, say, table

if TYPE_CHECKING:
    from rich.console import Console

PassphraseFile = Annotated[
    Path,
    typer.Option(
        metavar="FILE",
        help="A file (chmod 600) with the passphrase that seals the backup; keep both apart.",
        show_default=False,
    ),
]
BackupFile = Annotated[Path, typer.Argument(metavar="BACKUP", help="The backup.", show_default=False)]


def backup(
    home: Annotated[Path, typer.Argument(metavar="HOME", help="The node's home.", show_default=False)],
    *,
    out: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The file to make.", show_default=False)
    ],
    passphrase_file: PassphraseFile,
    output: FormatOption = Format.TABLE,
) -> None:
    """Back a node up into one sealed file, while it runs: keys, ledger, approvals, outbox; never masking/ or data/."""
    with failures(output):
        from gemel.client_node import backup as backups
        from gemel.privacy.sealed_files import read_passphrase

        document = backups.backup(home, out, read_passphrase(passphrase_file))
        result = {
            "file": str(out),
            "files": len(document.payload["files"]),
            "made_at": document.payload["made_at"],
        }
    emit(result, output, render=lambda console: console.print(f"{result['files']} files in {out}"))


def restore(
    source: BackupFile,
    home: Annotated[Path, typer.Argument(metavar="HOME", help="The folder to make.", show_default=False)],
    *,
    passphrase_file: PassphraseFile,
    anchor: Annotated[
        Path | None,
        typer.Option(metavar="CERTIFICATE", help="The newest run certificate: the ledger must not be older."),
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Make a node's home from a backup, in a new folder; its ledger is checked, with --anchor against what others saw."""
    with failures(output):
        from gemel.cli.verify import read_document
        from gemel.client_node import backup as backups
        from gemel.privacy.sealed_files import read_passphrase

        seen = read_document(anchor) if anchor is not None else None
        manifest, entries = backups.restore(source, home, read_passphrase(passphrase_file), anchor=seen)
        result = {
            "site": manifest.of,
            "home": str(home),
            "made_at": manifest.made_at,
            "ledger_entries": entries,
            "anchored": anchor is not None,
        }

    def render(console: Console) -> None:
        made = table("", "")
        for name, value in result.items():
            made.add_row(name.replace("_", " "), str(value))
        console.print(made)

    emit(result, output, render=render)
    if anchor is None:
        say(
            "The ledger holds by itself; whether it is the newest, only a certificate says: "
            "gemel ledger verify HOME --anchor CERTIFICATE. Spent since this backup, it has forgotten."
        )
