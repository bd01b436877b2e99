"""What is wrong with a single line, and what it holds: the one source of the texts of faults."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from gemel.data_adapters.reading.element_types import is_resource
from gemel.data_adapters.reading.intake import Fault, line_fault, not_json, type_fault
from gemel.data_adapters.reading.json_line import NOT_JSON
from gemel.data_adapters.reading.shape import Shape

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")


class _Meta(msgspec.Struct):
    """FHIR Meta, as far as every resource's is read."""

    versionId: str | None = None
    lastUpdated: str | None = None


class _Head(msgspec.Struct):
    """What is read of every resource, whatever its type."""

    resourceType: str
    id: str | None = None
    meta: _Meta | None = None


_decode_head = msgspec.json.Decoder(_Head).decode


class Accepted(NamedTuple):
    """A line's resource type and, where that has a shape, its row of `Shape.row_type()`."""

    resource_type: str
    row: dict[str, Any] | None


class Rejected(NamedTuple):
    """What is wrong with a line; the resource type is None where it is not known."""

    resource_type: str | None
    fault: Fault


class LineRules:
    """Judges lines by what every resource needs, and by the shape of its type."""

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self._checks = {name: msgspec.json.Decoder(shape.line_type()) for name, shape in shapes.items()}
        self._rows = {name: msgspec.json.Decoder(shape.row_type()) for name, shape in shapes.items()}

    def judge(self, content: bytes) -> Accepted | Rejected:
        """Judge a line (without its end)."""
        try:
            content.decode("utf-8")
        except UnicodeDecodeError as error:
            return Rejected(None, Fault("GEM201", "$", f"not UTF-8 at byte {error.start}"))
        try:
            head = _decode_head(content)
        except msgspec.ValidationError as error:
            return Rejected(None, type_fault(error))
        except NOT_JSON as error:
            return Rejected(None, not_json(error))
        fault = _head_fault(head) or line_fault(content) or _id_fault(head.id)
        if fault is not None:
            # A type that is none is a text that may be anything: it is not repeated.
            return Rejected(head.resourceType if is_resource(head.resourceType) else None, fault)
        name = head.resourceType
        if name not in self._checks:
            return Accepted(name, None)
        try:
            self._checks[name].decode(content)
        except msgspec.ValidationError as error:
            return Rejected(name, type_fault(error))
        return Accepted(name, self._rows[name].decode(content))


def _head_fault(head: _Head) -> Fault | None:
    if head.resourceType == "Bundle":
        return Fault("GEM215", "$.entry", "a Bundle: write each of its resources on a line of its own")
    if not is_resource(head.resourceType):
        return Fault("GEM214", "$.resourceType", "no resource type of FHIR R4")
    return None


def _id_fault(key: str | None) -> Fault | None:
    if not key:
        return Fault("GEM207", "$.id", "the resource has no id")
    if _ID.fullmatch(key) is None:
        return Fault("GEM214", "$.id", "a FHIR id is 1 to 64 letters, digits, '-' and '.'")
    return None
