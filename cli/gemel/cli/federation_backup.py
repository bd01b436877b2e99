"""`gemel federation backup` and `restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gemel.cli.node_backup import BackupFile, PassphraseFile
from gemel.cli.output import Format, FormatOption, emit, failures, say


def backup(
    home: Annotated[Path, typer.Argument(metavar="HOME", help="The coordinator's home.", show_default=False)],
    *,
    out: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The file to make.", show_default=False)
    ],
    passphrase_file: PassphraseFile,
    output: FormatOption = Format.TABLE,
) -> None:
    """Back a coordinator up into one sealed file, while it runs: keys, certificates, store, SuperLink, runs."""
    with failures(output):
        from gemel.privacy.sealed_files import read_passphrase
        from gemel.server import backup as backups

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
    database: Annotated[
        str, typer.Option(metavar="URL", help="An empty PostgreSQL database, where the store was one.")
    ] = "",
    output: FormatOption = Format.TABLE,
) -> None:
    """Make a coordinator's home from a backup, in a new folder; nothing runs yet."""
    with failures(output):
        from gemel.privacy.sealed_files import read_passphrase
        from gemel.server import backup as backups

        manifest = backups.restore(source, home, read_passphrase(passphrase_file), database=database)
        result = {"federation": manifest.of, "home": str(home), "made_at": manifest.made_at}
    emit(
        result,
        output,
        render=lambda console: console.print(f"{manifest.of}, as of {manifest.made_at}, in {home}"),
    )
    say(
        "Before it starts: compare `gemel federation list` with your records. A hospital that was revoked since this "
        "backup is a member again; revoke it again."
    )
