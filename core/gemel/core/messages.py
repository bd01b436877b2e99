"""What coordinator and node say to each other: a signed request, a signed reply, typed arrays beside them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import msgspec

from gemel.core.error_catalogue import CATALOGUE
from gemel.core.errors import GemelError
from gemel.core.signing import SignedDocument, SigningKey, read_signed, sign_document

HELLO = "hello"
# Of the messages between coordinator and node. A hello says it first: peers that do not speak the same say so, and no more.
PROTOCOL = 1


class LedgerHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The newest entry of a node's ledger as somebody saw it: its number and its hash."""

    seq: int
    sha256: str


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One task of one study, with the hash of the arrays that go in (of no bytes when there are none).

    `phase`, `attempt`: of a masked release, which step of its aggregation is asked, and in which attempt
    (`docs/secure_aggregation.md`).
    `anchors`: what the coordinator last saw of the ledgers, by the nodes' public keys; `protocol`, `software`: what it
    speaks and runs; `run`: which start of the study by people this is (any text, the same when it goes on after a
    crash), by which a node counts runs. Only a `hello` carries them: the request for a task is the same, byte for byte, however often it
    is sent, and by whatever version.
    """

    study_sha256: str
    task: str
    inputs_sha256: str
    phase: str = ""
    attempt: int = 0
    anchors: dict[str, LedgerHead] = {}
    protocol: int = 0
    software: dict[str, str] = {}
    run: str = ""


class Status(StrEnum):
    """How a node answers."""

    PENDING = "pending"  # the study waits for a steward
    APPROVED = "approved"
    RELEASED = "released"
    REFUSED = "refused"  # by policy, with a code of the closed list
    FAILED = "failed"  # by a fault, with a code of the closed list


class Reply(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A node's answer. Nothing here depends on patients except the arrays that `payload_sha256` names.

    The answer to a hello tells `protocol` and `software` (name -> version) too.
    """

    site: str
    study_sha256: str
    task: str
    request_sha256: str
    status: Status
    code: str  # "" or a key of the error catalogue
    payload_sha256: str  # "" when nothing was released
    epsilon_spent: float  # of one who were part of all that the hospital's ledger has reserved
    ledger_seq: int  # the number and hash of its newest entry
    ledger_head: str
    protocol: int = 0
    software: dict[str, str] = {}


@dataclass(frozen=True)
class Envelope:
    """The bytes that travel in either direction: a signed document, the signed study, safetensors."""

    document: bytes
    study: bytes = b""
    payload: bytes = b""


Message = TypeVar("Message", Request, Reply)


def sign_request(request: Request, key: SigningKey) -> SignedDocument:
    """Sign a request as the coordinator."""
    return sign_document("request", _payload(request), key, role="coordinator")


def sign_reply(reply: Reply, key: SigningKey) -> SignedDocument:
    """Sign a reply as the node."""
    return sign_document("reply", _payload(reply), key, role="node")


def read_request(content: bytes) -> tuple[Request, SignedDocument]:
    """Parse and verify a request. Raises GEM101, GEM102 or GEM103; GEM409 for a hello in another protocol."""
    document = read_signed(content, kind="request")
    return parse_request(document), document


def parse_request(document: SignedDocument) -> Request:
    """The request inside a verified document. Raises GEM101, or GEM409 for a hello in another protocol."""
    require_protocol(document)
    return _convert(document, Request)


def read_reply(content: bytes) -> tuple[Reply, SignedDocument]:
    """Parse and verify a reply. Raises GEM101 (also for a code outside the closed list), GEM102 or GEM103.

    GEM409 when it is the answer to a hello, in another protocol.
    """
    document = read_signed(content, kind="reply")
    require_protocol(document)
    reply = _convert(document, Reply)
    if reply.code and reply.code not in CATALOGUE:
        raise GemelError("GEM101", "The reply's code is not in the closed list.")
    return reply, document


def signature_in(content: bytes) -> str:
    """The signature in a document of one signer that was verified before."""
    return msgspec.json.decode(content, type=SignedDocument).signatures[0].value


def require_protocol(document: SignedDocument) -> None:
    """Refuse (GEM409) a message that says another protocol than ours, before its fields are read: they may be others.

    Which side is the older one is in the message of the error, and follows from the two numbers.
    """
    told = document.payload.get("protocol", 0)
    if not isinstance(told, int) or told in (0, PROTOCOL):
        return
    older = "this side" if told > PROTOCOL else "the peer"
    raise GemelError(
        "GEM409", f"The {document.kind} speaks protocol {told}, this side {PROTOCOL}: {older} is too old."
    )


def _payload(message: Request | Reply) -> dict[str, Any]:
    payload: dict[str, Any] = msgspec.to_builtins(message)
    return payload


def _convert(document: SignedDocument, kind: type[Message]) -> Message:
    try:
        return msgspec.convert(document.payload, kind)
    except msgspec.ValidationError as error:
        raise GemelError("GEM101", f"The {document.kind} is malformed: {error}.") from error
