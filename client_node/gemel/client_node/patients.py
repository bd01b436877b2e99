"""The node's data set: built from the hospital's export once, kept, and built again when the export changes."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gemel.client_node.home import NodeHome
from gemel.core.canonical import document_hash
from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.files import write_durably
from gemel.core.programme import Programme


def load(home: NodeHome, programme: Programme) -> Dataset:
    """The hospital's patients for a programme. Raises what `gemel.data_adapters.dataset.build.build` raises."""
    stem = f"{programme.name}-{programme.version}"
    path = home.folder / "data" / f"{stem}.safetensors"
    mark = home.folder / "data" / f"{stem}.export"
    state = f"{export_state(home.export)} {document_hash(msgspec.to_builtins(programme))}".encode()
    if path.exists() and mark.exists() and mark.read_bytes() == state:
        return Dataset.load(path)
    from gemel.data_adapters.dataset.build import build

    dataset, card = build(home.export, programme, pseudonym_key=home.pseudonym_key)
    mark.unlink(missing_ok=True)
    temporary = path.with_suffix(".building")
    dataset.save(temporary)
    temporary.replace(path)
    write_durably(home.folder / "data" / f"{stem}.card.json", msgspec.json.encode(card))
    write_durably(mark, state)
    return dataset


def export_state(export: Path) -> str:
    """A hash of names, sizes and modification times: cheap to compare, different when any file changed."""
    if not export.exists():
        raise GemelError("GEM208", f"The export {export} does not exist.")
    files = sorted(p for p in export.rglob("*") if p.is_file()) if export.is_dir() else [export]
    listing = [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files]
    return document_hash(listing)
