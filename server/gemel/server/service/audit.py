"""The audit log in the store: what is done and its entry are one transaction, and entries form a chain."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import BigInteger, Column, Connection, Engine, Integer, String, Table, Text, select, text

from gemel.core.errors import GemelError
from gemel.core.signing import SignedDocument, SigningKey, sign_document
from gemel.server.service.audit_chain import BEFORE_THE_FIRST, KIND, SCHEMA, AuditEntry
from gemel.server.store import metadata

_entries = Table(
    "audit",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", String(40), nullable=False),
    Column("actor", String(64), nullable=False),
    Column("actor_name", String(64), nullable=False),
    Column("action", String(64), nullable=False),
    Column("target", String(128), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("code", String(8), nullable=False),
    Column("detail", Text, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("sha256", String(64), nullable=False),
)
_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
)
MOST_ENTRIES = 50_000  # of one export


@dataclass(frozen=True)
class Actor:
    """Who acts: a user by opaque id and name, or one of the two below."""

    id: str
    name: str


SERVICE = Actor("service", "")
NOBODY = Actor("nobody", "")


@dataclass
class Act:
    """One act under way: the connection of its transaction, and what its entry will say."""

    connection: Connection
    target: str = ""
    detail: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AuditLog:
    """The chain of entries in a store."""

    engine: Engine

    def begin(self) -> None:
        """Make the row that the chain's end is kept in, once."""
        with self.engine.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO audit_head (id, seq, sha256) VALUES (1, 0, :none) ON CONFLICT (id) DO NOTHING"
                ),
                {"none": BEFORE_THE_FIRST},
            )

    @contextmanager
    def act(self, actor: Actor, action: str, *, target: str = "", **detail: str) -> Iterator[Act]:
        """Do something and write it down, together or not at all; a refusal (GemelError) is written down as such.

        The chain's end is locked first: acts follow one another, so what one reads no other changes meanwhile.
        """
        act = Act(connection=None, target=target, detail=dict(detail))  # type: ignore[arg-type]
        try:
            with self.engine.begin() as connection:
                seq, previous = _lock(connection)
                act.connection = connection
                yield act
                _append(connection, _entry(seq, previous, actor, action, act, outcome="ok", code=""))
        except GemelError as error:
            with self.engine.begin() as connection:
                seq, previous = _lock(connection)
                _append(
                    connection,
                    _entry(seq, previous, actor, action, act, outcome="refused", code=error.code),
                )
            raise

    def refused(self, actor: Actor, action: str, code: str, *, target: str = "", **detail: str) -> None:
        """Write down what was refused before anything was begun."""
        with self.engine.begin() as connection:
            seq, previous = _lock(connection)
            act = Act(connection, target, dict(detail))
            _append(connection, _entry(seq, previous, actor, action, act, outcome="refused", code=code))

    def entries(self, *, after: int = 0, most: int = MOST_ENTRIES) -> list[AuditEntry]:
        """Entries from the one after `after` on, the oldest first."""
        query = select(_entries).where(_entries.c.seq > after).order_by(_entries.c.seq).limit(most)
        with self.engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return [AuditEntry(**{**row, "detail": json.loads(row["detail"])}) for row in rows]

    def head(self) -> tuple[int, str]:
        """(number, hash) of the last entry."""
        with self.engine.connect() as connection:
            row = connection.execute(select(_head.c.seq, _head.c.sha256)).one()
        return int(row[0]), str(row[1])

    def export(self, key: SigningKey, *, after: int = 0) -> SignedDocument:
        """The log as a document signed by the coordinator; at most 50,000 entries, go on with `after`."""
        import msgspec

        entries = self.entries(after=after)
        before = BEFORE_THE_FIRST if after == 0 else self._hash_of(after)
        payload = {
            "schema": SCHEMA,
            "exported_at": _now(),
            "before": before,
            "head": entries[-1].sha256 if entries else before,
            "head_of_log": {"seq": self.head()[0], "sha256": self.head()[1]},
            "entries": [msgspec.to_builtins(entry) for entry in entries],
        }
        return sign_document(KIND, payload, key, role="coordinator")

    def _hash_of(self, seq: int) -> str:
        with self.engine.connect() as connection:
            found = connection.execute(select(_entries.c.sha256).where(_entries.c.seq == seq)).scalar()
        if found is None:
            raise GemelError("GEM906", f"The audit log has no entry {seq}.")
        return str(found)


def _lock(connection: Connection) -> tuple[int, str]:
    """Take the chain's end for this transaction: the next number, and the hash that its entry follows."""
    row = connection.execute(
        text("UPDATE audit_head SET seq = seq + 1 WHERE id = 1 RETURNING seq, sha256")
    ).one()
    return int(row[0]), str(row[1])


def _append(connection: Connection, entry: AuditEntry) -> None:
    detail = json.dumps(entry.detail, sort_keys=True)
    values = {name: getattr(entry, name) for name in entry.__struct_fields__}
    connection.execute(_entries.insert().values(**{**values, "detail": detail}))
    connection.execute(_head.update().where(_head.c.id == 1).values(sha256=entry.sha256))


def _entry(
    seq: int, previous: str, actor: Actor, action: str, act: Act, *, outcome: str, code: str
) -> AuditEntry:
    return AuditEntry(
        seq=seq,
        at=_now(),
        actor=actor.id,
        actor_name=actor.name,
        action=action,
        target=act.target[:128],
        outcome=outcome,
        code=code,
        detail={name: value[:200] for name, value in act.detail.items()},
        previous=previous,
    ).sealed()


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
