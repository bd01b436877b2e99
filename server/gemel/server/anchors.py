"""The newest head that the coordinator saw of each hospital's ledger: what a rolled-back ledger lacks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gemel.core.canonical import canonical_bytes
from gemel.core.files import write_durably
from gemel.core.messages import LedgerHead, Reply


@dataclass(frozen=True)
class Anchors:
    """A file `anchors.json` in the coordinator's home: by a node's public key, the newest entry of its ledger."""

    path: Path

    def all(self) -> dict[str, LedgerHead]:
        """Every head, by public key."""
        if not self.path.exists():
            return {}
        return msgspec.convert(json.loads(self.path.read_bytes()), dict[str, LedgerHead])

    def note(self, public_key: str, reply: Reply) -> None:
        """Keep what a verified reply says, if it is newer than what is kept. An outbox's replies may be old."""
        heads = self.all()
        known = heads.get(public_key)
        if known is None or reply.ledger_seq > known.seq:
            heads[public_key] = LedgerHead(seq=reply.ledger_seq, sha256=reply.ledger_head)
            write_durably(self.path, canonical_bytes(msgspec.to_builtins(heads)))
