"""Views that only pick and filter, straight from the reader's Arrow arrays: no value is copied but those of the result.

A plan understands a part of the SQL tree: paths, single items, items unnested, simple conditions. A tree with anything
else has no plan, and rows for which a plan would have to fail are left to the engine that can say why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlglot import exp

from gemel.data_adapters.views import sql_tree as sql
from gemel.data_adapters.views.sql_tree import Tree


class NotPlannedError(Exception):
    """The tree, or a batch of rows, needs another engine."""


@dataclass(frozen=True)
class _Picked:
    """Some of the values, by their index: NULL where that is NULL. Without `rows` all of them, in order."""

    values: pa.Array
    rows: pa.Array | None = None

    def at(self, rows: pa.Array) -> _Picked:
        return _Picked(self.values, rows if self.rows is None else self.rows.take(rows))

    def taken(self) -> pa.Array:
        return self.values if self.rows is None else self.values.take(self.rows)


@dataclass(frozen=True)
class _Frame:
    """The rows of a query: its columns, and what was computed of them, by its key."""

    columns: Mapping[str, _Picked]
    length: int
    known: dict[object, _Picked] = field(default_factory=dict)

    def at(self, rows: pa.Array) -> _Frame:
        # Columns of one table share their rows.
        shared: dict[int, pa.Array] = {}
        columns = {}
        for name, column in self.columns.items():
            key = id(column.rows)
            if key not in shared:
                shared[key] = column.at(rows).rows
            columns[name] = _Picked(column.values, shared[key])
        return _Frame(columns, len(rows))


class _Value:
    """What gives a column. The key says what it is, so that it is computed once for the same rows."""

    def __init__(self, key: object, compute: Callable[[_Frame], _Picked]) -> None:
        self.key = key
        self._compute = compute

    def of(self, frame: _Frame) -> _Picked:
        if self.key not in frame.known:
            frame.known[self.key] = self._compute(frame)
        return frame.known[self.key]


_Condition = Callable[[_Frame], pa.Array]
_Source = Callable[[_Frame], _Frame]


class Plan:
    """A view's tree as functions over Arrow arrays."""

    def __init__(self, tree: exp.Query) -> None:
        """Raises NotPlannedError when the tree holds what plans do not know."""
        self._chains = [_chain(query) for query in _united(tree)]

    def run(self, rows: pa.RecordBatch) -> pa.Table:
        """The view's rows of a batch of the resource type's table, none of whose lists holds a NULL.

        Raises:
            NotPlannedError: When the view fails on one of the rows.
        """
        columns = zip(rows.schema.names, map(_Picked, rows.columns), strict=True)
        frame = _Frame(dict(columns), rows.num_rows)
        # As of UNION ALL: all rows of the first chain, then those of the next.
        return pa.Table.from_batches([_result(chain, source(frame)) for source, chain in self._chains])


def plan(tree: exp.Query) -> Plan | None:
    """The plan of a view's tree, or None when it needs more than a plan can do."""
    try:
        return Plan(tree)
    except NotPlannedError:
        return None


def _result(columns: Mapping[str, _Value], frame: _Frame) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [column.of(frame).taken() for column in columns.values()], names=list(columns)
    )


def _united(tree: Tree) -> list[exp.Select]:
    match tree:
        case exp.Select():
            return [tree]
        case exp.Union() if tree.args.get("distinct") is False:
            return [*_united(tree.this), *_united(tree.expression)]
    raise NotPlannedError


def _chain(query: exp.Select) -> tuple[_Source, dict[str, _Value]]:
    columns = {one.alias_or_name: _value(one.unalias()) for one in query.expressions}
    return _source(query), columns


def _source(query: exp.Select) -> _Source:
    """The rows that a query selects from, after its own condition."""
    below = query.args["from_"].this
    match below:
        case exp.Table():
            source: _Source = _same
        case exp.Subquery(this=exp.Select() as inner):
            source = _stage(inner)
        case _:
            raise NotPlannedError
    where = query.args.get("where")
    return source if where is None else _then(source, _filter(_condition(where.this)))


def _stage(query: exp.Select) -> _Source:
    """A query of all columns, and perhaps the items of a list."""
    match query.expressions:
        case [exp.Star()]:
            return _source(query)
        case [exp.Star(), exp.Alias(this=exp.Explode(this=items), alias=name)]:
            return _then(_source(query), _unnest(items, name))
    raise NotPlannedError


def _same(frame: _Frame) -> _Frame:
    return frame


def _then(first: _Source, second: _Source) -> _Source:
    return lambda frame: second(first(frame))


def _filter(condition: _Condition) -> _Source:
    def stage(frame: _Frame) -> _Frame:
        rows = pc.indices_nonzero(condition(frame))
        return frame if len(rows) == frame.length else frame.at(rows)

    return stage


def _unnest(items: Tree, name: str) -> _Source:
    or_null = False
    match items:
        # What the compiler makes of forEachOrNull: [NULL] for no items.
        case exp.Paren(
            this=exp.Case(args={"ifs": [exp.If(args={"true": exp.Array(expressions=[exp.Null()])})]})
        ):
            items, or_null = items.this.args["default"], True
    lists_of = _value(items)

    def stage(frame: _Frame) -> _Frame:
        lists = lists_of.of(frame)
        if lists.rows is None and not or_null:
            parents, found = pc.list_parent_indices(lists.values), _Picked(lists.values.flatten())
        else:
            parents, rows = _item_rows(lists, or_null=or_null)
            found = _Picked(lists.values.values, rows)
        below = frame.at(parents)
        return _Frame({**below.columns, name: found}, below.length)

    return stage


def _item_rows(lists: _Picked, *, or_null: bool) -> tuple[pa.Array, pa.Array]:
    """Of every item the row that it is in, and its index among the values of the list."""
    starts, lengths = (_numpy(array) for array in _extents(lists))
    spans = np.maximum(lengths, 1) if or_null else lengths
    parents = np.repeat(np.arange(len(spans), dtype=np.int64), spans)
    before = np.cumsum(spans) - spans
    rows = starts[parents] + np.arange(len(parents), dtype=np.int64) - before[parents]
    present = pa.py_buffer(np.packbits(lengths[parents] > 0, bitorder="little")) if or_null else None
    return (
        pa.Array.from_buffers(pa.int64(), len(parents), [None, pa.py_buffer(parents)]),
        pa.Array.from_buffers(pa.int64(), len(rows), [present, pa.py_buffer(rows)]),
    )


def _numpy(array: pa.Array) -> np.ndarray[Any, Any]:
    # `to_numpy` would import pandas too.
    array = array.cast(pa.int64())
    return (
        np.frombuffer(array.buffers()[1], np.int64, len(array), array.offset * 8)
        if array
        else np.zeros(0, np.int64)
    )


def _extents(lists: _Picked) -> tuple[pa.Array, pa.Array]:
    """Where each row's items start among the values of the list, and how many there are; 0 and 0 for NULL."""
    values = lists.values
    starts, lengths = values.offsets.slice(0, len(values)), pc.list_value_length(values)
    if lists.rows is not None:
        starts, lengths = starts.take(lists.rows), lengths.take(lists.rows)
    nothing = _scalar(0, pa.int32())
    return pc.fill_null(starts, nothing), pc.fill_null(lengths, nothing)


def _scalar(value: int | str, kind: pa.DataType) -> pa.Scalar:
    # `pa.scalar` would import pandas, which takes as long as reading 200 MB.
    if isinstance(value, int):
        return pa.Array.from_buffers(kind, 1, [None, pa.py_buffer(value.to_bytes(8, "little", signed=True))])[
            0
        ]
    text = value.encode()
    ends = np.array([0, len(text)], np.int32)
    return pa.Array.from_buffers(kind, 1, [None, pa.py_buffer(ends), pa.py_buffer(text)])[0]


def _value(tree: Tree) -> _Value:
    match tree:
        case exp.Paren(this=inner):
            return _value(inner)
        case exp.Column(this=exp.Identifier(this=name)):
            return _Value(name, lambda frame: frame.columns[name])
        case exp.Dot(this=target, expression=exp.Identifier(this=name)):
            return _field(_value(target), name)
        case exp.Case(args={"ifs": [exp.If(this=test, args={"true": fail})], "default": otherwise}) if (
            otherwise is not None and _is_call(fail, "fail")
        ):
            return _unless(_condition(test), _value(otherwise))
    if _is_call(tree, "stored"):  # No list holds a NULL here.
        return _value(tree.expressions[0])
    if _is_call(tree, "item"):
        return _item(_value(tree.expressions[0]), _whole(tree.expressions[1]))
    raise NotPlannedError


def _whole(tree: Tree) -> int:
    """A literal that fits into the integers of Arrow's lists."""
    if isinstance(tree, exp.Literal) and not tree.is_string and int(tree.this) < 1 << 31:
        return int(tree.this)
    raise NotPlannedError


def _is_call(tree: Tree, name: str) -> bool:
    return isinstance(tree, exp.Anonymous) and tree.this == sql.call(name).this


def _field(target: _Value, name: str) -> _Value:
    def value(frame: _Frame) -> _Picked:
        structs = target.of(frame)
        # As `flatten` does it, and unlike `field`: NULL in a struct that is NULL.
        return _Picked(pc.struct_field(structs.values, name), structs.rows)

    return _Value(("field", target.key, name), value)


def _item(target: _Value, at: int) -> _Value:
    def value(frame: _Frame) -> _Picked:
        lists = target.of(frame)
        starts, lengths = _extents(lists)
        if (
            at == 0
            and lists.rows is None
            and pc.all(pc.equal(lengths, _scalar(1, lengths.type))).as_py() is not False
        ):
            return _Picked(lists.values.flatten())
        there = pc.greater(lengths, _scalar(at, lengths.type))
        rows = pc.if_else(there, pc.add(starts, _scalar(at, starts.type)), pa.nulls(1, starts.type)[0])
        return _Picked(lists.values.values, rows)

    return _Value(("item", target.key, at), value)


def _unless(test: _Condition, otherwise: _Value) -> _Value:
    def value(frame: _Frame) -> _Picked:
        if pc.any(test(frame)).as_py():
            raise NotPlannedError
        return otherwise.of(frame)

    return _Value(("one", otherwise.key), value)


def _condition(tree: Tree) -> _Condition:
    """What gives a truth, or NULL, for each row."""
    match tree:
        case exp.Paren(this=inner):
            return _condition(inner)
        case exp.Coalesce(this=inner, expressions=[exp.Boolean(this=False)]):
            return _applied(lambda truths: pc.fill_null(truths, _scalar(0, pa.bool_())), _condition(inner))
        case exp.Not(this=exp.Is(this=inner, expression=exp.Null())):
            value = _value(inner)
            return lambda frame: value.of(frame).taken().is_valid()
        case exp.Not(this=inner):
            return _applied(pc.invert, _condition(inner))
        case exp.And(this=left, expression=right):
            return _applied(pc.and_kleene, _condition(left), _condition(right))
        case exp.Or(this=left, expression=right):
            return _applied(pc.or_kleene, _condition(left), _condition(right))
        case exp.GT(this=left, expression=right):
            return _longer(_bare(left), _bare(right))
        case exp.EQ(this=left, expression=right):
            return _equal(_value(left), _bare(right))
    raise NotPlannedError


def _bare(tree: Tree) -> Tree:
    while isinstance(tree, exp.Paren):
        tree = tree.this
    return tree


def _applied(function: Callable[..., pa.Array], *conditions: _Condition) -> _Condition:
    return lambda frame: function(*(condition(frame) for condition in conditions))


def _longer(count: Tree, number: Tree) -> _Condition:
    if not _is_call(count, "count"):
        raise NotPlannedError
    lists, least = _value(count.expressions[0]), _scalar(_whole(number), pa.int32())
    return lambda frame: pc.greater(_extents(lists.of(frame))[1], least)


def _equal(value: _Value, literal: Tree) -> _Condition:
    if not (isinstance(literal, exp.Literal) and literal.is_string):
        raise NotPlannedError
    text = _scalar(literal.this, pa.string())
    return lambda frame: pc.equal(value.of(frame).taken(), text)
