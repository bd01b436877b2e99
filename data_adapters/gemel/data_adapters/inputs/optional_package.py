"""Packages that only some inputs need, and what to install when one is missing."""

from __future__ import annotations

import importlib
from typing import Any

from gemel.core.errors import GemelError


def load_package(name: str, extra: str) -> Any:
    """Import a module of an optional package.

    Raises:
        GemelError: GEM256 when it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        hint = f"Install it with: pip install 'gemel[{extra}]'"
        raise GemelError("GEM256", f"This input needs the package {package}: {error}.", hint=hint) from error
