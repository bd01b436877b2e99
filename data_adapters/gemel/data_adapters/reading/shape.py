"""Which elements of a resource are read: one tree gives the Arrow and DuckDB types and the check of each line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypedDict

import msgspec
import pyarrow as pa

from gemel.data_adapters.reading.element_types import NUMBER_TYPES, PRIMITIVE_TYPES, element_keys

# FHIR's integers have 32 bits; a larger one would become NULL in DuckDB.
_INTEGER = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]

# A misspelt `comparator` must not make "<30" a 30: a quantity has the elements that FHIR gives it, and no other.
_CLOSED_TYPES = frozenset({"Quantity", "Age", "Count", "Distance", "Duration"})


class Shape:
    """A node of the tree: a FHIR type, whether it repeats, and the child elements that are used.

    It grows while views are compiled; a complex element of which no child is used stays opaque JSON. A quantity is
    closed: an object of it with a key that its FHIR type does not have is at fault, or a value of another type. An `exact` decimal is kept as the
    text of its number, because 1.50 and 1.5 are of different precision.
    """

    def __init__(self, type_name: str, *, repeats: bool = False) -> None:
        self.type_name = type_name
        self.repeats = repeats
        self.exact = False
        self.children: dict[str, Shape] = {}

    @classmethod
    def of_resource(cls, type_name: str) -> Shape:
        """The root for one resource type, with what deduplication needs."""
        root = cls(type_name)
        root.child("id", "id")
        meta = root.child("meta", "Meta")
        meta.child("versionId", "id")
        meta.child("lastUpdated", "instant")
        return root

    def child(self, element: str, type_name: str, *, repeats: bool = False) -> Shape:
        """The child of that name, made when it is used for the first time."""
        if element not in self.children:
            self.children[element] = Shape(type_name, repeats=repeats)
        return self.children[element]

    @property
    def is_opaque(self) -> bool:
        """True for a complex element of which no child is used: kept as its JSON text."""
        return not self.children and self.type_name not in PRIMITIVE_TYPES

    def closed_over(self) -> Mapping[str, str] | None:
        """The other keys that an object of a closed type may have, with their types; None for a type that is open.

        >>> quantity = Shape("Quantity")
        >>> _ = quantity.child("value", "decimal")
        >>> quantity.closed_over()["unit"], "value" in quantity.closed_over(), Shape("Period").closed_over()
        ('string', False, None)
        """
        if self.type_name not in _CLOSED_TYPES or not self.children:
            return None
        keys = element_keys(self.type_name)
        return {key: keys[key] for key in sorted(keys.keys() - self.children.keys())}

    def arrow_type(self) -> pa.DataType:
        """The Arrow type of a column: structs, with the children in the order of their names."""
        return pa.list_(self.item_type()) if self.repeats else self.item_type()

    def item_type(self) -> pa.DataType:
        """The Arrow type of one item of an element that repeats; else that of the column."""
        if self.children:
            return pa.struct([(name, child.arrow_type()) for name, child in sorted(self.children.items())])
        if self.type_name == "boolean":
            return pa.bool_()
        if self.exact:
            return pa.string()
        if self.type_name in NUMBER_TYPES:
            return pa.float64() if self.type_name == "decimal" else pa.int64()
        return pa.string()

    def line_type(self) -> Any:
        """A type for msgspec that refuses whatever has not the type that FHIR gives it."""
        item: Any
        if self.children:
            fields: list[tuple[str, Any, Any]] = [
                (f"f{i}", child.line_type() | None, msgspec.field(name=name, default=None))
                for i, (name, child) in enumerate(sorted(self.children.items()))
            ]
            closed = self.closed_over()
            for i, (name, type_name) in enumerate((closed or {}).items()):
                kind = Shape(type_name).line_type() | None if type_name in PRIMITIVE_TYPES else msgspec.Raw
                fields.append((f"o{i}", kind, msgspec.field(name=name, default=None)))
            item = msgspec.defstruct(
                f"{self.type_name}Line", fields, omit_defaults=True, forbid_unknown_fields=closed is not None
            )
        elif self.type_name not in PRIMITIVE_TYPES:
            item = dict[str, msgspec.Raw]
        elif self.type_name == "boolean":
            item = bool
        elif self.type_name in NUMBER_TYPES:
            item = float if self.type_name == "decimal" else _INTEGER
        else:
            item = str
        return list[item | None] if self.repeats else item

    def row_type(self) -> Any:
        """A type for msgspec that makes dicts of a line which has the `line_type`; opaque elements stay bytes."""
        item: Any
        if self.is_opaque or self.exact:
            item = msgspec.Raw  # No union: msgspec takes every value for Raw, null too.
        elif self.children:
            fields = {name: child.row_type() for name, child in self.children.items()}
            item = TypedDict(f"{self.type_name}Row", fields, total=False) | None  # type: ignore[operator]
        else:
            item = self.line_type() if not self.repeats else Shape(self.type_name).line_type()
            item = item | None
        return list[item] | None if self.repeats else item


def quote_name(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """An SQL string literal."""
    return "'" + text.replace("'", "''") + "'"
