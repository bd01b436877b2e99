"""One's own account, and the administrator's: users, roles, tokens, keys."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import Path, Request
from sqlalchemy import Connection

from gemel.core.errors import GemelError
from gemel.core.signing import read_signed, signed_by
from gemel.server.service import tokens, users
from gemel.server.service.access import CallerIn, Doors, ServiceIn
from gemel.server.service.doors import login
from gemel.server.service.forms import (
    KeyIn,
    PasswordIn,
    SecretOut,
    TokenIn,
    TokenOut,
    UserChange,
    UserIn,
    UserMade,
    UserOut,
)
from gemel.server.service.roles import PERMISSIONS, Permission
from gemel.server.service.tokens import SETUP_S, TokenKind
from gemel.server.service.users import User, UserState

DOORS = Doors()
KEY_KIND = "user-key"
KEY_SCHEMA = "gemel/user-key/1"
IdIn = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
KeyPath = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
_DAY_S = 86_400.0


@DOORS.door("GET", "/api/v1/me", Permission.SELF, tags=["account"])
def me(caller: CallerIn, service: ServiceIn) -> UserOut:
    """Who the token's user is."""
    with service.engine.connect() as connection:
        return _out(connection, caller.user)


@DOORS.door("POST", "/api/v1/me/password", Permission.SELF, tags=["account"], status_code=204)
def change_password(form: PasswordIn, caller: CallerIn, service: ServiceIn, request: Request) -> None:
    """Change one's password; all other tokens end."""
    login.count(service, caller.user.name, request)
    with service.engine.connect() as connection:
        known = users.by_name(connection, caller.user.name)
    if not service.passwords.matches((known[1] if known else "") or None, form.old.get_secret_value()):
        login.refuse(service, request, target=caller.user.id)
        raise GemelError("GEM902", "The old password is not it.")
    service.attempts.succeeded(caller.user.name)
    hashed = service.passwords.hash(form.new.get_secret_value(), name=caller.user.name)
    with service.log.act(caller.actor, "user.password", target=caller.user.id) as act:
        users.set_password_hash(act.connection, caller.user.id, hashed)
        for token in tokens.of(act.connection, caller.user.id):
            if token.id != caller.token.id and not token.ended_at:
                tokens.end(act.connection, caller.user.id, token.id)


@DOORS.door("GET", "/api/v1/me/tokens", Permission.SELF, tags=["account"])
def my_tokens(caller: CallerIn, service: ServiceIn) -> list[TokenOut]:
    """One's tokens, without their secrets."""
    with service.engine.connect() as connection:
        return [TokenOut.model_validate(token) for token in tokens.of(connection, caller.user.id)]


@DOORS.door("POST", "/api/v1/me/tokens", Permission.SELF, tags=["account"], status_code=201)
def make_token(form: TokenIn, caller: CallerIn, service: ServiceIn) -> SecretOut:
    """An API token for a program of one's own; it never may more than the token that asks for it."""
    role = form.role or caller.token.role
    if not PERMISSIONS[role] <= caller.permissions:
        raise GemelError("GEM904", f"A token of role {role} may more than you.")
    with service.log.act(caller.actor, "token.make", role=role, label=form.label) as act:
        secret, token = tokens.issue(
            act.connection,
            caller.user,
            TokenKind.API,
            role=role,
            seconds=form.days * _DAY_S,
            label=form.label,
        )
        act.target = token.id
    return login.shown_once(secret, token)


@DOORS.door("DELETE", "/api/v1/me/tokens/{token}", Permission.SELF, tags=["account"], status_code=204)
def revoke_token(token: IdIn, caller: CallerIn, service: ServiceIn) -> None:
    """End one of one's tokens."""
    with service.log.act(caller.actor, "token.revoke", target=token) as act:
        tokens.end(act.connection, caller.user.id, token)


@DOORS.door("POST", "/api/v1/me/keys", Permission.STUDIES_WRITE, tags=["account"], status_code=201)
def add_key(form: KeyIn, caller: CallerIn, service: ServiceIn) -> UserOut:
    """Put the key on record that one signs studies with."""
    document = read_signed(json.dumps(form.proof).encode(), kind=KEY_KIND)
    payload = document.payload
    public_key = str(payload.get("public_key", ""))
    expected = {"schema": KEY_SCHEMA, "user": caller.user.id, "public_key": public_key}
    if payload != expected or not signed_by(document, public_key):
        raise GemelError("GEM911", "The proof does not name this user and the key that signed it.")
    with service.log.act(caller.actor, "key.add", target=public_key) as act:
        users.add_key(act.connection, caller.user.id, public_key)
        return _out(act.connection, caller.user)


@DOORS.door("DELETE", "/api/v1/me/keys/{key}", Permission.STUDIES_WRITE, tags=["account"], status_code=204)
def end_key(key: KeyPath, caller: CallerIn, service: ServiceIn) -> None:
    """A key signs no more studies from now on; those on record stay."""
    with service.log.act(caller.actor, "key.end", target=key) as act:
        users.end_key(act.connection, caller.user.id, key)


@DOORS.door("GET", "/api/v1/users", Permission.USERS_READ, tags=["users"])
def list_users(service: ServiceIn) -> list[UserOut]:
    """Every user."""
    with service.engine.connect() as connection:
        return [_out(connection, user) for user in users.every(connection)]


@DOORS.door("POST", "/api/v1/users", Permission.USERS_WRITE, tags=["users"], status_code=201)
def add_user(form: UserIn, caller: CallerIn, service: ServiceIn) -> UserMade:
    """A new user, with a setup token to hand over: nobody but the user ever knows the password."""
    with service.log.act(caller.actor, "user.add", role=form.role) as act:
        identity = _identity(service, form.subject)
        user = users.add(act.connection, name=form.name, role=form.role, identity=identity)
        act.target = user.id
        secret, token = tokens.issue(act.connection, user, TokenKind.SETUP, seconds=SETUP_S)
        made = _out(act.connection, user)
    return UserMade(user=made, setup=login.shown_once(secret, token))


@DOORS.door("PATCH", "/api/v1/users/{user}", Permission.USERS_WRITE, tags=["users"])
def change_user(user: IdIn, form: UserChange, caller: CallerIn, service: ServiceIn) -> UserOut:
    """Another role, or disabled: its tokens end, and its running studies stay an operator's to stop."""
    facts = {name: str(value) for name, value in form.model_dump().items() if value is not None}
    with service.log.act(caller.actor, "user.change", target=user, **facts) as act:
        changed = users.change(act.connection, user, role=form.role, state=form.state)
        if changed.state is UserState.DISABLED:
            tokens.end_all(act.connection, user)
        return _out(act.connection, changed)


@DOORS.door("POST", "/api/v1/users/{user}/setup", Permission.USERS_WRITE, tags=["users"], status_code=201)
def new_setup(user: IdIn, caller: CallerIn, service: ServiceIn) -> SecretOut:
    """A new setup token, for a user who lost the password; hand it over in person or on the phone."""
    with service.log.act(caller.actor, "user.reset", target=user) as act:
        known = users.by_id(act.connection, user)
        secret, token = tokens.issue(act.connection, known, TokenKind.SETUP, seconds=SETUP_S)
    return login.shown_once(secret, token)


@DOORS.door("GET", "/api/v1/users/{user}/tokens", Permission.USERS_READ, tags=["users"])
def tokens_of_user(user: IdIn, service: ServiceIn) -> list[TokenOut]:
    """A user's tokens, without their secrets."""
    with service.engine.connect() as connection:
        users.by_id(connection, user)
        return [TokenOut.model_validate(token) for token in tokens.of(connection, user)]


@DOORS.door(
    "DELETE",
    "/api/v1/users/{user}/tokens/{token}",
    Permission.USERS_WRITE,
    tags=["users"],
    status_code=204,
)
def revoke_token_of_user(user: IdIn, token: IdIn, caller: CallerIn, service: ServiceIn) -> None:
    """End a user's token."""
    with service.log.act(caller.actor, "token.revoke", target=token, user=user) as act:
        tokens.end(act.connection, user, token)


def _identity(service: ServiceIn, subject: str | None) -> str | None:
    if subject is None:
        return None
    if service.provider is None:
        raise GemelError("GEM907", "This service uses no identity provider.")
    return service.provider.identity(subject)


def _out(connection: Connection, user: User) -> UserOut:
    return UserOut(**user.__dict__, keys=users.keys_of(connection, user.id))
