"""Python values as Arrow columns without pandas.

`pa.array` and `pa.scalar` import pandas where it is installed, which costs as much as reading 60 MB, and as much memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

_NUMBERS: dict[pa.DataType, Any] = {
    pa.int16(): np.int16,
    pa.int32(): np.int32,
    pa.int64(): np.int64,
    pa.uint64(): np.uint64,
    pa.float64(): np.float64,
}


def column(kind: pa.DataType, values: Sequence[Any]) -> pa.Array:
    """Texts, numbers or truth values; None is NULL.

    >>> column(pa.string(), ["a", None, "ü"]).to_pylist()
    ['a', None, 'ü']
    >>> column(pa.float64(), [1.5, None]).to_pylist(), column(pa.bool_(), [True, None, False]).to_pylist()
    ([1.5, None], [True, None, False])
    """
    there = np.array([value is not None for value in values], bool)
    validity = None if there.all() else _bits(there)
    if kind == pa.string():
        encoded = [(value or "").encode() for value in values]
        offsets = np.cumsum([0, *(len(text) for text in encoded)]).astype(np.int32)
        buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    elif kind == pa.bool_():
        buffers = [validity, _bits(np.array([bool(value) for value in values], bool))]
    else:
        filled = np.array([0 if value is None else value for value in values], _NUMBERS[kind])
        buffers = [validity, pa.py_buffer(filled)]
    return pa.Array.from_buffers(kind, len(values), buffers)


def scalar(kind: pa.DataType, value: Any) -> pa.Scalar:
    """One value."""
    return column(kind, [value])[0]


def mask(values: np.ndarray[Any, Any]) -> pa.BooleanArray:
    """Truth values of numpy."""
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, _bits(values)])


def table(schema: pa.Schema, rows: Sequence[Sequence[Any]] = ()) -> pa.Table:
    """Rows of a schema.

    >>> table(pa.schema([("a", pa.string()), ("n", pa.int64())]), [("x", 1), ("y", None)]).to_pydict()
    {'a': ['x', 'y'], 'n': [1, None]}
    """
    columns = zip(*rows, strict=True) if rows else ([] for _ in schema)
    arrays = [column(part.type, list(values)) for part, values in zip(schema, columns, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _bits(values: np.ndarray[Any, Any]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(values, bitorder="little"))
