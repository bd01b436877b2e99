"""SQL on FHIR v2 `ViewDefinition`: the document, checked field by field."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from gemel.core.errors import GemelError
from gemel.data_adapters.reading.element_types import known_type
from gemel.data_adapters.reading.json_line import NOT_JSON

_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_]*$")
# What may stand beside select, where and constant without changing any row.
_DESCRIPTIVE = frozenset(
    [
        "resourceType",
        "id",
        "meta",
        "implicitRules",
        "language",
        "text",
        "contained",
        "url",
        "identifier",
        "version",
        "versionAlgorithmString",
        "versionAlgorithmCoding",
        "name",
        "title",
        "status",
        "experimental",
        "date",
        "publisher",
        "contact",
        "description",
        "useContext",
        "jurisdiction",
        "copyright",
        "copyrightLabel",
        "purpose",
        "fhirVersion",
        "profile",
        "extension",
    ]
)


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One output column: a FHIRPath expression and a name."""

    name: str
    path: str
    type: str | None = None
    collection: bool = False
    description: str | None = None
    tag: list[dict[str, Any]] | None = None


class Select(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Columns, nested selects and unions, once for each item of `forEach` when there is one."""

    column: tuple[Column, ...] = ()
    select: tuple[Select, ...] = ()
    for_each: str | None = msgspec.field(name="forEach", default=None)
    for_each_or_null: str | None = msgspec.field(name="forEachOrNull", default=None)
    repeat: tuple[str, ...] | None = None
    union_all: tuple[Select, ...] = msgspec.field(name="unionAll", default=())


class Where(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A filter: only resources for which the path is true."""

    path: str
    description: str | None = None


class ViewConstant(msgspec.Struct, frozen=True):
    """A named constant of a FHIR primitive type."""

    name: str
    type: str
    value: str | float | int | bool


class ViewDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """A checked view over one resource type."""

    name: str
    resource: str
    select: tuple[Select, ...]
    where: tuple[Where, ...] = ()
    constants: tuple[ViewConstant, ...] = ()


def load_view(path: Path) -> ViewDefinition:
    """Read a ViewDefinition file. Raises GEM209; a view without a name takes the file's."""
    try:
        document = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise GemelError(
            "GEM209",
            f"The view definition {path} cannot be read: {error.strerror}.",
            hint="Check the path: each view definition is a JSON file, and the export comes last.",
        ) from error
    except NOT_JSON as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise GemelError(
            "GEM209", f"{path} is not JSON: {reason}.", hint="Name a file with one ViewDefinition as JSON."
        ) from error
    name = path.name.split(".")[0]
    with in_file(path):
        return parse_view(document, default_name=re.sub(r"\W", "_", name))


@contextmanager
def in_file(path: Path) -> Iterator[None]:
    """Name the file in what is wrong with the view that it defines."""
    try:
        yield
    except GemelError as error:
        raise GemelError(error.code, f"{path.name}: {error.message}", hint=error.hint) from error


def parse_view(document: object, *, default_name: str = "view") -> ViewDefinition:
    """Check a ViewDefinition given as JSON values. Raises GEM209 naming what is wrong."""
    if not isinstance(document, dict):
        raise GemelError("GEM209", "A ViewDefinition is a JSON object.")
    if document.get("resourceType", "ViewDefinition") not in ("ViewDefinition",):
        raise GemelError("GEM209", f"Expected a ViewDefinition, got {document['resourceType']!r}.")
    unknown = set(document) - _DESCRIPTIVE - {"resource", "select", "where", "constant"}
    if unknown:
        raise GemelError("GEM209", f"The view has unknown elements {sorted(map(str, unknown))}.")
    core = {
        "name": document.get("name") or default_name,
        "resource": document.get("resource"),
        "select": document.get("select"),
        "where": document.get("where") or (),
        "constants": [_constant(constant) for constant in document.get("constant") or ()],
    }
    try:
        view = msgspec.convert(core, ViewDefinition)
    except msgspec.ValidationError as error:
        raise GemelError("GEM209", f"The ViewDefinition is malformed: {error}.") from error
    if not _NAME.match(view.name):
        raise GemelError("GEM209", f"{view.name!r} is no name for a view.")
    if not known_type(view.resource):
        raise GemelError("GEM209", f"{view.resource!r} is no FHIR R4 resource type.")
    names = [column.name for column in columns_of(view.select)]
    repeated = {name for name in names if names.count(name) > 1}
    if not names or repeated:
        raise GemelError("GEM209", f"Columns must be named, each once; repeated: {sorted(repeated)}.")
    return view


def _constant(constant: object) -> dict[str, Any]:
    if not isinstance(constant, dict):
        raise GemelError("GEM209", "A constant is a JSON object.")
    values = [key for key in constant if key.startswith("value")]
    if len(values) != 1 or not isinstance(constant.get("name"), str):
        raise GemelError("GEM209", f"A constant has a name and one value[x]; got {sorted(constant)}.")
    suffix = values[0].removeprefix("value")
    type_name = suffix[:1].lower() + suffix[1:]
    return {"name": constant["name"], "type": type_name, "value": constant[values[0]]}


def columns_of(selects: tuple[Select, ...]) -> list[Column]:
    """Output columns in the order that the specification gives: column, select, unionAll. Raises GEM209."""
    columns: list[Column] = []
    for select in selects:
        columns += [*select.column, *columns_of(select.select)]
        branches = [columns_of((branch,)) for branch in select.union_all]
        named = [[column.name for column in branch] for branch in branches]
        for names in named[1:]:
            if names != named[0]:
                raise GemelError("GEM209", f"unionAll branches differ: {named[0]} and {names}.")
        columns += branches[0] if branches else []
    for column in columns:
        if not _NAME.match(column.name):
            raise GemelError("GEM209", f"{column.name!r} is no name for a column.")
    return columns
