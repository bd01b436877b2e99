"""The newest head that the coordinator saw of each hospital's ledger: what a rolled-back ledger lacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Column, Engine, Integer, String, Table, insert, select, update
from sqlalchemy.exc import IntegrityError

from gemel.core.messages import LedgerHead
from gemel.server.store import metadata

_heads = Table(
    "ledger_heads",
    metadata,
    Column("public_key", String(64), primary_key=True),
    Column("seq", Integer, nullable=False),
    Column("sha256", String(64), nullable=False),
)


@dataclass(frozen=True)
class Anchors:
    """In the coordinator's store, which runs of several studies share: by a node's public key, its ledger's newest entry."""

    engine: Engine

    def all(self) -> dict[str, LedgerHead]:
        """Every head, by public key."""
        with self.engine.connect() as connection:
            rows = connection.execute(select(_heads)).mappings()
            return {row["public_key"]: LedgerHead(seq=row["seq"], sha256=row["sha256"]) for row in rows}

    def note(self, heads: Mapping[str, LedgerHead]) -> None:
        """Keep what verified replies said, where it is newer than what is kept. An outbox's replies may be old.

        The comparison is the database's own, in one statement: of two runs that write at once the newer head stays.
        """
        known = self.all()
        newer = {key: head for key, head in heads.items() if key not in known or head.seq > known[key].seq}
        if not newer:
            return
        try:
            self._write(newer)
        except IntegrityError:  # a first head was written by another run in between: now all are there
            self._write(newer)

    def _write(self, heads: Mapping[str, LedgerHead]) -> None:
        with self.engine.begin() as connection:
            for key, head in sorted(
                heads.items()
            ):  # one order, so that two runs never wait for each other in a circle
                told = {"seq": head.seq, "sha256": head.sha256}
                mine = _heads.c.public_key == key
                older = update(_heads).where(mine, _heads.c.seq < head.seq).values(told)
                if connection.execute(older).rowcount:
                    continue
                if connection.execute(select(_heads.c.seq).where(mine)).first() is None:
                    connection.execute(insert(_heads).values(public_key=key, **told))
