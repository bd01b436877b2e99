"""Who may read a report, and what it says of that itself."""

from __future__ import annotations

from enum import StrEnum


class Audience(StrEnum):
    """Who may read a report."""

    INTERNAL = "internal"
    PUBLIC = "public"


NOTES = {
    Audience.INTERNAL: (
        "INTERNAL: exact numbers of this hospital's patients. No noise protects them. This report stays at the hospital."
    ),
    Audience.PUBLIC: "PUBLIC: holds released numbers only; those of patients are differentially private.",
}
