"""Users in the store: name, role, password's hash or the provider's subject, and the keys that they sign studies with."""

from __future__ import annotations

import datetime as dt
import re
import secrets
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Column, Connection, String, Table, Text, insert, select, update
from sqlalchemy.exc import IntegrityError

from gemel.core.errors import GemelError
from gemel.server.service.roles import Role
from gemel.server.store import metadata

_users = Table(
    "users",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("password_hash", Text, nullable=False, default=""),
    Column("identity", String(512), nullable=True, unique=True),  # issuer and subject at the provider
    Column("created_at", String(40), nullable=False),
)
_keys = Table(
    "user_keys",
    metadata,
    Column("public_key", String(64), primary_key=True),
    Column("user_id", String(32), nullable=False),
    Column("added_at", String(40), nullable=False),
    Column("ended_at", String(40), nullable=False, default=""),
)
_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{1,62}[a-z0-9]", re.ASCII)
_PUBLIC_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)


class UserState(StrEnum):
    """Whether a user may come in."""

    ACTIVE = "active"
    DISABLED = "disabled"


@dataclass(frozen=True)
class User:
    """One user. `identity` is "ISSUER SUBJECT" at the identity provider, or None."""

    id: str
    name: str
    role: Role
    state: UserState
    identity: str | None
    created_at: str


def opaque_id() -> str:
    """A name that says nothing and cannot be guessed."""
    return secrets.token_hex(16)


def now() -> str:
    """ISO 8601, UTC, to the second."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def add(connection: Connection, *, name: str, role: Role, identity: str | None = None) -> User:
    """Put a user on record, without a password. Raises GEM907 for an unfit name, GEM909 when it is taken."""
    name = name.lower()
    if not _NAME.fullmatch(name):
        raise GemelError("GEM907", "A user's name is 3 to 64 of a-z, 0-9, ., _, @ and -.")
    user = User(opaque_id(), name, role, UserState.ACTIVE, identity, now())
    if by_name(connection, name) or (identity is not None and by_identity(connection, identity)):
        raise GemelError("GEM909", "A user of that name, or of that identity, is on record.")
    values = {"id": user.id, "name": name, "role": str(role), "state": str(user.state)}
    connection.execute(insert(_users).values(**values, identity=identity, created_at=user.created_at))
    return user


def every(connection: Connection) -> list[User]:
    """All users, by name."""
    return [_user(row) for row in connection.execute(select(_users).order_by(_users.c.name)).mappings()]


def by_id(connection: Connection, user_id: str) -> User:
    """The user of an opaque id. Raises GEM906."""
    row = connection.execute(select(_users).where(_users.c.id == user_id)).mappings().first()
    if row is None:
        raise GemelError("GEM906", "There is no such user.")
    return _user(row)


def by_name(connection: Connection, name: str) -> tuple[User, str] | None:
    """The user of a name with the password's hash ("" for none), or None."""
    row = connection.execute(select(_users).where(_users.c.name == name.lower())).mappings().first()
    return None if row is None else (_user(row), str(row["password_hash"]))


def by_identity(connection: Connection, identity: str) -> User | None:
    """The user whom an identity provider knows under that issuer and subject, or None."""
    row = connection.execute(select(_users).where(_users.c.identity == identity)).mappings().first()
    return None if row is None else _user(row)


def set_password_hash(connection: Connection, user_id: str, password_hash: str) -> None:
    """Replace the stored hash."""
    connection.execute(update(_users).where(_users.c.id == user_id).values(password_hash=password_hash))


def has_password(connection: Connection, user_id: str) -> bool:
    """Whether a password was ever set."""
    query = select(_users.c.password_hash).where(_users.c.id == user_id)
    return bool(connection.execute(query).scalar())


def change(
    connection: Connection, user_id: str, *, role: Role | None = None, state: UserState | None = None
) -> User:
    """Give another role or state. Raises GEM906, GEM920 for the last administrator."""
    before = by_id(connection, user_id)
    values = {"role": str(role or before.role), "state": str(state or before.state)}
    connection.execute(update(_users).where(_users.c.id == user_id).values(**values))
    if not any(u.role is Role.ADMIN and u.state is UserState.ACTIVE for u in every(connection)):
        raise GemelError("GEM920", f"{before.name} is the last administrator.")
    return by_id(connection, user_id)


def link_identity(connection: Connection, user_id: str, identity: str) -> None:
    """Say whom the provider means by an issuer and subject. Raises GEM909 when it means another user already."""
    other = by_identity(connection, identity)
    if other is not None and other.id != user_id:
        raise GemelError("GEM909", "That identity is another user's.")
    connection.execute(update(_users).where(_users.c.id == user_id).values(identity=identity))


def add_key(connection: Connection, user_id: str, public_key: str) -> None:
    """Put a signing key on record; a key is one user's, for good. Raises GEM907, GEM909."""
    if not _PUBLIC_KEY.fullmatch(public_key):
        raise GemelError("GEM907", "A key is 64 hex digits, lower case.")
    known = connection.execute(select(_keys.c.user_id).where(_keys.c.public_key == public_key)).first()
    if known is not None:
        raise GemelError("GEM909", "That key is on record.")
    try:
        connection.execute(
            insert(_keys).values(public_key=public_key, user_id=user_id, added_at=now(), ended_at="")
        )
    except IntegrityError as error:
        raise GemelError("GEM909", "That key is on record.") from error


def end_key(connection: Connection, user_id: str, public_key: str) -> None:
    """A key signs no more studies from now on. Raises GEM906 when it is not the user's."""
    ended = connection.execute(
        update(_keys)
        .where(_keys.c.public_key == public_key, _keys.c.user_id == user_id, _keys.c.ended_at == "")
        .values(ended_at=now())
    )
    if ended.rowcount != 1:
        raise GemelError("GEM906", "That is no key of this user.")


def keys_of(connection: Connection, user_id: str) -> list[str]:
    """The keys that a user may sign studies with now."""
    query = select(_keys.c.public_key).where(_keys.c.user_id == user_id, _keys.c.ended_at == "")
    return [str(key) for key in connection.execute(query.order_by(_keys.c.added_at)).scalars()]


def _user(row: object) -> User:
    fields = dict(row)  # type: ignore[call-overload]
    return User(
        id=fields["id"],
        name=fields["name"],
        role=Role(fields["role"]),
        state=UserState(fields["state"]),
        identity=fields["identity"],
        created_at=fields["created_at"],
    )
