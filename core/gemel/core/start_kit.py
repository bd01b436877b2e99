"""How a hospital joins a federation: the coordinator's signed start kit, and the node's signed request to join.

Neither holds a secret. Whose keys they name, people compare by fingerprint, on the phone.
"""

from __future__ import annotations

import base64
import datetime as dt
import re
import ssl
from typing import TypeVar

import msgspec

from gemel.core.errors import GemelError
from gemel.core.signing import SignedDocument, SigningKey, fingerprint, read_signed, sign_document, signed_by

KIT = "start-kit"
JOIN = "join"
KIT_SCHEMA = "gemel/start-kit/1"
JOIN_SCHEMA = "gemel/join/1"

_SITE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII | re.IGNORECASE)  # as a study names it
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,252}[a-z0-9])?|\[[0-9a-f:.]{2,45}\]", re.ASCII | re.IGNORECASE)
_PUBLIC_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MOST_BYTES = 1 << 16
_MOST_TEXT = 200
# SubjectPublicKeyInfo of a point on P-384, uncompressed: what every transport key starts with.
_P384 = bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004")
_P384_BYTES = 120
_BEGIN, _END = "-----BEGIN PUBLIC KEY-----\n", "\n-----END PUBLIC KEY-----\n"

Document = TypeVar("Document", "StartKit", "JoinRequest")


class StartKit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a hospital needs to reach its coordinator and to know it again.

    Attributes:
        federation: Its name, for people.
        site: The hospital's name in studies.
        address: host:port of the one port that the node connects to.
        service: Where people reach the coordinator, https://…; "" when it has no service.
        ca_certificate: PEM of the one CA that the coordinator's TLS certificate is believed by.
        coordinator_public_key: Hex Ed25519: requests are believed when this key signed them.
        previous_keys: Keys of the coordinator that certificates and requests of before were signed with.
        issued_at, expires_at: ISO 8601 with a time zone. A kit that expired makes no node any more.
    """

    schema: str = KIT_SCHEMA
    federation: str
    site: str
    address: str
    service: str = ""
    ca_certificate: str
    coordinator_public_key: str
    previous_keys: tuple[str, ...] = ()
    issued_at: str
    expires_at: str


class JoinRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A node's public keys, made at the hospital, for the coordinator to admit.

    Attributes:
        node_public_key: Hex Ed25519: what the node signs with. The document is signed by it.
        transport_public_key: PEM, EC P-384: what the node proves to the fleet port on every call.
        coordinator_public_key: The coordinator that it asks.
        software: Name -> version.
        made_at: ISO 8601 with a time zone.
        succeeds: The node's public key of before, when this one replaces it; the document is then signed by both.
    """

    schema: str = JOIN_SCHEMA
    site: str
    node_public_key: str
    transport_public_key: str
    coordinator_public_key: str
    software: dict[str, str] = {}
    made_at: str
    succeeds: str = ""

    @property
    def fingerprint(self) -> str:
        """What the hospital reads out on the phone: of the signing key, which signs for the transport key."""
        return fingerprint(self.node_public_key)


def transport_fingerprint(public_key: str) -> str:
    """A short form of a transport key (PEM) for people to compare, as of signing keys. Raises GEM410."""
    if not _is_transport_key(public_key):
        raise GemelError("GEM410", "Not a transport key: PEM of a point on P-384 is expected.")
    return fingerprint(_der(public_key).hex())


def sign_kit(kit: StartKit, key: SigningKey) -> SignedDocument:
    """Sign a start kit as the coordinator that it names. Raises GEM410 for a kit that `read_kit` would refuse."""
    document = sign_document(KIT, msgspec.to_builtins(kit), key, role="coordinator")
    read_kit(document.to_bytes(), at=_time(kit.issued_at, "issued_at"))
    return document


def sign_join(request: JoinRequest, key: SigningKey, *, previous: SigningKey | None = None) -> SignedDocument:
    """Sign a request to join with the node's new key, and with the one of before when it succeeds one (GEM410)."""
    document = sign_document(JOIN, msgspec.to_builtins(request), key, role="node")
    if previous is not None:
        old = sign_document(JOIN, msgspec.to_builtins(request), previous, role="previous")
        document = msgspec.structs.replace(document, signatures=(*document.signatures, *old.signatures))
    read_join(document.to_bytes())
    return document


def read_kit(content: bytes, *, at: dt.datetime | None = None) -> StartKit:
    """A start kit, checked to its last field.

    `at`: when it is used; now, unless told.

    Raises:
        GemelError: GEM410 not a start kit, or a field is not what it must be; GEM101-GEM103 not signed, or changed;
            GEM411 it expired, or is not valid yet.
    """
    document, kit = _read(content, KIT, StartKit)
    issued, expires = _time(kit.issued_at, "issued_at"), _time(kit.expires_at, "expires_at")
    keys = (kit.coordinator_public_key, *kit.previous_keys)
    _require(
        KIT,
        schema=kit.schema == KIT_SCHEMA,
        federation=_is_text(kit.federation),
        site=bool(_SITE.fullmatch(kit.site)),
        address=_is_address(kit.address),
        service=not kit.service or _is_url(kit.service),
        ca_certificate=_is_certificate(kit.ca_certificate),
        coordinator_public_key=all(_PUBLIC_KEY.fullmatch(key) for key in keys)
        and len(set(keys)) == len(keys),
        expires_at=issued < expires,
        signatures=len(document.signatures) == 1 and signed_by(document, kit.coordinator_public_key),
    )
    now = at or dt.datetime.now(dt.UTC)
    # A day of grace at its start: the hospital's clock may be behind.
    if not issued - dt.timedelta(days=1) <= now <= expires:
        raise GemelError(
            "GEM411",
            f"The kit is valid from {kit.issued_at} to {kit.expires_at}; it is {now.isoformat(timespec='seconds')}.",
        )
    return kit


def read_join(content: bytes) -> JoinRequest:
    """A request to join, checked to its last field and signed by every key that it must be.

    Raises:
        GemelError: GEM410 not a request to join, or a field is not what it must be; GEM101-GEM103 not signed, or
            changed.
    """
    document, request = _read(content, JOIN, JoinRequest)
    _time(request.made_at, "made_at")
    signers = [s.public_key for s in document.signatures]
    expected = [request.node_public_key, *([request.succeeds] if request.succeeds else [])]
    software = request.software.items()
    _require(
        JOIN,
        schema=request.schema == JOIN_SCHEMA,
        site=bool(_SITE.fullmatch(request.site)),
        node_public_key=bool(_PUBLIC_KEY.fullmatch(request.node_public_key)),
        transport_public_key=_is_transport_key(request.transport_public_key),
        coordinator_public_key=bool(_PUBLIC_KEY.fullmatch(request.coordinator_public_key)),
        software=len(software) <= 50 and all(_is_text(k) and _is_text(v) for k, v in software),
        succeeds=not request.succeeds
        or (bool(_PUBLIC_KEY.fullmatch(request.succeeds)) and request.succeeds != request.node_public_key),
        signatures=signers == expected,
    )
    return request


def _read(content: bytes, kind: str, type_: type[Document]) -> tuple[SignedDocument, Document]:
    if len(content) > _MOST_BYTES:
        raise GemelError("GEM410", f"A {kind} of {len(content)} bytes.")
    document = read_signed(content, kind=kind)
    try:
        return document, msgspec.convert(document.payload, type_)
    except msgspec.ValidationError as error:
        raise GemelError("GEM410", f"The {kind} is malformed: {error}.") from error


def _require(kind: str, **fields: bool) -> None:
    wrong = [name for name, holds in fields.items() if not holds]
    if wrong:
        raise GemelError("GEM410", f"The {kind}'s {', '.join(wrong)} is not what it must be.")


def _time(text: str, field: str) -> dt.datetime:
    try:
        parsed = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise GemelError("GEM410", f"{field} is no time: {text[:40]!r}.") from error
    if parsed.tzinfo is None:
        raise GemelError("GEM410", f"{field} has no time zone: {text!r}.")
    return parsed


def _is_text(text: str) -> bool:
    return 0 < len(text.strip()) <= _MOST_TEXT and text.isprintable()


def _is_address(address: str) -> bool:
    host, _, port = address.rpartition(":")
    return bool(_HOST.fullmatch(host)) and port.isascii() and port.isdigit() and 0 < int(port) < 65536


def _is_url(url: str) -> bool:
    host_and_port = url.removeprefix("https://").removesuffix("/")
    return url.startswith("https://") and (bool(_HOST.fullmatch(host_and_port)) or _is_address(host_and_port))


def _is_certificate(pem: str) -> bool:
    if pem.count("-----BEGIN") != 1 or not pem.startswith("-----BEGIN CERTIFICATE-----\n"):
        return False  # a private key beside it would be a secret in a kit
    try:
        ssl.create_default_context(cadata=pem)
    except (ssl.SSLError, ValueError):
        return False
    return True


def _is_transport_key(pem: str) -> bool:
    try:
        content = _der(pem)
    except ValueError:
        return False
    return len(content) == _P384_BYTES and content.startswith(_P384)


def _der(pem: str) -> bytes:
    if not (pem.startswith(_BEGIN) and pem.endswith(_END)):
        raise ValueError("not PEM")
    return base64.b64decode(pem[len(_BEGIN) : -len(_END)].replace("\n", ""), validate=True)
