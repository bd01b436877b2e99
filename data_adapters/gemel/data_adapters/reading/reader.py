"""Blocks of NDJSON lines to Arrow: every line is a row of its resource type's table, or a fault that says why not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from gemel.core.errors import GemelError
from gemel.data_adapters.reading.element_types import PRIMITIVE_TYPES, resource_types
from gemel.data_adapters.reading.intake import Fault
from gemel.data_adapters.reading.line_rules import LineRules, Rejected
from gemel.data_adapters.reading.rows import rows_to_arrow
from gemel.data_adapters.reading.shape import Shape
from gemel.data_adapters.sources.files import Block


class LineFault(NamedTuple):
    """Why a line of a block is rejected; `line` counts from 0 in the block."""

    line: int
    resource_type: str | None
    fault: Fault


@dataclass(frozen=True)
class ReadBlock:
    """What became of the lines of a block: read == sum of types + number of faults.

    Attributes:
        read: Lines that are not blank.
        types: Accepted lines by resource type, also of types that no shape reads.
        tables: By resource type, for those that have a shape and accepted lines: the columns `line` int64 (its number
            in the file) and `r` as `Shape.arrow_type()`.
        faults: The other lines, in their order.
    """

    read: int
    types: Mapping[str, int]
    tables: Mapping[str, pa.RecordBatch]
    faults: tuple[LineFault, ...]


class Reader(Protocol):
    """Reads blocks; any number of threads may share one."""

    def read(self, block: Block) -> ReadBlock:
        """Read a block's lines."""
        ...


def native_is_built() -> bool:
    """True when the reader in C++ was compiled for this Python."""
    return _native_module() is not None


def open_reader(shapes: Mapping[str, Shape], *, native: bool | None = None) -> Reader:
    """A reader of the elements that shapes name, by resource type. Shapes must not grow afterwards.

    Args:
        shapes: The elements to keep, by resource type.
        native: True for the reader in C++, False for the one in Python; None takes C++ when it was compiled.

    Raises:
        GemelError: GEM230 when the reader in C++ is asked for and was not compiled.
    """
    module = _native_module() if native is not False else None
    if module is not None:
        return _NativeReader(module, shapes)
    if native:
        raise GemelError("GEM230", "The native reader was not compiled.")
    return _PythonReader(shapes)


def _native_module() -> Any:
    try:
        return import_module("gemel.data_adapters.reading._reader")
    except ImportError:
        return None


def _schema(shape: Shape) -> pa.Schema:
    """The columns of a `ReadBlock`'s table: the line's number, and the elements."""
    return pa.schema([pa.field("line", pa.int64(), nullable=False), pa.field("r", shape.arrow_type())])


class _Lines:
    """Lines of a block as the rules judge them one by one, on the way to Arrow."""

    def __init__(self, shapes: Mapping[str, Shape], rules: LineRules, first_line: int) -> None:
        self._shapes, self._rules, self._first_line = shapes, rules, first_line
        self._numbers: defaultdict[str, list[int]] = defaultdict(list)
        self._rows: defaultdict[str, list[object]] = defaultdict(list)
        self.types: Counter[str] = Counter()
        self.faults: list[LineFault] = []

    def take(self, index: int, content: bytes) -> None:
        judged = self._rules.judge(content)
        if isinstance(judged, Rejected):
            self.faults.append(LineFault(index, judged.resource_type, judged.fault))
            return
        self.types[judged.resource_type] += 1
        if judged.row is not None:
            self._numbers[judged.resource_type].append(self._first_line + index)
            self._rows[judged.resource_type].append(judged.row)

    def tables(self) -> dict[str, pa.RecordBatch]:
        return {name: self._table(name, self._shapes[name]) for name in self._rows}

    def _table(self, name: str, shape: Shape) -> pa.RecordBatch:
        columns = [pa.array(self._numbers[name], pa.int64()), rows_to_arrow(self._rows[name], shape)]
        return pa.RecordBatch.from_arrays(columns, schema=_schema(shape))


class _PythonReader:
    """Reads line by line with msgspec: the reference, and the reader where no compiler is."""

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self._shapes, self._rules = dict(shapes), LineRules(shapes)

    def read(self, block: Block) -> ReadBlock:
        lines, read = _Lines(self._shapes, self._rules, block.first_line), 0
        for index, content in enumerate(block.lines):
            if content:
                read += 1
                lines.take(index, content)
        return ReadBlock(read, dict(lines.types), lines.tables(), tuple(lines.faults))


class _NativeReader:
    """Reads in C++ what is certain there; every other line is judged by the same rules as in the Python reader.

    So a fault has one wording, and the C++ only has to be right about the lines that it accepts.
    """

    def __init__(self, module: Any, shapes: Mapping[str, Shape]) -> None:
        self._shapes, self._rules = dict(shapes), LineRules(shapes)
        self._schemas = {name: _schema(shape) for name, shape in shapes.items()}
        shaped = {name: _native_node(shape) for name, shape in shapes.items()}
        others = resource_types() - shapes.keys() - {"Bundle"}
        # What is read of a resource that has no shape does not depend on its type.
        counted = dict.fromkeys(others, _native_node(Shape.of_resource("Basic")))
        self._native = module.Reader(shaped, counted)

    def read(self, block: Block) -> ReadBlock:
        read, types, arrays, undecided = self._native.read(block.data, block.first_line)
        tables = {
            name: pa.record_batch(_Exported(self._schemas[name], array)) for name, array in arrays.items()
        }
        lines = _Lines(self._shapes, self._rules, block.first_line)
        for index, start, end in undecided:
            lines.take(index, block.data[start:end])
        for name, table in lines.tables().items():
            tables[name] = _merged(tables[name], table) if name in tables else table
        return ReadBlock(read, dict(lines.types + Counter(types)), tables, tuple(lines.faults))


def _merged(left: pa.RecordBatch, right: pa.RecordBatch) -> pa.RecordBatch:
    both = pa.concat_batches([left, right])
    return both.take(pc.sort_indices(both.column("line")))


@dataclass(frozen=True)
class _Exported:
    """An array of the native reader with its type, in the form of the Arrow PyCapsule interface."""

    schema: pa.Schema
    array: object

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        return self.schema.__arrow_c_schema__(), self.array


# What a leaf holds, as `native/reader.cpp` numbers it.
_STRUCT, _TEXT, _DECIMAL, _INTEGER, _BOOLEAN, _OPAQUE, _EXACT = range(7)


def _native_node(shape: Shape) -> tuple[Any, ...]:
    """(kind, repeats, children by name in order, other keys of a closed type) as the native reader takes it."""
    if shape.children:
        kind = _STRUCT
    elif shape.is_opaque:
        kind = _OPAQUE
    elif shape.exact:
        kind = _EXACT
    else:
        by_type = {"decimal": _DECIMAL, "integer": _INTEGER, "positiveInt": _INTEGER, "unsignedInt": _INTEGER}
        kind = _BOOLEAN if shape.type_name == "boolean" else by_type.get(shape.type_name, _TEXT)
    closed = shape.closed_over()
    return (
        kind,
        shape.repeats,
        tuple((name, _native_node(child)) for name, child in sorted(shape.children.items())),
        None if closed is None else tuple((key, _checked(name)) for key, name in closed.items()),
    )


def _checked(type_name: str) -> tuple[Any, ...] | None:
    """The node of an element that is checked and not kept; None when it may be anything."""
    return _native_node(Shape(type_name)) if type_name in PRIMITIVE_TYPES else None
