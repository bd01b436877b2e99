"""What this room has in C (`privacy/native/`), where a compiler was: the walk of recurrent layers, the normal draws."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path

_LIBRARY = Path(__file__).with_name("_native.so")


def is_built() -> bool:
    """True when it was compiled here; without it torch's operations compute the same numbers, slower."""
    return library() is not None


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled functions, their argument types declared; None where they were not compiled."""
    try:
        loaded = ctypes.CDLL(str(_LIBRARY))
        pointer, whole = ctypes.c_void_p, ctypes.c_long
        loaded.gated_forward.argtypes = [whole] * 3 + [pointer] * 8
        loaded.gated_backward.argtypes = [whole] * 3 + [pointer] * 10
        loaded.gemel_normals.argtypes = [pointer] * 4 + [whole]
        loaded.gemel_normals.restype = None
    except (OSError, AttributeError):
        return None
    return loaded
