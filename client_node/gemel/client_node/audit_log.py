"""What this node did, line by line: hash-chained, signed, in segments. Codes, hashes and names of stewards; no patient.

A line is durable before the answer that it tells of is sent. A node that cannot write it answers nothing (GEM416).
"""

from __future__ import annotations

import datetime as dt
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from gemel.client_node.home import NodeHome
from gemel.core.canonical import canonical_bytes, sha256_hex
from gemel.core.errors import GemelError
from gemel.core.signing import (
    SignedDocument,
    SigningKey,
    read_signed,
    sign_document,
    signed_by,
    verify_bytes,
)

SCHEMA = "gemel/audit/1"
KIND = "audit-log"
NOTHING_BEFORE = "0" * 64
SEGMENT_BYTES = 1 << 20
FOLDER, ANCHOR = "audit", "anchor.json"
_MOST_TEXT = 300
_MOST_LINE = 1 << 14


class EventKind(StrEnum):
    """What happened."""

    STARTED = "started"
    STOPPED = "stopped"
    ARRIVED = "arrived"  # a study that was not known here
    DECIDED = "decided"  # a steward approved or refused
    ANSWERED = "answered"  # a request, with a status and, when it was refused, a code
    RELEASED = "released"  # a request, with arrays: their hash and how many bytes left
    CONFIGURED = "configured"  # stewards, and what may run
    SUCCEEDED = "succeeded"  # the key of before names the one that signs from here on
    TORN = "torn"  # the last line was not whole, as after a power cut; what it told of was never sent


class AuditEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One line; the canonical JSON of all fields but the last two is what is hashed, and the hash signed.

    `previous` is the hash of the line before, with its signature (`link`). `facts` are what the kind tells.
    """

    seq: int
    kind: EventKind
    previous: str
    written_at: str
    site: str
    public_key: str
    facts: dict[str, str | int]
    sha256: str = ""
    signature: str = ""


class _Anchor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    seq: int
    link: str
    signature: str


class _Payload(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    schema: str
    site: str
    public_key: str
    head: str
    entries: tuple[AuditEntry, ...]


def record(home: NodeHome, kind: EventKind, /, **facts: str | int) -> AuditEntry:
    """Write one line, durably.

    Raises GEM416 when it cannot be written (nothing is left of it then), GEM415 when the end of the log is not what was
    written last.
    """
    return _record(home, home.key, kind, facts)


def succeed(home: NodeHome, *, old: SigningKey, new: SigningKey, document: str) -> None:
    """Let the next key sign from here on, said by the one of before. Idempotent: a rotation may be taken up again.

    `document`: the hash of the signed statement of both keys.
    """
    with _locked(home):
        newest = _tail(home, (old, new))
        if newest is not None and _key_after(newest) == new.public_hex:
            _write_anchor(home, newest, new)
            return
    entry = _record(home, old, EventKind.SUCCEEDED, {"successor": new.public_hex, "document": document})
    with _locked(home):
        _write_anchor(home, entry, new)


def check(home: NodeHome) -> None:
    """Check the end of the log: cheap, before anything is computed. Raises GEM415."""
    with _locked(home):
        _tail(home, (home.key,))


def entries(home: NodeHome) -> tuple[AuditEntry, ...]:
    """The whole log, verified: every hash, link and signature, and that its end is the one written last (GEM415)."""
    with _locked(home):
        found = [_decode(line) for path in _segments(home) for line in _lines(path)[0]]
        _verify(found)
        if found and found[0].seq != 1:
            raise GemelError("GEM415", f"The audit log begins with line {found[0].seq}.")
        newest = found[-1] if found else None
        _check_end(home, newest, (home.key,))
    return tuple(found)


def export(home: NodeHome, *, since: int = 1) -> SignedDocument:
    """The log, from line `since` on, as one document that `verify_audit_log_document` checks offline."""
    found = [entry for entry in entries(home) if entry.seq >= since]
    if not found:
        raise GemelError("GEM415", f"The audit log of {home.config.site} has no line {since}.")
    key = home.key
    payload = _Payload(
        schema=SCHEMA,
        site=home.config.site,
        public_key=key.public_hex,
        head=link(found[-1]),
        entries=tuple(found),
    )
    return sign_document(KIND, msgspec.to_builtins(payload), key, role="node")


def verify_audit_log_document(document: SignedDocument) -> tuple[AuditEntry, ...]:
    """Verify an exported log with nothing but itself, and return its lines.

    Checks the document's and every line's signature, the keys that followed one another, hashes, links and order. Whether
    the first key is the hospital's, and whether the end is the newest, it cannot know.

    Raises:
        GemelError: GEM101-GEM103 not such a document, or changed; GEM415 a line was changed, removed, added or moved.
    """
    document = read_signed(document.to_bytes(), kind=KIND)
    try:
        payload = msgspec.convert(document.payload, _Payload)
    except msgspec.ValidationError as error:
        raise GemelError("GEM101", f"Not an exported audit log: {error}.") from error
    found = payload.entries
    if payload.schema != SCHEMA or not found or payload.head != link(found[-1]):
        raise GemelError(
            "GEM415", "The exported audit log does not end in the line that it names as its head."
        )
    _verify(found)
    if payload.site != found[-1].site or payload.public_key != _key_after(found[-1]):
        raise GemelError("GEM415", "The exported audit log is of another site or key than its lines.")
    if not signed_by(document, payload.public_key):
        raise GemelError("GEM102", "The exported audit log is not signed by the key of its lines.")
    return found


def link(entry: AuditEntry) -> str:
    """What the next line names as `previous`."""
    return sha256_hex(f"{entry.sha256}{entry.signature}".encode())


# --- lines ---------------------------------------------------------------------------------------


def _body(entry: AuditEntry) -> bytes:
    content = msgspec.to_builtins(entry)
    return canonical_bytes({k: v for k, v in content.items() if k not in ("sha256", "signature")})


def _signed_bytes(digest: str) -> bytes:
    return f"{SCHEMA} entry {digest}".encode()


def _decode(line: bytes) -> AuditEntry:
    try:
        return msgspec.json.decode(line, type=AuditEntry)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise GemelError("GEM415", "A line of the audit log cannot be read.") from error


def _verify_alone(entry: AuditEntry) -> None:
    if sha256_hex(_body(entry)) != entry.sha256:
        raise GemelError("GEM415", f"The content of the audit log's line {entry.seq} differs from its hash.")
    if not verify_bytes(entry.public_key, entry.signature, _signed_bytes(entry.sha256)):
        raise GemelError("GEM415", f"The signature on the audit log's line {entry.seq} is wrong.")


def _verify(found: Sequence[AuditEntry]) -> None:
    before: AuditEntry | None = None
    for entry in found:
        _verify_alone(entry)
        if before is None:
            follows = (entry.previous == NOTHING_BEFORE) == (entry.seq == 1)
        else:
            follows = (
                (entry.seq, entry.previous) == (before.seq + 1, link(before))
                and entry.site == before.site
                and entry.public_key == _key_after(before)
            )
        if not follows:
            raise GemelError("GEM415", f"The audit log's line {entry.seq} does not follow the one before it.")
        before = entry


def _key_after(entry: AuditEntry) -> str:
    """The key that signs the next line."""
    return str(entry.facts["successor"]) if entry.kind is EventKind.SUCCEEDED else entry.public_key


# --- files ---------------------------------------------------------------------------------------


def _record(home: NodeHome, key: SigningKey, kind: EventKind, facts: dict[str, str | int]) -> AuditEntry:
    if any(isinstance(value, str) and len(value) > _MOST_TEXT for value in facts.values()):
        facts = {k: v[:_MOST_TEXT] if isinstance(v, str) else v for k, v in facts.items()}
    with _locked(home):
        newest = _tail(home, (key,))
        segments = _segments(home)
        torn = _drop_torn(segments[-1]) if segments else 0
        if torn:
            newest = _append(home, key, newest, EventKind.TORN, {"bytes": torn})
        return _append(home, key, newest, kind, facts)


def _append(
    home: NodeHome, key: SigningKey, newest: AuditEntry | None, kind: EventKind, facts: dict[str, str | int]
) -> AuditEntry:
    entry = AuditEntry(
        seq=1 if newest is None else newest.seq + 1,
        kind=kind,
        previous=NOTHING_BEFORE if newest is None else link(newest),
        written_at=dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
        site=home.config.site,
        public_key=key.public_hex,
        facts=facts,
    )
    digest = sha256_hex(_body(entry))
    entry = msgspec.structs.replace(entry, sha256=digest, signature=key.sign(_signed_bytes(digest)))
    try:
        _write_line(_segment_for(home, entry.seq), canonical_bytes(msgspec.to_builtins(entry)) + b"\n")
        _write_anchor(home, entry, key)
    except OSError as error:
        raise GemelError("GEM416", f"{home.folder / FOLDER}: {error.strerror}.") from error
    return entry


def _write_line(path: Path, line: bytes) -> None:
    new = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        before = os.fstat(descriptor).st_size
        try:
            if os.write(descriptor, line) != len(line):
                raise OSError(28, os.strerror(28))  # the disk is full: a part was written
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)
    if new:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _write_anchor(home: NodeHome, entry: AuditEntry, key: SigningKey) -> None:
    signature = key.sign(_anchor_bytes(home, entry.seq, link(entry)))
    anchor = _Anchor(entry.seq, link(entry), signature)
    path = home.folder / FOLDER / ANCHOR
    temporary = path.with_name(f".{ANCHOR}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(anchor))
        file.flush()
        os.fsync(file.fileno())
    # The folder is not waited for: after a power cut the anchor of before may stand, which is as good.
    os.replace(temporary, path)


def _anchor_bytes(home: NodeHome, seq: int, head: str) -> bytes:
    return f"{SCHEMA} anchor {home.config.site} {seq} {head}".encode()


def _tail(home: NodeHome, keys: Sequence[SigningKey]) -> AuditEntry | None:
    """The newest whole line, checked for itself and against the anchor."""
    newest: AuditEntry | None = None
    for path in reversed(_segments(home)):
        line = _last_line(path)
        if line is not None:
            newest = _decode(line)
            _verify_alone(newest)
            break
    _check_end(home, newest, keys)
    return newest


def _check_end(home: NodeHome, newest: AuditEntry | None, keys: Sequence[SigningKey]) -> None:
    """Refuse (GEM415) a log that does not hold the line that was its newest, or whose key is another."""
    publics = {key.public_hex for key in keys}
    if newest is not None and (newest.site != home.config.site or _key_after(newest) not in publics):
        raise GemelError("GEM415", f"The audit log's line {newest.seq} is of another site or key.")
    path = home.folder / FOLDER / ANCHOR
    try:
        anchor = msgspec.json.decode(path.read_bytes(), type=_Anchor)
    except FileNotFoundError:
        if newest is not None and newest.seq > 1:
            raise GemelError("GEM415", f"{ANCHOR} of the audit log is missing.") from None
        return
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise GemelError("GEM415", f"{ANCHOR} of the audit log cannot be read.") from error
    content = _anchor_bytes(home, anchor.seq, anchor.link)
    if not any(verify_bytes(public, anchor.signature, content) for public in publics):
        raise GemelError("GEM415", f"The signature on {ANCHOR} of the audit log is wrong.")
    # A line is durable before its anchor: after a crash the log may be some lines ahead.
    anchored = newest if newest is None or newest.seq == anchor.seq else _line_at(home, anchor.seq)
    if anchored is None or link(anchored) != anchor.link:
        raise GemelError(
            "GEM415", f"The audit log ended in line {anchor.seq}; that end is not there any more."
        )


def _line_at(home: NodeHome, seq: int) -> AuditEntry | None:
    """The line of that number, or None; for the rare case that it is not the last."""
    for path in reversed(_segments(home)):
        if int(path.stem) <= seq:
            lines = _lines(path)[0]
            position = seq - int(path.stem)
            entry = _decode(lines[position]) if position < len(lines) else None
            if entry is not None:
                _verify_alone(entry)
            return entry if entry is not None and entry.seq == seq else None
    return None


def _last_line(path: Path) -> bytes | None:
    """The last line that ends in a line break; None when there is none."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        # Two lines' worth: the last may be torn.
        file.seek(max(0, size - 2 * _MOST_LINE))
        content = file.read()
    whole, separator, _ = content.rpartition(b"\n")
    return whole.rpartition(b"\n")[2] if separator else None


def _lines(path: Path) -> tuple[list[bytes], int]:
    """The whole lines of a segment, and how many bytes stand behind the last line break."""
    whole, separator, rest = path.read_bytes().rpartition(b"\n")
    return (whole.split(b"\n") if separator else []), len(rest)


def _drop_torn(path: Path) -> int:
    """Cut off what stands behind the last line break; how many bytes that were."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - 2 * _MOST_LINE)
        file.seek(start)
        content = file.read()
        torn = len(content) - (content.rfind(b"\n") + 1)
        if torn:
            file.truncate(size - torn)
            file.flush()
            os.fsync(file.fileno())
    return torn


def _segments(home: NodeHome) -> list[Path]:
    return sorted((home.folder / FOLDER).glob("[0-9]*.jsonl"))


def _segment_for(home: NodeHome, seq: int) -> Path:
    """Where line `seq` goes: the newest segment, or a new one when that is full."""
    segments = _segments(home)
    if segments and segments[-1].stat().st_size < SEGMENT_BYTES:
        return segments[-1]
    return home.folder / FOLDER / f"{seq:010d}.jsonl"


@contextmanager
def _locked(home: NodeHome) -> Iterator[None]:
    folder = home.folder / FOLDER
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        file: Any = (folder / "lock").open("w")
    except OSError as error:
        raise GemelError("GEM416", f"{folder}: {error.strerror}.") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
