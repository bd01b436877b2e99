"""What says of a line that its record is synthetic, besides the label that is read with the facts: it too may not train.

The security label of test data on lines of which facts are not made; on every line the marks of our own virtual cohorts, of which each
alone is enough: their tag, the identifier of a virtual patient, and the Provenance of a cohort.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator

import msgspec

from gemel.data_adapters.reading.reader import ReadBlock
from gemel.data_adapters.sources.bundles import LABEL, OWN_SYSTEM
from gemel.data_adapters.sources.files import Block

# Lines in which a letter of these may be written as an escape are looked at too.
_ESCAPE = b"\\u00"
_MARKS = (LABEL.encode(), OWN_SYSTEM.encode(), _ESCAPE)
_OWN_MARKS = (OWN_SYSTEM.encode(), _ESCAPE)


class _Coding(msgspec.Struct):
    system: object = None
    code: object = None


class _Meta(msgspec.Struct):
    security: list[_Coding | None] | None = None
    tag: list[_Coding | None] | None = None


class _Labelled(msgspec.Struct):
    resourceType: str
    id: object = None
    meta: _Meta | None = None
    subject: object = None
    patient: object = None
    identifier: object = None
    entity: object = None


_decode = msgspec.json.Decoder(_Labelled).decode


def count_labelled(
    block: Block, read: ReadBlock, *, besides: Collection[str], withheld: Container[object]
) -> int:
    """Accepted lines that say that they are synthetic, but those of withheld patients.

    Of the types `besides` the security label is counted elsewhere, and only our own marks are here. A block without any mark's letters is not looked at, and neither is a line.
    """
    marks = _OWN_MARKS if read.types.keys() <= set(besides) else _MARKS
    if not any(mark in block.data for mark in marks):
        return 0
    at_fault = {fault.line for fault in read.faults}
    return sum(
        _is_synthetic(line, besides, withheld)
        for number, line in enumerate(block.lines)
        if number not in at_fault and any(mark in line for mark in marks)
    )


def _is_synthetic(line: bytes, besides: Collection[str], withheld: Container[object]) -> bool:
    try:
        said = _decode(line)
    except msgspec.ValidationError:  # Labels of another form are none.
        return False
    patient = _patient(said)
    if patient and patient in withheld:
        return False
    labels = () if said.meta is None else said.meta.security or ()
    if any(label is not None and label.code == LABEL for label in labels):
        return said.resourceType not in besides
    return any(isinstance(system, str) and system.startswith(OWN_SYSTEM) for system in _systems(said))


def _patient(said: _Labelled) -> object:
    """Whom a line is about: an id, or None."""
    if said.resourceType == "Patient":
        return said.id
    who = said.subject or said.patient
    reference = str(who.get("reference") or "") if isinstance(who, dict) else ""
    return reference.partition("/_history/")[0].rpartition("/")[2].removeprefix("urn:uuid:") or None


def _systems(said: _Labelled) -> Iterator[object]:
    """Where a virtual cohort says what it is: systems of tags, of identifiers, and of what a Provenance names."""
    yield from (tag.system for tag in (said.meta and said.meta.tag) or () if tag is not None)
    named = said.identifier if isinstance(said.identifier, list) else [said.identifier]
    for entity in said.entity if isinstance(said.entity, list) else ():
        what = entity.get("what") if isinstance(entity, dict) else None
        named.append(what.get("identifier") if isinstance(what, dict) else None)
    yield from (identifier.get("system") for identifier in named if isinstance(identifier, dict))
