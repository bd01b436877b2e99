"""What a code of the closed list carries."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """Process exit statuses of the `gemel` command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4
    INTERRUPTED = 130


@dataclass(frozen=True)
class CatalogueEntry:
    """What one code means, at length, and what to do about it."""

    title: str
    meaning: str
    remedy: str
    exit_code: ExitCode = ExitCode.FAILED
