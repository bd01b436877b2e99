"""What the coordinator saw of this node's ledger: a ledger that lacks it was rolled back."""

from __future__ import annotations

from pathlib import Path

import msgspec

from gemel.client_node.home import NodeHome
from gemel.core.errors import GemelError
from gemel.core.files import write_durably
from gemel.core.messages import LedgerHead, Request
from gemel.privacy.ledger import Ledger


def require(home: NodeHome, ledger: Ledger, request: Request) -> None:
    """Refuse (GEM309) to answer from a ledger without a head that the coordinator names, or named before.

    The request must be verified. Only what the ledger holds is kept, so that nobody can block a node by a head that
    never was.
    """
    kept = _kept(home)
    if kept is not None:
        ledger.require(seq=kept.seq, sha256=kept.sha256)
    # Under an earlier key too: a node that made a new one goes on with the same ledger.
    heads = [request.anchors[key] for key in {*ledger.keys(), home.key.public_hex} if key in request.anchors]
    if not heads:
        return
    for head in heads:
        ledger.require(seq=head.seq, sha256=head.sha256)
    told = max(heads, key=lambda head: head.seq)
    if kept is None or told.seq > kept.seq:
        write_durably(_path(home), msgspec.json.encode(told))


def _kept(home: NodeHome) -> LedgerHead | None:
    try:
        return msgspec.json.decode(_path(home).read_bytes(), type=LedgerHead)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise GemelError("GEM302", f"{_path(home).name} cannot be read.") from error


def _path(home: NodeHome) -> Path:
    return home.folder / "ledger.anchored.json"
