"""Times as recordings write them: the wall clock where they were taken, whatever its offset."""

from __future__ import annotations

import re
from datetime import datetime

_FORM = re.compile(
    r"(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2}:\d{2})(?:[.,](\d{1,9}))? ?(Z|[+-]\d{2}:?\d{2})?", flags=re.ASCII
)


def local_time(text: str) -> datetime | None:
    """The wall clock of a time with seconds, its offset dropped; None for anything else.

    Two times of one recording lie apart by what their clocks say, so an hour is missing or double when the clocks
    change, as it is for the person who wears the device.

    >>> local_time("2020-01-01 08:00:00 +0100"), local_time("2020-01-01T08:00:00.25Z")
    (datetime.datetime(2020, 1, 1, 8, 0), datetime.datetime(2020, 1, 1, 8, 0, 0, 250000))
    """
    found = _FORM.fullmatch(text)
    if found is None:
        return None
    day, clock, fraction, _ = found.groups()
    try:
        return datetime.fromisoformat(f"{day}T{clock}.{(fraction or '0')[:6]:0<6}")
    except ValueError:
        return None
