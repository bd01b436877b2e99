"""Bundles taken apart: each entry's resource becomes a line of its own, and references within the Bundle still resolve.

A reference to an entry by its `fullUrl` (urn:uuid:…) is rewritten to Type/id where the id is not that uuid; a resource
without an id takes the one of its fullUrl. An entry that holds no resource stays as a line, so that it is rejected and
counted; one that asks for a deletion is none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

_MAX_NESTING = 8
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_DELETED = re.compile(r"(?:.*/)?([A-Za-z]{1,64})/([A-Za-z0-9\-.]{1,64})")
# The security label of test data, and the systems of what virtual cohorts say of themselves.
LABEL, OWN_SYSTEM = "HTEST", "urn:gemel:"
_URN_REFERENCE = re.compile(rb'"reference":"(urn:[^"\\]+)"')
_LOOKS_LIKE_A_BUNDLE = re.compile(rb'"resourceType"\s*:\s*"Bundle"')
NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode
_text = msgspec.json.Decoder(str).decode


class Head(msgspec.Struct):
    """What a resource says it is."""

    resourceType: str
    id: str | None = None


class _Coding(msgspec.Struct):
    system: object = None
    code: object = None


class _Meta(msgspec.Struct):
    security: tuple[_Coding, ...] = ()
    tag: tuple[_Coding, ...] = ()


class _Request(msgspec.Struct):
    method: str | None = None
    url: str | None = None


_head = msgspec.json.Decoder(Head).decode
_meta = msgspec.json.Decoder(_Meta).decode
_request = msgspec.json.Decoder(_Request).decode


@dataclass(frozen=True)
class Unpacked:
    """What came out of Bundles: lines with their places, and what they ask to delete as (type, id)."""

    lines: list[bytes] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    deleted: list[tuple[str, str]] = field(default_factory=list)

    def add(self, line: bytes, place: str) -> None:
        """Add a line."""
        self.lines.append(line)
        self.places.append(place)


@dataclass(frozen=True)
class Entry:
    """One entry of a Bundle: its resource (minified), or the whole entry when it has none; or a deletion."""

    content: bytes
    full_url: str | None = None
    deletes: tuple[str, str] | None = None
    has_resource: bool = False
    head: Head | None = None  # of the resource, with the id that it has in `content`


def may_be_bundle(head: bytes | bytearray) -> bool:
    """Whether text looks like a Bundle (it may be something else, that only mentions one)."""
    return _LOOKS_LIKE_A_BUNDLE.search(head) is not None


def unpack(content: bytes, place: str, into: Unpacked, *, depth: int = 0) -> None:
    """Take a line or document apart; one that is no Bundle, or cannot be taken apart safely, stays one line."""
    try:
        small = msgspec.json.format(content, indent=-1)
    except NOT_JSON:
        into.add(content.replace(b"\n", b" "), place)
        return
    members = members_of(small) if depth <= _MAX_NESTING and may_be_bundle(small) else None
    entries = _entries(members) if members is not None else None
    if members is None or entries is None:
        into.add(small, place)
        return
    add_marks(members.get("meta"), place, into)
    renamed = renamed_urls(entries)
    latest: set[tuple[str, str]] | None = set() if _word(members.get("type")) == "history" else None
    for number, entry in enumerate(entries):
        add_entry(
            entry, f"{place} entry[{number}]".strip(), into, renamed=renamed, latest=latest, depth=depth
        )


def add_marks(meta: msgspec.Raw | None, place: str, into: Unpacked) -> None:
    """Add a line for what a Bundle says of itself, where that is that its resources are synthetic.

    It is one of a resource that nothing else is made of: a line of a Bundle would be rejected.
    """
    if meta is not None and _is_marked(bytes(meta)):
        into.add(b'{"resourceType":"Basic","id":"bundle","meta":' + bytes(meta) + b"}", place)


def _is_marked(meta: bytes) -> bool:
    try:
        said = _meta(meta)
    except NOT_JSON:
        return False
    return any(label.code == LABEL for label in said.security) or any(
        isinstance(tag.system, str) and tag.system.startswith(OWN_SYSTEM) for tag in said.tag
    )


def _entries(members: Mapping[str, msgspec.Raw]) -> list[Entry] | None:
    """The entries of a Bundle, or None for what is none."""
    if _word(members.get("resourceType")) != "Bundle":
        return None
    raw = members.get("entry")
    try:
        return [read_entry(bytes(entry)) for entry in _elements(raw)] if raw is not None else []
    except NOT_JSON:
        return None


def add_entry(
    entry: Entry,
    place: str,
    into: Unpacked,
    *,
    renamed: Mapping[bytes, bytes],
    latest: set[tuple[str, str]] | None = None,
    depth: int = 0,
) -> None:
    """Add an entry's resource, or its deletion; in a history (newest first) a deletion counts if nothing newer is there."""
    if entry.deletes is not None:
        if latest is None or entry.deletes not in latest:
            into.deleted.append(entry.deletes)
            if latest is not None:
                latest.add(entry.deletes)
        return
    content = entry.content
    if not entry.has_resource:
        into.add(content, place)
        return
    if entry.head is not None and entry.head.resourceType == "Bundle":
        unpack(content, place, into, depth=depth + 1)
        return
    if latest is not None and entry.head is not None and entry.head.id:
        latest.add((entry.head.resourceType, entry.head.id))
    if renamed and b'"urn:' in content:
        content = _URN_REFERENCE.sub(
            lambda found: b'"reference":"' + renamed.get(found.group(1), found.group(1)) + b'"', content
        )
    into.add(content, place)


def read_entry(content: bytes) -> Entry:
    """Read a minified entry. Its resource gets the id of its fullUrl when it has none (a POST of a transaction)."""
    members = members_of(content)
    if members is None:
        return Entry(content)
    full_url = _word(members.get("fullUrl"))
    if (raw := members.get("resource")) is None:
        return Entry(content, full_url, deletes=_deletion(members.get("request")))
    resource = bytes(raw)
    head = head_of(resource)
    if head is not None and head.id is None and full_url:
        key = full_url.removeprefix("urn:uuid:").rpartition("/")[2]
        if _ID.fullmatch(key):
            resource = b'{"id":"' + key.encode() + b'",' + resource[1:]
            head.id = key
    return Entry(resource, full_url, has_resource=True, head=head)


def renamed_urls(entries: list[Entry]) -> dict[bytes, bytes]:
    """Type/id by fullUrl, for the resources whose fullUrl is a URN that is not their id."""
    renamed: dict[bytes, bytes] = {}
    for entry in entries:
        url = entry.full_url
        if url is None or not url.startswith("urn:") or not entry.has_resource:
            continue
        head = entry.head
        if head is not None and head.id and _ID.fullmatch(head.id) and url != f"urn:uuid:{head.id}":
            renamed[url.encode()] = f"{head.resourceType}/{head.id}".encode()
    return renamed


def members_of(small: bytes) -> dict[str, msgspec.Raw] | None:
    """The members of a minified object. None when it is no object, or has a key twice: one would be lost in silence."""
    try:
        members = _members(small)
    except NOT_JSON:
        return None
    size = (
        sum(len(key.encode()) + memoryview(value).nbytes for key, value in members.items())
        + 4 * len(members)
        + 1
    )
    return members if size == len(small) or small == b"{}" else None


def elements_of(content: bytes) -> list[bytes] | None:
    """The elements of a JSON array, minified; None when it is none."""
    try:
        return [bytes(element) for element in _elements(msgspec.json.format(content, indent=-1))]
    except NOT_JSON:
        return None


def _deletion(request: msgspec.Raw | None) -> tuple[str, str] | None:
    """What a request deletes, as (type, id); a conditional deletion names nothing that can be looked up."""
    if request is None:
        return None
    try:
        wish = _request(request)
    except NOT_JSON:
        return None
    found = _DELETED.fullmatch(wish.url or "") if wish.method == "DELETE" else None
    return (found.group(1), found.group(2)) if found is not None else None


def head_of(content: bytes) -> Head | None:
    """Type and id of a resource, or None for what is no resource."""
    try:
        return _head(content)
    except NOT_JSON:
        return None


def _word(raw: msgspec.Raw | None) -> str | None:
    try:
        return _text(raw) if raw is not None else None
    except NOT_JSON:
        return None
