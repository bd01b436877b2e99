"""What of an answer goes into the logs: the audit log, which must hold it before it is sent, and the structured one."""

from __future__ import annotations

import logging
import re

from gemel.client_node import approvals, audit_log, event_log
from gemel.client_node.audit_log import EventKind
from gemel.client_node.home import NodeHome
from gemel.core.files import write_durably
from gemel.core.messages import HELLO, Envelope, Reply, Status, read_reply
from gemel.core.signing import SignedDocument, fingerprint

_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MOST_TEXT = 80
_LEVELS = {Status.REFUSED: logging.WARNING, Status.FAILED: logging.ERROR}


def note_arrival(home: NodeHome, study: SignedDocument) -> None:
    """A study is here for the first time. Raises GEM415 or GEM416."""
    signers = ",".join(fingerprint(signature.public_key) for signature in study.signatures[:4])
    audit_log.record(home, EventKind.ARRIVED, study=study.payload_sha256, signed_by=signers)
    event_log.write(home, "arrived", study=study.payload_sha256)


def note_answer(home: NodeHome, answer: Envelope, *, seconds: float) -> None:
    """An answer that is about to leave. Raises GEM415 or GEM416: then it must not."""
    reply, _ = read_reply(answer.document)
    told: dict[str, str | int] = {
        "study": _short(reply.study_sha256),
        "task": _short(reply.task),
        "request": reply.request_sha256,
        "status": reply.status.value,
    }
    if reply.code:
        told["code"] = reply.code
    if reply.status is Status.RELEASED:
        told |= {"payload": reply.payload_sha256, "bytes": len(answer.payload)}
        audit_log.record(home, EventKind.RELEASED, **told)
    elif _is_news(home, reply):
        audit_log.record(home, EventKind.ANSWERED, **told)
    level = _LEVELS.get(reply.status, logging.INFO)
    event_log.write(home, "answered", level=level, seconds=round(seconds, 3), **told)


def _is_news(home: NodeHome, reply: Reply) -> bool:
    """False for a hello that is answered as the one before: a waiting study says hello every few seconds."""
    if reply.task != HELLO or not _HASH.fullmatch(reply.study_sha256):
        return True
    if not approvals.is_proposed(home, reply.study_sha256):
        return True  # not known here: whoever sends it makes no file here
    path = home.folder / "studies" / f"{reply.study_sha256}.told"
    told = f"{reply.status.value} {reply.code}".encode()
    if path.exists() and path.read_bytes() == told:
        return False
    write_durably(path, told)
    return True


def _short(told: str) -> str:
    """What a request said, of which nothing may be true: no longer than a hash, and in one line."""
    return "".join(c if c.isprintable() else "?" for c in told[:_MOST_TEXT])
