"""How a node's connection to its coordinator stands: `connection.json` in its home, written by the process that keeps it.

It tells the hospital's own people and programs; nothing of it leaves.
"""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path

import msgspec

from gemel.core.files import write_durably

_AT_MOST_EVERY_S = 30.0


class Standing(StrEnum):
    """What the node's process last met."""

    CONNECTED = "connected"
    UNREACHABLE = "unreachable"  # no answer: network, coordinator down
    REFUSED = "refused"  # an answer, and it is no: key unknown or revoked, or a wrong clock
    STOPPED = "stopped"  # ended in order


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """One reading.

    Attributes:
        code: GEM425 or GEM426 when refused, else "".
        why: For the log's reader: a kind of network error, or what Flower answered; never what peers wrote.
        since, at: Unix seconds: since when it stands so, and when that was last seen.
        node_id: Flower's number for this node; 0 before the first connection.
        clock_ahead_s: This machine's clock against the coordinator's, by its last answer.
    """

    standing: Standing
    code: str = ""
    why: str = ""
    since: float = 0.0
    at: float = 0.0
    node_id: int = 0
    clock_ahead_s: float = 0.0


def read_connection(folder: Path) -> Connection | None:
    """The last reading in a node's home; None when no process ever wrote one that can be read."""
    try:
        return msgspec.json.decode((folder / "connection.json").read_bytes(), type=Connection)
    except (OSError, msgspec.DecodeError):
        return None


class ConnectionNote:
    """Writes `connection.json`: at once when something changed, else every half minute."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "connection.json"
        last = read_connection(folder)
        self._last = Connection(standing=Standing.STOPPED) if last is None else last
        self._written = False

    @property
    def node_id(self) -> int:
        """Flower's number for this node, as last told; 0 when it was never online."""
        return self._last.node_id

    def write(
        self,
        standing: Standing,
        *,
        code: str = "",
        why: str = "",
        node_id: int = 0,
        clock_ahead_s: float = 0.0,
    ) -> bool:
        """Note how it stands now; True when that is news. A disk that takes no writes does not stop a node."""
        now, last = time.time(), self._last
        news = not self._written or (standing, code) != (last.standing, last.code)
        if not news and now - last.at < _AT_MOST_EVERY_S:
            return False
        self._last = Connection(
            standing=standing,
            code=code,
            why=why,
            since=now if news else last.since,
            at=now,
            node_id=node_id or last.node_id,
            clock_ahead_s=round(clock_ahead_s, 1),
        )
        self._written = True
        try:
            write_durably(self._path, msgspec.json.encode(self._last))
        except OSError:
            self._written = False
        return news
