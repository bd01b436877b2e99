"""`gemel federation backup` and `restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gemel.cli.node_backup import BackupFile, PassphraseFile
from gemel.cli.output import Format, FormatOption, emit, failures, say

Database = Annotated[
    str,
    typer.Option(
        metavar="URL",
        help="PostgreSQL's URL, postgresql+psycopg://USER@HOST/NAME, without a password; SQLite in the home when not given.",
    ),
]
DatabaseFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Instead of --database: a file (chmod 600) with the URL, password and all."
    ),
]


def database_url(given: str, file: Path | None) -> str:
    """The store's URL from either option. Raises GEM524 for a password among the arguments, or a file that others can read."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    from gemel.core.errors import GemelError

    if file is not None:
        if file.stat().st_mode & 0o077:
            raise GemelError("GEM524", f"{file} can be read by others: chmod 600.")
        given = file.read_text().strip()
    try:
        password = make_url(given).password if given else None
    except ArgumentError as error:
        raise GemelError("GEM524", "The database's URL is none.") from error
    if file is None and password:
        raise GemelError(
            "GEM524",
            "A password among the arguments can be read by other users: use --database-file, or ~/.pgpass.",
        )
    return given


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
    database: Database = "",
    database_file: DatabaseFile = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Make a coordinator's home from a backup, in a new folder; nothing runs yet.

    A store that was in PostgreSQL goes into the empty database that --database or --database-file names.
    """
    with failures(output):
        from gemel.privacy.sealed_files import read_passphrase
        from gemel.server import backup as backups

        url = database_url(database, database_file)
        manifest = backups.restore(source, home, read_passphrase(passphrase_file), database=url)
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
