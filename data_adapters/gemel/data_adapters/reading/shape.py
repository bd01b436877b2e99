"""Which elements of a resource are read: one tree gives DuckDB's schema and the check of each line."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from gemel.data_adapters.reading.element_types import NUMBER_TYPES, PRIMITIVE_TYPES

# FHIR's integers have 32 bits; a larger one would become NULL in DuckDB.
_INTEGER = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]


class Shape:
    """A node of the tree: a FHIR type, whether it repeats, and the child elements that are used.

    It grows while views are compiled; a complex element of which no child is used stays opaque JSON.
    """

    def __init__(self, type_name: str, *, repeats: bool = False) -> None:
        self.type_name = type_name
        self.repeats = repeats
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

    def duckdb_structure(self) -> Any:
        """The structure that DuckDB's `from_json` takes, as JSON values."""
        item: Any
        if self.children:
            item = {name: child.duckdb_structure() for name, child in sorted(self.children.items())}
        elif self.type_name not in PRIMITIVE_TYPES:
            item = "JSON"
        elif self.type_name == "boolean":
            item = "BOOLEAN"
        elif self.type_name in NUMBER_TYPES:
            item = "DOUBLE" if self.type_name == "decimal" else "BIGINT"
        else:
            item = "VARCHAR"
        return [item] if self.repeats else item

    def duckdb_type(self) -> str:
        """The same as a DuckDB column type."""
        return _sql_type(self.duckdb_structure())

    def line_type(self) -> Any:
        """A type for msgspec that refuses whatever DuckDB would turn into NULL without a word."""
        item: Any
        if self.children:
            fields = [
                (f"f{i}", child.line_type() | None, msgspec.field(name=name, default=None))
                for i, (name, child) in enumerate(sorted(self.children.items()))
            ]
            item = msgspec.defstruct(f"{self.type_name}Line", fields, omit_defaults=True)
        elif self.type_name not in PRIMITIVE_TYPES:
            item = dict[str, msgspec.Raw]
        elif self.type_name == "boolean":
            item = bool
        elif self.type_name in NUMBER_TYPES:
            item = float if self.type_name == "decimal" else _INTEGER
        else:
            item = str
        return list[item | None] if self.repeats else item


def _sql_type(structure: Any) -> str:
    if isinstance(structure, list):
        return f"{_sql_type(structure[0])}[]"
    if isinstance(structure, dict):
        fields = ", ".join(f"{quote_name(name)} {_sql_type(item)}" for name, item in structure.items())
        return f"STRUCT({fields})"
    return str(structure)


def quote_name(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """An SQL string literal."""
    return "'" + text.replace("'", "''") + "'"
