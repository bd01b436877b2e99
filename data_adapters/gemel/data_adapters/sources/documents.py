"""Documents of JSON over many lines: a Bundle, an array of resources, or one resource, as lines of one resource each.

A small sound document is parsed at once. A large or damaged one is split by its brackets, piece by piece: memory is that
of its largest entry, and what stands before a damage is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec
import numpy as np

from gemel.data_adapters.sources.bundles import (
    NOT_JSON,
    Entry,
    Unpacked,
    add_entry,
    add_marks,
    elements_of,
    may_be_bundle,
    members_of,
    read_entry,
    renamed_urls,
    unpack,
)
from gemel.data_adapters.sources.compression import DamagedError, ReadLimits

SMALL_BYTES = 1 << 25
_HISTORY = re.compile(rb'"type"\s*:\s*"history"')
_ENTRY_KEY = re.compile(rb'"entry"\s*:\s*\Z')
_STEPS = np.zeros(256, np.int8)
_STEPS[[ord("{"), ord("[")]] = 1
_STEPS[[ord("}"), ord("]")]] = -1
# Stands for an entry that was cut out of the rest of its document.
_CUT = b"0"
# No reader takes it for JSON, so the line is counted as rejected.
TOO_LONG = b'{"a line longer than the limit of reading'

Pieces = Callable[[], Iterator[bytes]]


def read_document(pieces: Pieces, *, limits: ReadLimits) -> Iterator[Unpacked]:
    """A document's resources as lines; `pieces` opens its bytes anew. Raises DamagedError after the last sound entry."""
    content = _small(pieces)
    if content is not None:
        try:
            msgspec.json.format(content, indent=-1)
        except NOT_JSON:
            pass
        else:
            yield _parsed(content)
            return
    yield from _split_document(pieces, limits)


def _small(pieces: Pieces) -> bytes | None:
    """The whole content, or None when it is large or damaged."""
    parts, size = [], 0
    try:
        for piece in pieces():
            size += len(piece)
            if size > SMALL_BYTES:
                return None
            parts.append(piece)
    except DamagedError:
        return None
    return b"".join(parts)


def _parsed(content: bytes) -> Unpacked:
    found = Unpacked()
    elements = elements_of(content) if content.lstrip().startswith(b"[") else None
    if elements is None:
        unpack(content, "", found)
    for number, element in enumerate(elements or ()):
        unpack(element, f"[{number}]", found)
    return found


@dataclass
class _Splitter:
    """Cuts the elements out of a document: of its top array, or of the array `entry` of its top object.

    Attributes:
        max_bytes: Of one element, and of the rest.
        rest: The document with each element replaced by 0, so that it can still be checked as JSON.
        depth: Of the brackets, after what was fed.
    """

    max_bytes: int
    rest: bytearray = field(default_factory=bytearray)
    depth: int = 0
    _level: int | None = None  # the depth inside the array whose elements are cut
    _element: bytearray | None = None  # the one that is open
    _too_long: bool = False
    _in_string: bool = False
    _escaped: bool = False

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The elements that end in this piece."""
        at = 0
        for position, before, after in self._brackets(piece):
            if self._element is not None:
                if after == self._level:
                    self._keep(piece[at : position + 1])
                    yield TOO_LONG if self._too_long else bytes(self._element)
                    at, self._element, self._too_long = position + 1, None, False
                    self.rest += _CUT
            elif self._level is not None:
                if after > before:
                    self._keep(piece[at:position])
                    at, self._element = position, bytearray()
                else:
                    self._level = None
            elif after > before and piece[position] == ord("["):
                self._keep(piece[at:position])
                at = position
                if before == 0 or (before == 1 and _ENTRY_KEY.search(self.rest[-64:])):
                    self._level = after
        self._keep(piece[at:])

    def _keep(self, text: bytes) -> None:
        """Append to the element being read, or else to the rest of the document."""
        part = self.rest if self._element is None else self._element
        if len(part) + len(text) <= self.max_bytes:
            part += text
        elif part is self.rest:
            raise DamagedError(f"a document holds more than {self.max_bytes} bytes beside its entries")
        else:
            self._too_long = True

    def _brackets(self, piece: bytes) -> list[tuple[int, int, int]]:
        """Position, depth before and depth after of the brackets outside strings that are not too deep to matter."""
        text = b"_" + piece[1:] if self._escaped else piece
        text = text.replace(b"\\\\", b"__").replace(b'\\"', b"__")
        self._escaped = text.endswith(b"\\")
        octets = np.frombuffer(text, np.uint8)
        places = np.flatnonzero(_STEPS[octets])
        quotes = np.flatnonzero(octets == ord('"'))
        places = places[(np.searchsorted(quotes, places) + self._in_string) % 2 == 0]
        self._in_string = bool((len(quotes) + self._in_string) % 2)
        steps = _STEPS[octets[places]].astype(np.int64)
        after = self.depth + np.cumsum(steps)
        before = after - steps
        if len(after):
            self.depth = int(after[-1])
        shallow = np.minimum(before, after) <= 2
        return list(
            zip(places[shallow].tolist(), before[shallow].tolist(), after[shallow].tolist(), strict=True)
        )


def _split_document(pieces: Pieces, limits: ReadLimits) -> Iterator[Unpacked]:
    renamed: dict[bytes, bytes] = {}
    splitter, damage = _Splitter(limits.max_line_bytes), None
    try:
        for piece in pieces():
            for element in splitter.feed(piece):
                renamed |= renamed_urls([_entry(element)])
        damage = _fault(splitter)
    except DamagedError as error:
        damage = str(error)
    is_bundle = may_be_bundle(splitter.rest)
    if not is_bundle and not splitter.rest.lstrip().startswith(b"["):
        yield Unpacked([TOO_LONG], ["1"])
        if damage is not None:
            raise DamagedError(damage)
        return
    if is_bundle:
        marks = Unpacked()
        add_marks(_meta(bytes(splitter.rest)), "", marks)
        yield marks
    latest: set[tuple[str, str]] | None = set() if _HISTORY.search(splitter.rest) else None
    splitter, number = _Splitter(limits.max_line_bytes), 0
    try:
        for piece in pieces():
            found = Unpacked()
            for element in splitter.feed(piece):
                if is_bundle:
                    entry = _entry(element)
                    add_entry(entry, f"entry[{number}]", found, renamed=renamed, latest=latest)
                else:
                    unpack(element, f"[{number}]", found)
                number += 1
            yield found
    except DamagedError as error:
        damage = damage or str(error)
    if damage is not None:
        raise DamagedError(damage)


def _entry(element: bytes) -> Entry:
    try:
        return read_entry(msgspec.json.format(element, indent=-1))
    except NOT_JSON:
        return Entry(element.replace(b"\n", b" "))


def _meta(rest: bytes) -> msgspec.Raw | None:
    """What a Bundle without its entries says of itself."""
    try:
        return (members_of(msgspec.json.format(rest, indent=-1)) or {}).get("meta")
    except NOT_JSON:
        return None


def _fault(splitter: _Splitter) -> str | None:
    """What is wrong with a document outside its elements, or None."""
    if splitter.depth != 0:
        return "the JSON document ends early"
    try:
        document = msgspec.json.decode(bytes(splitter.rest))
    except NOT_JSON as error:
        return f"the JSON document is malformed outside its entries: {error}"
    elements = document.get("entry", []) if isinstance(document, dict) else document
    if isinstance(elements, list) and any(element != 0 for element in elements):
        return "an entry of the JSON document is no object"
    return None
