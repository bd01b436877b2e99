"""Which software runs here: what a hello and a certificate say of it."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

_NAMED = ("gemel", "torch", "flwr", "opacus", "dp-accounting", "numpy", "cryptography")


@cache
def software_versions() -> dict[str, str]:
    """Name -> version of Python and of the packages that results depend on; what is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in _NAMED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
