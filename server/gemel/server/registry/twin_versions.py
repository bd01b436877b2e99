"""Every version of a run's global twin that a completed task made, as the run's state names it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.server.home import RunFolder, model_name


@dataclass(frozen=True)
class TwinVersion:
    """One global twin: its number, the task that made it, its hash and that of the twin it was trained from."""

    version: int
    task: str
    sha256: str
    parent_sha256: str


def twin_versions(run: RunFolder) -> list[TwinVersion]:
    """The versions in order, the newest last; none before the first round is closed. Version 0, the public start, is not one."""
    state = run.load_state()
    found: list[TwinVersion] = []
    parent = str(state.get("start_model_sha256", ""))
    for entry in state.get("tasks", []):
        made: list[dict[str, Any]] = entry.get("versions") or ([entry] if "model_sha256" in entry else [])
        for line in made:
            sha256 = str(line["model_sha256"])
            came_from = str(line.get("from_model_sha256", parent))
            found.append(TwinVersion(int(line["version"]), str(entry["task"]), sha256, came_from))
            parent = sha256
    return found


def read_version(run: RunFolder, version: TwinVersion) -> bytes:
    """The safetensors of a version. Raises GEM532 when the file is missing or is not the one that the state names."""
    try:
        content = (run.folder / f"{model_name(version.version)}.safetensors").read_bytes()
    except OSError as error:
        raise GemelError("GEM532", f"{model_name(version.version)} cannot be read.") from error
    if sha256_hex(content) != version.sha256:
        raise GemelError("GEM532", f"{model_name(version.version)} is not the twin that the run made.")
    return content
