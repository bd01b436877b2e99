"""A structured log for machines to follow: one JSON object a line, of codes, hashes and times; never a patient's value.

What an exception says may hold values: it goes into `node.log`, for the owner of the home alone, and never in here.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import os

from gemel.client_node.home import NodeHome

NAME = "events.jsonl"
_MOST_BYTES = 10 << 20


def write(home: NodeHome, event: str, *, level: int = logging.INFO, **facts: str | int | float) -> None:
    """Append a line; nothing when the level is below the home's, or when it cannot be written.

    This log is a convenience: what must not be lost is in the audit log and in the ledger.
    """
    if level < logging.getLevelNamesMapping()[home.config.log_level]:
        return
    told = {
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
        "level": logging.getLevelName(level),
        "event": event,
        "site": home.config.site,
        **facts,
    }
    path = home.folder / NAME
    with contextlib.suppress(OSError):
        if path.exists() and path.stat().st_size > _MOST_BYTES:
            path.replace(path.with_name(f"{NAME}.1"))
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, json.dumps(told, ensure_ascii=False).encode() + b"\n")
        finally:
            os.close(descriptor)
