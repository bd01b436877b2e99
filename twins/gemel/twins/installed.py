"""Which programmes are installed here. A study names one; nothing else ever runs."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from gemel.core.errors import GemelError
from gemel.core.programme import Programme
from gemel.twins import programmes


@cache
def installed() -> tuple[Programme, ...]:
    """Every installed programme, by name and version: one folder of `gemel.twins.programmes` each."""
    found: list[Programme] = []
    for module in pkgutil.iter_modules(programmes.__path__, f"{programmes.__name__}."):
        declared = getattr(importlib.import_module(module.name), "PROGRAMME", None)
        if isinstance(declared, Programme):
            found.append(declared)
    return tuple(sorted(found, key=lambda programme: (programme.name, programme.version)))


def find(name: str, version: str) -> Programme:
    """The installed programme of exactly that name and version. Raises GEM104 when there is none."""
    for programme in installed():
        if (programme.name, programme.version) == (name, version):
            return programme
    here = ", ".join(f"{programme.name} {programme.version}" for programme in installed())
    raise GemelError("GEM104", f"Programme {name} {version} is not installed here; installed: {here}.")
