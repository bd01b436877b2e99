"""Typed arrays as safetensors bytes, checked against what was declared: the only tensor format that travels."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from gemel.core.errors import GemelError

Arrays = Mapping[str, NDArray[np.generic]]
MAX_HEADER_BYTES = 1 << 16


class ArraySpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The declared shape and numpy dtype name of one array."""

    shape: tuple[int, ...]
    dtype: str


def check_arrays(arrays: Arrays, declared: Mapping[str, ArraySpec]) -> None:
    """Refuse (GEM403) unless names, shapes and dtypes are exactly as declared and every value is finite."""
    if set(arrays) != set(declared):
        raise GemelError("GEM403", f"Expected {sorted(declared)}, got {sorted(arrays)}.")
    for name, spec in declared.items():
        array = arrays[name]
        if array.shape != spec.shape or array.dtype.name != spec.dtype:
            raise GemelError(
                "GEM403",
                f"{name} must be {spec.dtype} {spec.shape}, got {array.dtype.name} {array.shape}.",
            )
        if array.dtype.kind == "f" and not bool(np.isfinite(array).all()):
            raise GemelError("GEM403", f"{name} holds a value that is not finite.")


def pack_arrays(arrays: Arrays) -> bytes:
    """Encode arrays as safetensors, in the order of their names, so equal arrays give equal bytes."""
    return save({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)})


def unpack_arrays(content: bytes, declared: Mapping[str, ArraySpec]) -> dict[str, NDArray[np.generic]]:
    """Decode and check safetensors bytes; no bytes stand for no arrays. Raises GEM403 for anything not declared."""
    if not content and not declared:
        return {}
    expected = sum(math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in declared.values())
    if len(content) > expected + MAX_HEADER_BYTES:
        raise GemelError("GEM403", f"The payload has {len(content)} bytes, expected about {expected}.")
    try:
        arrays = load(content)
    except (SafetensorError, KeyError, ValueError) as error:
        raise GemelError("GEM403", f"The payload is not safetensors: {error}.") from error
    check_arrays(arrays, declared)
    return dict(arrays)
