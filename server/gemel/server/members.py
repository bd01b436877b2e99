"""The hospitals of a federation: who was invited, with which keys they were admitted, and until when."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Column, Engine, String, Table, delete, insert, select, update

from gemel.core.errors import GemelError
from gemel.server.store import metadata

_members = Table(
    "members",
    metadata,
    Column("public_key", String(64), primary_key=True),
    Column("site", String(64), nullable=False),
    Column("transport_key", String, nullable=False),  # PEM
    Column(
        "flower_node", String(20), nullable=False
    ),  # 64 bits without a sign: more than a database's integer
    Column("state", String(16), nullable=False),
    Column("admitted_at", String(40), nullable=False),
    Column("expires_at", String(40), nullable=False),
    Column("ended_at", String(40), nullable=False, default=""),
)
_invitations = Table(
    "invitations",
    metadata,
    Column("site", String(64), primary_key=True),
    Column("kit_sha256", String(64), nullable=False),
    Column("issued_at", String(40), nullable=False),
    Column("expires_at", String(40), nullable=False),
)


class MemberState(StrEnum):
    """What a key of a hospital is to the federation."""

    ADMITTED = "admitted"
    REPLACED = "replaced"  # by a newer key of the same hospital
    REVOKED = "revoked"


@dataclass(frozen=True)
class Member:
    """One key of one hospital. `flower_node` is the SuperLink's name for it, None until it is registered there."""

    site: str
    public_key: str
    transport_key: str
    flower_node: int | None
    state: MemberState
    admitted_at: str
    expires_at: str
    ended_at: str

    def days_left(self, now: dt.datetime | None = None) -> int:
        """Whole days until the key expires; negative afterwards."""
        return (dt.datetime.fromisoformat(self.expires_at) - (now or dt.datetime.now(dt.UTC))).days


@dataclass(frozen=True)
class Invitation:
    """The newest start kit that was made for a hospital."""

    site: str
    kit_sha256: str
    issued_at: str
    expires_at: str


@dataclass(frozen=True)
class FleetNode:
    """What a SuperLink knows of a node: its own name for it, the transport key (PEM), and the state in Flower's words."""

    flower_node: int
    transport_key: str
    status: str

    @property
    def registered(self) -> bool:
        """False once its registration was taken back: its key never connects again."""
        return self.status != "unregistered"


@dataclass(frozen=True)
class Members:
    """The members in a store."""

    engine: Engine

    def invite(self, invitation: Invitation) -> None:
        """Put an invitation on record; a newer one of the same hospital takes its place."""
        values = {
            "site": invitation.site,
            "kit_sha256": invitation.kit_sha256,
            "issued_at": invitation.issued_at,
            "expires_at": invitation.expires_at,
        }
        with self.engine.begin() as connection:
            connection.execute(delete(_invitations).where(_invitations.c.site == invitation.site))
            connection.execute(insert(_invitations).values(**values))

    def withdraw(self, site: str) -> None:
        """Take a hospital's invitation back."""
        with self.engine.begin() as connection:
            connection.execute(delete(_invitations).where(_invitations.c.site == site))

    def invitations(self) -> list[Invitation]:
        """The newest invitation of each hospital, by its name."""
        with self.engine.connect() as connection:
            rows = connection.execute(select(_invitations).order_by(_invitations.c.site)).mappings()
            return [Invitation(**row) for row in rows]

    def admitted(self, site: str) -> list[Member]:
        """The hospital's keys that were neither revoked nor replaced; one, except in the middle of a replacement."""
        return [
            member for member in self.all() if member.site == site and member.state is MemberState.ADMITTED
        ]

    def all(self) -> list[Member]:
        """Every key that was ever admitted, the oldest first."""
        with self.engine.connect() as connection:
            rows = connection.execute(
                select(_members).order_by(_members.c.admitted_at, _members.c.site)
            ).mappings()
            return [_member(dict(row)) for row in rows]

    def of(self, public_key: str) -> Member | None:
        """The member with that key, or None."""
        with self.engine.connect() as connection:
            row = connection.execute(select(_members).where(_members.c.public_key == public_key)).mappings()
            found = row.first()
        return None if found is None else _member(dict(found))

    def of_site(self, site: str) -> list[Member]:
        """Every key that a hospital was ever admitted with."""
        with self.engine.connect() as connection:
            rows = connection.execute(select(_members).where(_members.c.site == site)).mappings()
            return [_member(dict(row)) for row in rows]

    def admit(
        self, *, site: str, public_key: str, transport_key: str, flower_node: int | None, expires_at: str
    ) -> Member:
        """Put a hospital's key on record; the same key again only renames its node at the SuperLink and its end."""
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        values = {
            "site": site,
            "transport_key": transport_key,
            "flower_node": "" if flower_node is None else str(flower_node),
            "expires_at": expires_at,
        }
        with self.engine.begin() as connection:
            known = connection.execute(
                select(_members.c.public_key).where(_members.c.public_key == public_key)
            ).first()
            if known is None:
                row = {
                    **values,
                    "public_key": public_key,
                    "state": str(MemberState.ADMITTED),
                    "admitted_at": now,
                }
                connection.execute(insert(_members).values(**row, ended_at=""))
            else:
                connection.execute(
                    update(_members).where(_members.c.public_key == public_key).values(**values)
                )
        member = self.of(public_key)
        assert member is not None  # noqa: S101  # it was just written
        return member

    def end(self, public_key: str, state: MemberState) -> None:
        """Revoke or replace a key, for good. Raises GEM521 when it is not on record."""
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        with self.engine.begin() as connection:
            done = connection.execute(
                update(_members)
                .where(_members.c.public_key == public_key)
                .values(state=str(state), ended_at=now)
            )
        if done.rowcount != 1:
            raise GemelError("GEM521", f"No member has the key {public_key}.")

    def refusal(self, public_key: str, *, now: dt.datetime | None = None) -> str:
        """Why a study may not reach this key: GEM521 not on record, GEM522 revoked or replaced, GEM523 expired; else ""."""
        member = self.of(public_key)
        if member is None:
            return "GEM521"
        if member.state is not MemberState.ADMITTED:
            return "GEM522"
        expires = dt.datetime.fromisoformat(member.expires_at)
        return "GEM523" if (now or dt.datetime.now(dt.UTC)) >= expires else ""


def _member(row: dict[str, str]) -> Member:
    return Member(
        site=row["site"],
        public_key=row["public_key"],
        transport_key=row["transport_key"],
        flower_node=int(row["flower_node"]) if row["flower_node"] else None,
        state=MemberState(row["state"]),
        admitted_at=row["admitted_at"],
        expires_at=row["expires_at"],
        ended_at=row["ended_at"],
    )
