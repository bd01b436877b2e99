"""Rows as msgspec reads them to Arrow, column by column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from gemel.data_adapters.reading.shape import Shape


def rows_to_arrow(rows: Sequence[Any], shape: Shape) -> pa.Array:
    """The array of `shape.arrow_type()` that holds the rows; each is of `shape.row_type()`.

    >>> period = Shape("Period")
    >>> _ = period.child("start", "dateTime")
    >>> rows_to_arrow([{"start": "2020"}, None, {}], period).to_pylist()
    [{'start': '2020'}, None, {'start': None}]
    """
    if not shape.repeats:
        return _items(rows, shape)
    starts: list[int | None] = []
    items: list[Any] = []
    for row in rows:
        starts.append(None if row is None else len(items))
        items += row or ()
    starts.append(len(items))
    return pa.ListArray.from_arrays(
        pa.array(starts, pa.int32()), _items(items, shape), type=shape.arrow_type()
    )


def _items(items: Sequence[Any], shape: Shape) -> pa.Array:
    if shape.children:
        children = [
            rows_to_arrow([None if item is None else item.get(name) for item in items], child)
            for name, child in sorted(shape.children.items())
        ]
        missing = pa.array([item is None for item in items], pa.bool_())
        fields = list(shape.item_type())
        return pa.StructArray.from_arrays(children, fields=fields, mask=missing)
    if shape.is_opaque or shape.exact:
        texts = (None if item is None else bytes(item).decode() for item in items)
        items = [None if text == "null" else text for text in texts]
    return pa.array(items, shape.item_type())
