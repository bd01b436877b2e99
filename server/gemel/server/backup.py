"""A coordinator's home in one sealed file: keys, certificates, store, SuperLink and runs; and back.

What is left out can be made again: logs, nginx's folder, launchers. A store in PostgreSQL goes in as `pg_dump` writes it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from sqlalchemy.engine import URL, make_url

from gemel.core.errors import GemelError
from gemel.core.files import write_durably
from gemel.core.signing import SignedDocument
from gemel.privacy.backup_archive import Archive, Manifest, extract, write
from gemel.server import federation_config, nginx
from gemel.server.home import CoordinatorHome
from gemel.server.store import URL_FILE, open_store, store_url

WHAT = "coordinator"
_DUMP = "store.dump"
_LEFT_OUT = ("logs", "nginx", "bin", "flower")


def backup(folder: Path, output: Path, passphrase: bytes) -> SignedDocument:
    """Write a backup while the coordinator runs or not; returns its signed manifest. Raises GEM524, GEM528."""
    config = federation_config.load(folder)
    home = CoordinatorHome(folder)
    url = make_url(store_url(folder))

    def put(archive: Archive) -> None:
        archive.add_home(folder, leave_out=_LEFT_OUT)
        if url.get_backend_name() == "postgresql":
            dump = folder / f".{_DUMP}.{os.getpid()}"
            try:
                _run(url, "pg_dump", "--format=custom", "--no-owner", f"--file={dump}")
                archive.add(_DUMP, dump)
            finally:
                dump.unlink(missing_ok=True)

    return write(output, passphrase, home.key, what=WHAT, of=config.name, fill=[put])


def restore(source: Path, folder: Path, passphrase: bytes, *, database: str = "") -> Manifest:
    """Make a home from a backup; nothing runs yet.

    Args:
        source: The backup.
        folder: Must not exist.
        passphrase: Under which it was sealed.
        database: URL of an empty PostgreSQL database, where the store was one.

    Raises:
        GemelError: GEM528; then there is no home.
    """
    manifest, document = extract(source, passphrase, folder, what=WHAT)
    try:
        config = federation_config.load(folder)
        if CoordinatorHome(folder).key.public_hex != document.signatures[0].public_key:
            raise GemelError("GEM528", "The backup is signed by another key than the one that it holds.")
        if (folder / _DUMP).exists():
            _restore_store(folder, database)
        elif database:
            raise GemelError("GEM528", "The backup's store is SQLite; no database is named for it.")
        open_store(store_url(folder)).dispose()
        nginx.write_configuration(folder, config)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return manifest


def _restore_store(folder: Path, database: str) -> None:
    if not database or make_url(database).get_backend_name() != "postgresql":
        raise GemelError("GEM528", "The backup's store was in PostgreSQL: name an empty database for it.")
    dump = folder / _DUMP
    _run(make_url(database), "pg_restore", "--exit-on-error", "--single-transaction", "--no-owner", str(dump))
    write_durably(folder / "keys" / URL_FILE, database.encode() + b"\n", mode=0o600)
    dump.unlink()


def _run(url: URL, program: str, *arguments: str) -> None:
    """One of PostgreSQL's programs; where to connect goes by the environment, for arguments can be read by others."""
    found = shutil.which(program)
    if found is None:
        raise GemelError("GEM528", f"{program} is not installed: apt install postgresql-client.")
    parts = {
        "PGHOST": url.host or url.query.get("host"),
        "PGPORT": url.port,
        "PGUSER": url.username,
        "PGPASSWORD": url.password,
        "PGDATABASE": url.database,
    }
    environment = {**os.environ, **{name: str(value) for name, value in parts.items() if value}}
    if program == "pg_restore":
        arguments = (f"--dbname={url.database}", *arguments)
    done = subprocess.run([found, *arguments], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise GemelError("GEM528", f"{program} failed: {done.stderr.strip()[-300:]}")
