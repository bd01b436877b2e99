"""The security label of synthetic records on lines of which facts are not made: they too may not train."""

from __future__ import annotations

from collections.abc import Collection, Container

import msgspec

from gemel.data_adapters.reading.reader import ReadBlock
from gemel.data_adapters.sources.files import Block

LABEL = "HTEST"
# Lines in which a letter of the label may be written as an escape are looked at too.
_MARKS = (LABEL.encode(), b"\\u00")


class _Coding(msgspec.Struct):
    code: object = None


class _Meta(msgspec.Struct):
    security: list[_Coding | None] | None = None


class _Labelled(msgspec.Struct):
    resourceType: str
    meta: _Meta | None = None
    subject: object = None
    patient: object = None


_decode = msgspec.json.Decoder(_Labelled).decode


def count_labelled(
    block: Block, read: ReadBlock, *, besides: Collection[str], withheld: Container[object]
) -> int:
    """Accepted lines with the label, but those of the types `besides` and of withheld patients.

    A block without other types is not looked at, one without the label's letters is not parsed.
    """
    if read.types.keys() <= set(besides) or not any(mark in block.data for mark in _MARKS):
        return 0
    at_fault = {fault.line for fault in read.faults}
    return sum(
        _is_labelled(line, besides, withheld)
        for number, line in enumerate(block.lines)
        if number not in at_fault and any(mark in line for mark in _MARKS)
    )


def _is_labelled(line: bytes, besides: Collection[str], withheld: Container[object]) -> bool:
    try:
        said = _decode(line)
    except msgspec.ValidationError:  # Labels of another form are none.
        return False
    if said.resourceType in besides or said.meta is None:
        return False
    who = said.subject or said.patient
    reference = str(who.get("reference") or "") if isinstance(who, dict) else ""
    patient = reference.partition("/_history/")[0].rpartition("/")[2].removeprefix("urn:uuid:")
    if patient and patient in withheld:
        return False
    return any(label is not None and label.code == LABEL for label in said.meta.security or ())
