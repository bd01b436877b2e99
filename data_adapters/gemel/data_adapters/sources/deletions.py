"""Deletions that an export asks for: the `deleted` files of a Bulk export, and DELETE requests in Bundles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gemel.core.errors import GemelError
from gemel.data_adapters.sources.files import (
    DELETED_FOLDER,
    Damage,
    ExportFile,
    list_unread,
    open_export,
    read_blocks,
)


def deletions(
    export: Path, *, on_damage: Callable[[Damage], None] | None = None
) -> frozenset[tuple[str, str]]:
    """The resources, as (type, id), that the export says are deleted: later stages remove them.

    It reads the folder `deleted`, and those of the export's own files that hold Bundles (a second time).

    Raises:
        GemelError: GEM222 when a file of `deleted` holds something else than deletions: one that is missed would leave
            a person in the data who should be out. Else as `read_blocks`.
    """
    found: set[tuple[str, str]] = set()
    for file in open_export(export):
        for block in read_blocks(file, on_damage=on_damage):
            if block.places is None:
                break
            found.update(block.deleted)
    folder = export / DELETED_FOLDER
    if not folder.is_dir() or not any(folder.iterdir()):
        return frozenset(found)
    if unread := list_unread(folder):
        raise GemelError("GEM222", f"{DELETED_FOLDER}/{unread[0]}.")
    for file in open_export(folder):
        found.update(_deleted(file))
    return frozenset(found)


def _deleted(file: ExportFile) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for block in read_blocks(file):
        found.update(block.deleted)
        for offset, line in enumerate(block.lines):
            if line:
                place = f"{DELETED_FOLDER}/{file.name}:{block.place(offset)}"
                raise GemelError("GEM222", f"{place} is no deletion of one resource (DELETE Type/id).")
    return found
