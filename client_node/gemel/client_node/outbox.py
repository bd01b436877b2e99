"""Releases, kept before they are sent: the same request is answered twice with the same bytes.

A reservation in the ledger pays for one draw of noise. Whatever the node sends is first made durable here, so a
node that dies after computing sends what it computed, and one that dies before has released nothing.
"""

from __future__ import annotations

from gemel.client_node.home import NodeHome
from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.core.files import write_durably
from gemel.core.messages import Envelope, read_reply
from gemel.core.signing import signed_by


def put(home: NodeHome, request_sha256: str, envelope: Envelope) -> None:
    """Make a release durable; its document's appearance is the commit."""
    folder = home.folder / "outbox"
    write_durably(folder / f"{request_sha256}.safetensors", envelope.payload)
    write_durably(folder / f"{request_sha256}.json", envelope.document)


def get(home: NodeHome, request_sha256: str) -> Envelope | None:
    """The release that this node made for this very request, or None. Raises GEM103 when it is damaged."""
    folder = home.folder / "outbox"
    document = folder / f"{request_sha256}.json"
    if not document.exists():
        return None
    envelope = Envelope(
        document=document.read_bytes(),
        payload=(folder / f"{request_sha256}.safetensors").read_bytes(),
    )
    reply, signed = read_reply(envelope.document)
    ours = signed_by(signed, home.key.public_hex) and reply.request_sha256 == request_sha256
    if not ours or reply.payload_sha256 != sha256_hex(envelope.payload):
        raise GemelError("GEM103", f"The stored release {request_sha256} is damaged.")
    return envelope
