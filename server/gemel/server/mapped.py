"""Arrays of a safetensors file without reading it: pages come and go as they are used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gemel.core.arrays import MAX_HEADER_BYTES
from gemel.core.errors import GemelError

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "|u1", "BOOL": "|b1"}


def map_arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    """The arrays of a file that was checked before it was written; writing to them changes no file. Raises GEM403 when it is damaged.

    Format: length of the header (u64, little endian), JSON header, values (https://github.com/huggingface/safetensors).
    """
    content = np.memmap(path, dtype=np.uint8, mode="c")  # as torch wants it: writable, and the file stays
    length = int(content[:8].view("<u8")[0]) if len(content) >= 8 else 0
    if not 2 <= length <= MAX_HEADER_BYTES or 8 + length > len(content):
        raise GemelError("GEM403", f"{path.name} is not safetensors.")
    header, values = json.loads(bytes(content[8 : 8 + length])), content[8 + length :]
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, spec in header.items():
        if name == "__metadata__":
            continue
        start, end = spec["data_offsets"]
        arrays[name] = values[start:end].view(_DTYPES[spec["dtype"]]).reshape(spec["shape"])
    return arrays
