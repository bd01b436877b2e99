"""FHIR R4 element types: which elements a type has, their types, which repeat. Read from a shipped table.

The table `element_types.json` is derived from `fhir.resources.R4B` by `derive_from_models`; a test compares them,
so that readers start without importing a thousand pydantic models.
"""

from __future__ import annotations

import functools
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module, resources
from typing import Any

import msgspec

STRING_TYPES = frozenset(
    {"string", "code", "id", "uri", "url", "canonical", "oid", "uuid", "markdown", "base64Binary", "xhtml"}
)
TEMPORAL_TYPES = frozenset({"date", "dateTime", "instant"})
NUMBER_TYPES = frozenset({"integer", "positiveInt", "unsignedInt", "decimal"})
PRIMITIVE_TYPES = STRING_TYPES | TEMPORAL_TYPES | NUMBER_TYPES | {"boolean", "time"}

# pydantic's own names that the models use for two FHIR types.
_PYDANTIC_NAMES = {"encodedBytes": "base64Binary", "uuidVersion": "uuid"}

# type name -> element name -> "Type", "Type*" (repeats) or ["Type", ...] (a choice element, value[x])
TypeTable = dict[str, dict[str, str | list[str]]]


@dataclass(frozen=True)
class Element:
    """One element of a FHIR type: its types (several for a choice element) and whether it repeats."""

    types: tuple[str, ...]
    repeats: bool
    choice: bool


@functools.cache
def _table() -> TypeTable:
    content = resources.files(__package__).joinpath("element_types.json").read_bytes()
    return msgspec.json.decode(content, type=TypeTable)


def known_type(name: str) -> bool:
    """True for FHIR's complex types and resources."""
    return name in _table()


def is_resource(name: str) -> bool:
    """True for FHIR's resource types.

    >>> is_resource("Patient"), is_resource("Quantity"), is_resource("DomainResource")
    (True, False, False)
    """
    return name in resource_types()


@functools.cache
def resource_types() -> frozenset[str]:
    """The names of FHIR's resource types."""
    abstract = {"Resource", "DomainResource"}
    return frozenset(name for name, elements in _table().items() if "implicitRules" in elements) - abstract


@functools.cache
def element_keys(type_name: str) -> Mapping[str, str]:
    """The keys that an object of a type may have in JSON, with their types; `_name` stands beside a primitive one.

    >>> element_keys("Period")["start"], element_keys("Period")["_start"], element_keys("Observation")["valueTime"]
    ('dateTime', 'Element', 'time')
    """
    keys: dict[str, str] = {}
    for element, declared in _table().get(type_name, {}).items():
        if isinstance(declared, list):
            keys |= {element + name[0].upper() + name[1:]: name for name in declared}
        else:
            keys[element] = declared.rstrip("*")
    return keys | {f"_{key}": "Element" for key, name in keys.items() if name in PRIMITIVE_TYPES}


@functools.cache
def _all_element_names() -> frozenset[str]:
    return frozenset(name for elements in _table().values() for name in elements)


def is_element_name(name: str) -> bool:
    """True when some FHIR type has an element of that name."""
    return name in _all_element_names()


def find_element(type_name: str, element: str) -> Element | None:
    """The element of a type, or None when the type has no such element.

    >>> find_element("Patient", "name")
    Element(types=('HumanName',), repeats=True, choice=False)
    >>> find_element("Patient", "deceased").types
    ('boolean', 'dateTime')
    """
    declared = _table().get(type_name, {}).get(element)
    if declared is None:
        return None
    if isinstance(declared, list):
        return Element(tuple(declared), repeats=False, choice=True)
    return Element((declared.rstrip("*"),), repeats=declared.endswith("*"), choice=False)


def derive_from_models() -> TypeTable:
    """Derive the table from the pydantic models of `fhir.resources.R4B` (slow: imports all of them)."""
    package = import_module("fhir.resources.R4B")
    table: TypeTable = {}
    for module_info in pkgutil.iter_modules(package.__path__):
        module = import_module(f"fhir.resources.R4B.{module_info.name}")
        for name, value in vars(module).items():
            fields = getattr(value, "model_fields", None)
            if fields and getattr(value, "__module__", "") == module.__name__ and not name.startswith("_"):
                table[name] = _elements(fields)
    return {name: table[name] for name in sorted(table)}


def _elements(fields: dict[str, Any]) -> dict[str, str | list[str]]:
    elements: dict[str, str | list[str]] = {}
    for name, field in fields.items():
        extra = field.json_schema_extra or {}
        if not extra.get("element_property"):
            continue
        type_name, repeats = _type_of(field)
        element = field.alias or name
        base = extra.get("one_of_many")
        if base:
            if element.lower() != (base + type_name).lower():
                raise ValueError(f"{element} is no choice of {base}[x] with type {type_name}")
            choices = elements.get(base, [])
            elements[base] = [*choices, type_name]
        else:
            elements[element] = f"{type_name}*" if repeats else type_name
    return {name: elements[name] for name in sorted(elements)}


def _type_of(field: Any) -> tuple[str, bool]:
    """(FHIR type name, repeats) of a model field, from the text of its annotation."""
    text = f"{field.annotation!r} {field.metadata!r}"
    repeats = "List[" in text
    complex_type = re.search(r"abc\.(\w+?)Type\b", text)
    if complex_type:
        return complex_type.group(1), repeats
    primitive = re.search(r"\b([A-Z][A-Za-z0-9]+)\(|types\.(Xhtml)\b", text)
    if primitive:
        name = primitive.group(1) or primitive.group(2)
        name = name[0].lower() + name[1:]
        return _PYDANTIC_NAMES.get(name, name), repeats
    if "bool" in text:
        return "boolean", repeats
    raise ValueError(f"no FHIR type in {text}")
