"""When a node's keys were made, and until when they are good: dates only, no secret."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import msgspec

from gemel.core.errors import GemelError
from gemel.core.files import write_durably

NAME = "dates.json"
VALID_DAYS = 365
WARN_DAYS = 30


class KeyDates(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """ISO 8601, UTC, to the second."""

    made_at: str
    expires_at: str

    def days_left(self, *, at: dt.datetime | None = None) -> float:
        """Days until the keys expire; negative when they have."""
        left = dt.datetime.fromisoformat(self.expires_at) - (at or dt.datetime.now(dt.UTC))
        return left.total_seconds() / 86_400


def write_dates(keys: Path, *, days: int = VALID_DAYS) -> KeyDates:
    """Say that the keys in a folder were made now, and are good for so many days."""
    now = dt.datetime.now(dt.UTC)
    dates = KeyDates(
        made_at=now.isoformat(timespec="seconds"),
        expires_at=(now + dt.timedelta(days=days)).isoformat(timespec="seconds"),
    )
    write_durably(keys / NAME, msgspec.json.encode(dates), mode=0o600)
    return dates


def read_dates(keys: Path) -> KeyDates:
    """The dates of the keys in a folder. Raises GEM417 when they are not on record."""
    try:
        dates = msgspec.json.decode((keys / NAME).read_bytes(), type=KeyDates)
        dates.days_left()
    except (OSError, ValueError, TypeError) as error:
        raise GemelError("GEM417", f"{keys / NAME} says no dates of the node's keys.") from error
    return dates
