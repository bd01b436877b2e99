"""The coordinator's store: members, users, studies, models, audit; SQLite, or PostgreSQL by URL.

Each module that keeps rows declares its own tables on `metadata`; `open_store` makes what is missing.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, MetaData, create_engine, event
from sqlalchemy.engine import make_url

from gemel.core.errors import GemelError
from gemel.core.write_ahead import write_ahead

metadata = MetaData()
FILE = "coordinator.sqlite"
URL_FILE = "database.url"
_BUSY_TIMEOUT_S = 10


def store_url(folder: Path) -> str:
    """The store of a coordinator's home: what its `keys/database.url` names (it may hold a password), else SQLite in it."""
    named = folder / "keys" / URL_FILE
    return named.read_text().strip() if named.exists() else f"sqlite:///{folder.absolute() / FILE}"


def open_store(url: str) -> Engine:
    """Connect and make the tables that are missing. Raises GEM520 when the store cannot be reached or is of no kind we know.

    SQLite: write-ahead log, every commit on disk (`synchronous=FULL`), foreign keys checked, readable by its owner only.
    """
    kind = make_url(url).get_backend_name()
    if kind not in ("sqlite", "postgresql"):
        raise GemelError("GEM520", f"A store is SQLite or PostgreSQL, not {kind}.")
    if kind == "sqlite" and (database := make_url(url).database):
        os.close(os.open(database, os.O_CREAT | os.O_RDWR, 0o600))
    address = make_url(url)
    if kind == "postgresql":
        address = _through_psycopg(url)
    engine = create_engine(address, pool_pre_ping=kind == "postgresql")
    if kind == "sqlite":
        event.listen(engine, "connect", _careful)
    try:
        metadata.create_all(engine)
    except Exception as error:  # of whatever driver
        raise GemelError("GEM520", f"The store does not open: {type(error).__name__}.") from error
    return engine


def _through_psycopg(url: str) -> URL:
    """The same store by the driver that Gemel is installed with, whichever the URL leaves open or names."""
    try:
        importlib.import_module("psycopg")
    except ImportError as error:
        raise GemelError("GEM520", "A store in PostgreSQL needs the package psycopg.") from error
    return make_url(url).set(drivername="postgresql+psycopg")


def _careful(connection: Any, _record: Any) -> None:
    write_ahead(connection, timeout_s=_BUSY_TIMEOUT_S)
    for pragma in ("synchronous=FULL", "foreign_keys=ON", f"busy_timeout={1000 * _BUSY_TIMEOUT_S}"):
        connection.execute(f"PRAGMA {pragma}")
