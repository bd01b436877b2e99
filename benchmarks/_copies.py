"""A large export made of a small one: the same records again and again, each time of new people."""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from pathlib import Path

SITE_A = Path(__file__).resolve().parents[2] / "shared" / "data" / "fhir" / "site_a_smart_r4_2019"
_IDENTITY = re.compile(rb'("id":"|"reference":"[A-Za-z]+/)')


def write_copies(folder: Path, types: Sequence[str], *, megabytes: float) -> float:
    """Write `TYPE.COPY.ndjson` files of about that many megabytes in all; gives the megabytes written.

    In each copy every id and every reference has the copy's number before it, so no record is another's version.
    """
    contents = {name: gzip.decompress((SITE_A / f"{name}.ndjson.gz").read_bytes()) for name in types}
    written, copy = 0, 0
    while written < megabytes * 1e6:
        for name, content in contents.items():
            made = _IDENTITY.sub(rb"\g<1>c%d-" % copy, content)
            (folder / f"{name}.{copy:04}.ndjson").write_bytes(made)
            written += len(made)
        copy += 1
    return written / 1e6
