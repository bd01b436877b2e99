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
    told = request.anchors.get(home.key.public_hex)
    if told is None:
        return
    ledger.require(seq=told.seq, sha256=told.sha256)
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
