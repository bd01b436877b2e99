"""What a hospital lets a worker use: `limits.json` in the node's home, or these defaults."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gemel.core.errors import GemelError


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Bounds on the processes that compute on patients.

    Attributes:
        memory_mb: What one task may take beyond what its worker has (10^6 bytes).
        seconds: How long one task may take. Flower gives a message up after 12 hours.
        studies: How many studies' workers are kept at once; the one that was not used for longest goes first.
        user: The user that workers run as, where the node is started as root; "" for the same.
        unconfined: Let workers run where this machine cannot shut them in. Off: the node computes nothing there (GEM420).
    """

    memory_mb: int = 4000
    seconds: float = 12 * 3600.0
    studies: int = 4
    user: str = ""
    unconfined: bool = False


def load_limits(folder: Path) -> Limits:
    """The limits of a node's home. Raises GEM407 for a file that says something else."""
    path = folder / "limits.json"
    if not path.exists():
        return Limits()
    try:
        limits = msgspec.json.decode(path.read_bytes(), type=Limits)
    except (OSError, msgspec.DecodeError) as error:
        raise GemelError("GEM407", f"{path}: {error}.") from error
    if limits.memory_mb < 100 or limits.seconds <= 0 or limits.studies < 1:
        raise GemelError("GEM407", f"{path}: at least 100 MB, some seconds and one study, got {limits}.")
    return limits
