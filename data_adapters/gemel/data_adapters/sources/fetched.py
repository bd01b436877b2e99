"""What was fetched into a folder, and how a folder is written so that a reader sees a whole export or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from gemel.core.errors import GemelError
from gemel.core.files import write_durably
from gemel.data_adapters.sources.files import MANIFEST_NAME, UNFINISHED_NAME


@dataclass(frozen=True)
class Fetched:
    """An export that was fetched to its end.

    Attributes:
        folder: Where it lies: the files of resources, `deleted/`, `error/` and manifest.json.
        transaction_time: The server's instant that the export shows; the next one's `since`.
        lines: Resources by type.
        deleted_files: Files of deletions.
        problems: What the server could not export: issues of its OperationOutcomes by "severity code".
        notes: What else a person should know.
    """

    folder: Path
    transaction_time: str | None
    lines: Mapping[str, int]
    deleted_files: int = 0
    problems: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def prepare_folder(folder: Path) -> Path | None:
    """Make the folder; the state of an unfinished export when there is one. Raises GEM228 when other things are in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        state = folder / UNFINISHED_NAME
        if state.exists():
            return state
        if any(folder.iterdir()):
            raise GemelError("GEM228", f"{folder} is not empty: name a new folder for the export.")
    except OSError as error:
        raise GemelError("GEM228", f"{folder} cannot be used: {error.strerror}.") from error
    return None


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read: all of it or nothing."""
    write_durably(path, content, mode=0o600)


class _Manifest(msgspec.Struct):
    transactionTime: str


def last_transaction_time(folder: Path) -> str:
    """The transactionTime in an earlier export's manifest: from there on the next increment goes. Raises GEM228."""
    try:
        return msgspec.json.decode((folder / MANIFEST_NAME).read_bytes(), type=_Manifest).transactionTime
    except (OSError, msgspec.DecodeError) as error:
        raise GemelError(
            "GEM228", f"{folder} holds no manifest of an export with its transactionTime: {error}."
        ) from error
