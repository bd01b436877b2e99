"""What keeper, nursery, worker and child say to each other: typed documents, and arrays as safetensors bytes. No pickle."""

from __future__ import annotations

import os
import select
import socket
import time
from typing import TypeVar

import msgspec

from gemel.client_node.worker.limits import Limits

_LENGTH_BYTES = 8
_AT_ONCE = 1 << 20
MOST_DOCUMENT_BYTES = 1 << 24

Document = TypeVar("Document")


class Start(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="start"):
    """Keeper to nursery: fork a worker that maps a data set; its socket comes with this."""

    number: int
    home: str
    dataset: str
    snapshot: str
    limits: Limits


class End(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="end"):
    """Keeper to nursery: kill a worker and what it forked."""

    number: int


class Ready(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="ready"):
    """Worker to keeper: the data set is mapped; what shuts the worker in. `fault`: why it cannot work, else ""."""

    network: str = ""
    files: str = ""
    user: str = ""
    fault: str = ""


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="order"):
    """Keeper to worker: one task. The pipe for its result comes with this, its inputs follow (safetensors)."""

    task: str
    study: msgspec.Raw
    programme: str
    programme_version: str
    noisy_patients: float
    inputs_bytes: int


class Ended(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="ended"):
    """Worker to keeper: the child of a task ended; its exit code, negative for a signal."""

    status: int


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="outcome"):
    """Child to keeper, first in the result's pipe; `result_bytes` of safetensors follow when there is no code."""

    code: str = ""
    why: str = ""
    result_bytes: int = 0


class Broken(Exception):
    """The other side ended, took too long, or sent something else. Says which; for the hospital's log."""


def write_document(connection: socket.socket, document: msgspec.Struct, *descriptors: int) -> None:
    """Send a document, with open files. Raises Broken."""
    content = msgspec.json.encode(document)
    frame = len(content).to_bytes(_LENGTH_BYTES, "big") + content
    try:
        sent = socket.send_fds(connection, [frame], list(descriptors)) if descriptors else 0
        connection.sendall(frame[sent:])
    except OSError as error:
        raise Broken(f"cannot send: {error}") from error


def read_document(
    connection: socket.socket, kind: type[Document], *, descriptors: int = 0, deadline: float | None = None
) -> tuple[Document, list[int]]:
    """The next document of a kind, and at most so many open files. Raises Broken."""
    _wait(connection.fileno(), deadline)
    try:
        first, files, _, _ = socket.recv_fds(connection, _LENGTH_BYTES, descriptors)
    except OSError as error:
        raise Broken(f"cannot receive: {error}") from error
    try:
        head = first + _read(connection.fileno(), _LENGTH_BYTES - len(first), deadline)
        size = int.from_bytes(head, "big")
        if size > MOST_DOCUMENT_BYTES:
            raise Broken(f"a document of {size} bytes")
        return _decode(_read(connection.fileno(), size, deadline), kind), files
    except Broken:
        for descriptor in files:
            os.close(descriptor)
        raise


def write_bytes(descriptor: int, *parts: bytes) -> None:
    """Write all of the parts. Raises Broken."""
    for part in parts:
        view = memoryview(part)
        while view:
            try:
                view = view[os.write(descriptor, view[: 16 * _AT_ONCE]) :]
            except OSError as error:
                raise Broken(f"cannot write: {error}") from error


def write_outcome(descriptor: int, outcome: Outcome, result: bytes = b"") -> None:
    """Write a task's result into its pipe. Raises Broken."""
    content = msgspec.json.encode(outcome)
    write_bytes(descriptor, len(content).to_bytes(_LENGTH_BYTES, "big"), content, result)


def read_outcome(descriptor: int, *, deadline: float, most_bytes: int) -> tuple[Outcome, bytearray]:
    """A task's result from its pipe, to its very end. Raises Broken."""
    size = int.from_bytes(_read(descriptor, _LENGTH_BYTES, deadline), "big")
    if size > MOST_DOCUMENT_BYTES:
        raise Broken(f"an outcome of {size} bytes")
    outcome = _decode(_read(descriptor, size, deadline), Outcome)
    if not 0 <= outcome.result_bytes <= most_bytes:
        raise Broken(f"a result of {outcome.result_bytes} bytes")
    result = _read(descriptor, outcome.result_bytes, deadline)
    _wait(descriptor, deadline)
    if os.read(descriptor, 1):
        raise Broken("more than a result")
    return outcome, result


def read_bytes(descriptor: int, size: int, *, deadline: float | None = None) -> bytearray:
    """Exactly so many bytes. Raises Broken."""
    return _read(descriptor, size, deadline)


def _decode(content: bytearray, kind: type[Document]) -> Document:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Broken(f"not a document: {error}") from error


def _read(descriptor: int, size: int, deadline: float | None) -> bytearray:
    content = bytearray(size)
    view = memoryview(content)
    while view:
        _wait(descriptor, deadline)
        try:
            got = os.readv(descriptor, [view[:_AT_ONCE]])
        except OSError as error:
            raise Broken(f"cannot read: {error}") from error
        if got == 0:
            raise Broken(f"ended {len(view)} bytes early")
        view = view[got:]
    return content


def _wait(descriptor: int, deadline: float | None) -> None:
    """Wait until there is something to read, or the end."""
    if deadline is None:
        return
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Broken("out of time")
        if waiting.poll(min(left, 60.0) * 1000):
            return
