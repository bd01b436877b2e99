"""Which programmes are installed here. A study names one; nothing else ever runs.

One folder of `gemel.twins.programmes` each: `PROGRAMME` in its `__init__.py`, `DEFINITION` in its `definition.py`.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING

from gemel.core.errors import GemelError
from gemel.core.programme import Programme
from gemel.twins import programmes

if TYPE_CHECKING:  # these bring torch
    from gemel.twins.definition import TwinDefinition
    from gemel.twins.twin import Twin


@cache
def installed() -> tuple[Programme, ...]:
    """Every installed programme, by name and version."""
    found = (_declared(folder) for folder in _folders())
    return tuple(sorted((p for p in found if p is not None), key=lambda p: (p.name, p.version)))


def find(name: str, version: str) -> Programme:
    """The installed programme of exactly that name and version. Raises GEM104 when there is none."""
    for programme in installed():
        if (programme.name, programme.version) == (name, version):
            return programme
    here = ", ".join(f"{programme.name} {programme.version}" for programme in installed())
    raise GemelError("GEM104", f"Programme {name} {version} is not installed here; installed: {here}.")


def definition_of(programme: Programme) -> TwinDefinition:
    """Twin, claims and all else of an installed programme. Raises GEM104 for another."""
    for folder in _folders():
        if _declared(folder) == programme:
            definition: TwinDefinition = importlib.import_module(f"{folder}.definition").DEFINITION
            return definition
    raise GemelError("GEM104", f"Programme {programme.name} {programme.version} is not installed here.")


def make_twin(programme: Programme) -> Twin:
    """The programme's twin at its public start. Raises GEM104 for a programme that is not installed."""
    return definition_of(programme).twin(programme)


@cache
def _folders() -> tuple[str, ...]:
    return tuple(m.name for m in pkgutil.iter_modules(programmes.__path__, f"{programmes.__name__}."))


def _declared(folder: str) -> Programme | None:
    declared = getattr(importlib.import_module(folder), "PROGRAMME", None)
    return declared if isinstance(declared, Programme) else None
