"""What may run here: a programme's version, and the very code that implements it as it was when it was allowed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from gemel.core.canonical import document_hash, sha256_hex
from gemel.core.errors import GemelError

# All that touches a patient between the record and the gate. The command line and the coordinator's room do not.
ROOMS = ("core", "data_adapters", "privacy", "twins", "synthetic", "client_node")


def code_of(programme: str) -> str:
    """The hash of the installed code that runs a programme, "name@version"; GEM104 when it is not installed.

    All rooms count, not the programme's folder alone: what adds the noise matters as much as what learns.
    """
    from gemel.twins.installed import find

    name, _, version = programme.partition("@")
    find(name, version)
    return installed_code()


@cache
def installed_code() -> str:
    """The hash of the content of every file of the rooms above, as installed; once for each process.

    The files themselves are read, not a wheel's RECORD: that says what was installed, not what is there now. Call it
    before forking, and children inherit the answer.
    """
    return document_hash(file_hashes())


def file_hashes() -> dict[str, str]:
    """Path below `gemel/` -> SHA-256, of all files that `installed_code` covers."""
    found: dict[str, str] = {}
    for room in ROOMS:
        folder = _folder(room)
        for path in sorted(folder.rglob("*")):
            if "__pycache__" not in path.parts and not path.name.startswith(".") and path.is_file():
                found[f"{room}/{path.relative_to(folder).as_posix()}"] = sha256_hex(path.read_bytes())
    return found


def admit_code(programme: str, code: Mapping[str, str]) -> None:
    """Refuse (GEM414) a programme whose installed code is not what `code` says was allowed."""
    allowed, here = code.get(programme, ""), code_of(programme)
    if allowed != here:
        raise GemelError(
            "GEM414",
            f"{programme} was allowed with code {allowed[:16] or 'unknown'}, installed is {here[:16]}.",
        )


def _folder(room: str) -> Path:
    from importlib.util import find_spec

    spec = find_spec(f"gemel.{room}")
    if spec is None or not spec.submodule_search_locations:
        raise GemelError("GEM414", f"The room gemel.{room} is not installed as a folder.")
    return Path(next(iter(spec.submodule_search_locations)))
