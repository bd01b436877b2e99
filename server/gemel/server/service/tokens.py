"""Tokens: 256 random bits, shown once, kept as a hash, with an end and a role; sessions, API tokens and setup tokens."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Column, Connection, Float, String, Table, insert, select, update

from gemel.core.canonical import sha256_hex
from gemel.core.errors import GemelError
from gemel.server.service import users
from gemel.server.service.roles import Role
from gemel.server.service.users import User, UserState, opaque_id
from gemel.server.store import metadata

_tokens = Table(
    "tokens",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("user_id", String(32), nullable=False, index=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("role", String(16), nullable=False),
    Column("label", String(100), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("ended_at", Float, nullable=False, default=0.0),
)
SESSION_S = 12 * 3600.0
SETUP_S = 24 * 3600.0
MOST_DAYS = 366
MOST_OF_A_USER = 50


class TokenKind(StrEnum):
    """What a token is for."""

    SESSION = "session"  # of a login
    API = "api"  # of a program
    SETUP = "setup"  # to set a password, once


PREFIX = {TokenKind.SESSION: "gemel_s_", TokenKind.API: "gemel_a_", TokenKind.SETUP: "gemel_setup_"}


@dataclass(frozen=True)
class Token:
    """A token on record; its secret is not. Times are seconds since 1970; `ended_at` is 0 while it holds."""

    id: str
    user_id: str
    kind: TokenKind
    role: Role
    label: str
    created_at: float
    expires_at: float
    ended_at: float

    def holds(self, at: float) -> bool:
        """Whether it lets somebody in at that time."""
        return not self.ended_at and self.created_at <= at < self.expires_at


def issue(
    connection: Connection,
    user: User,
    kind: TokenKind,
    *,
    role: Role | None = None,
    seconds: float,
    label: str = "",
) -> tuple[str, Token]:
    """Make a token; the secret is returned here and never again. A new setup token ends the user's older ones."""
    at = time.time()
    if kind is TokenKind.SETUP:
        end_all(connection, user.id, kind=kind)
    elif len([t for t in of(connection, user.id) if t.holds(at)]) >= MOST_OF_A_USER:
        raise GemelError("GEM909", f"A user has at most {MOST_OF_A_USER} tokens; revoke some.")
    secret = PREFIX[kind] + secrets.token_urlsafe(32)
    token = Token(opaque_id(), user.id, kind, role or user.role, label, at, at + seconds, 0.0)
    row = {**token.__dict__, "kind": str(kind), "role": str(token.role), "digest": _digest(secret)}
    connection.execute(insert(_tokens).values(**row))
    return secret, token


def find(connection: Connection, secret: str, *, setup: bool = False) -> tuple[Token, User] | None:
    """The token that holds now, with its active user; None for anything else. Setup tokens only when asked for."""
    row = connection.execute(select(_tokens).where(_tokens.c.digest == _digest(secret))).mappings().first()
    if row is None:
        return None
    token = _token(row)
    if (token.kind is TokenKind.SETUP) is not setup or not token.holds(time.time()):
        return None
    user = users.by_id(connection, token.user_id)
    return (token, user) if user.state is UserState.ACTIVE else None


def of(connection: Connection, user_id: str) -> list[Token]:
    """A user's tokens, the newest first."""
    query = select(_tokens).where(_tokens.c.user_id == user_id).order_by(_tokens.c.created_at.desc())
    return [_token(row) for row in connection.execute(query).mappings()]


def end(connection: Connection, user_id: str, token_id: str) -> None:
    """Revoke one of a user's tokens. Raises GEM906 when it is not the user's, or has ended."""
    ended = connection.execute(
        update(_tokens)
        .where(_tokens.c.id == token_id, _tokens.c.user_id == user_id, _tokens.c.ended_at == 0.0)
        .values(ended_at=time.time())
    )
    if ended.rowcount != 1:
        raise GemelError("GEM906", "There is no such token.")


def end_all(connection: Connection, user_id: str, *, kind: TokenKind | None = None) -> None:
    """Revoke all of a user's tokens, or those of one kind."""
    wanted = [_tokens.c.user_id == user_id, _tokens.c.ended_at == 0.0]
    if kind is not None:
        wanted.append(_tokens.c.kind == str(kind))
    connection.execute(update(_tokens).where(*wanted).values(ended_at=time.time()))


def _digest(secret: str) -> str:
    # No salt, no stretching: what is hashed is 256 random bits.
    return sha256_hex(secret.encode())


def _token(row: object) -> Token:
    fields = dict(row)  # type: ignore[call-overload]
    del fields["digest"]
    return Token(**{**fields, "kind": TokenKind(fields["kind"]), "role": Role(fields["role"])})
