"""SQLite's write-ahead log, turned on in a file that others may be opening at the same moment."""

from __future__ import annotations

import sqlite3
import time


def write_ahead(database: sqlite3.Connection, *, timeout_s: float) -> None:
    """Turn the journal to WAL, which lasts with the file.

    When two turn one file at once SQLite gives up without waiting, whatever its timeout: so wait here.

    Raises:
        sqlite3.OperationalError: SQLITE_BUSY after `timeout_s`; anything else at once.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
