"""The node's data set: built from the hospital's records once and kept.

It is built again when the export, the site's mapping or the opt-out list changes, and on each new day: a consent may
have ended.
"""

from __future__ import annotations

import fcntl
from datetime import UTC, date, datetime
from pathlib import Path

import msgspec

from gemel.client_node.home import NodeHome
from gemel.core.canonical import document_hash, sha256_hex
from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.files import write_durably
from gemel.core.programme import Programme

# What marks the home of a simulation's hospital.
VIRTUAL = "VIRTUAL"


def load(home: NodeHome, programme: Programme) -> Dataset:
    """The hospital's patients for a programme. Raises what `gemel.data_adapters.dataset.build.build` raises.

    One process at a time: a steward may look at a study while the node answers, and what two build from an export that
    changes under them must not be taken one for the other.
    """
    with (home.folder / "data" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _load(home, programme)


def _load(home: NodeHome, programme: Programme) -> Dataset:
    stem = f"{programme.name}-{programme.version}"
    path = kept_at(home.folder, programme)
    mark = home.folder / "data" / f"{stem}.export"
    today = datetime.now(UTC).date()
    state = _state(home, programme, today)
    if path.exists() and mark.exists() and mark.read_bytes() == state:
        return Dataset.load(path)
    from gemel.data_adapters.dataset.build import build
    from gemel.data_adapters.meaning.site_mapping import load_mapping

    dataset, card = build(
        home.export,
        programme,
        pseudonym_key=home.pseudonym_key,
        mapping=load_mapping(*home.mapping_files),
        opt_out=home.opt_out,
        on=today,
    )
    mark.unlink(missing_ok=True)
    temporary = path.with_suffix(".building")
    dataset.save(temporary)
    temporary.replace(path)
    write_durably(home.folder / "data" / f"{stem}.card.json", msgspec.json.encode(card))
    write_durably(mark, state)
    return dataset


def kept_at(folder: Path, programme: Programme) -> Path:
    """Where the data set that `load` gives lies, in a node's home."""
    return folder / "data" / f"{programme.name}-{programme.version}.safetensors"


def lend(home: NodeHome, programme: Programme, dataset: Dataset) -> None:
    """Give a virtual hospital its part of patients that were read elsewhere; `load` then finds them, on this day.

    Raises GEM407 for a home without the file `VIRTUAL`: a hospital's patients come from its own records.
    """
    if not (home.folder / VIRTUAL).exists():
        raise GemelError("GEM407", f"{home.folder} is a real node's home, not a simulation's.")
    stem = f"{programme.name}-{programme.version}"
    dataset.save(home.folder / "data" / f"{stem}.safetensors")
    write_durably(home.folder / "data" / f"{stem}.export", _state(home, programme, datetime.now(UTC).date()))


def _state(home: NodeHome, programme: Programme, day: date) -> bytes:
    """What the kept data set was built from, and when; it holds as long as this is the same."""
    files = (*home.mapping_files, *((home.opt_out,) if home.opt_out is not None else ()))
    site = {path.name: sha256_hex(path.read_bytes()) for path in files}
    parts = (
        export_state(home.export),
        document_hash(msgspec.to_builtins(programme)),
        document_hash(site),
        day,
    )
    return " ".join(map(str, parts)).encode()


def export_state(export: Path) -> str:
    """A hash of names, sizes and modification times: cheap to compare, different when any file changed."""
    if not export.exists():
        raise GemelError("GEM208", f"The export {export} does not exist.")
    files = sorted(p for p in export.rglob("*") if p.is_file()) if export.is_dir() else [export]
    listing = [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files]
    return document_hash(listing)
