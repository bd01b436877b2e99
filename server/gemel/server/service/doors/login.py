"""Signing in and out: password, one-time setup. Whoever tries is counted before anything is checked."""

from __future__ import annotations

from fastapi import Request

from gemel.core.errors import GemelError
from gemel.server.service import tokens, users
from gemel.server.service.access import CallerIn, Doors, ServiceIn, address_of
from gemel.server.service.attempts import TooManyAttempts
from gemel.server.service.audit import NOBODY, Actor
from gemel.server.service.forms import LoginIn, SecretOut, SetupIn, TokenOut
from gemel.server.service.parts import Service
from gemel.server.service.roles import Permission
from gemel.server.service.tokens import SESSION_S, Token, TokenKind
from gemel.server.service.users import User, UserState

DOORS = Doors()


@DOORS.door("POST", "/api/v1/login", Permission.ANYBODY, tags=["login"])
def login(form: LoginIn, service: ServiceIn, request: Request) -> SecretOut:
    """A session of twelve hours for a name and password."""
    count(service, form.name, request)
    with service.engine.connect() as connection:
        known = users.by_name(connection, form.name)
    stored = known[1] if known and known[0].state is UserState.ACTIVE else ""
    if not service.passwords.matches(stored or None, form.password.get_secret_value()) or known is None:
        refuse(service, request, target=known[0].id if known else "unknown")
        raise GemelError("GEM902", "Name and password do not belong together.")
    service.attempts.succeeded(form.name)
    return begin_session(service, known[0], request, how="password")


@DOORS.door("POST", "/api/v1/setup", Permission.ANYBODY, tags=["login"])
def setup(form: SetupIn, service: ServiceIn, request: Request) -> SecretOut:
    """Set the password that a one-time setup token is for; all older tokens of its user end."""
    count(service, None, request)
    with service.engine.connect() as connection:
        found = tokens.find(connection, form.token.get_secret_value(), setup=True)
    if found is None:
        refuse(service, request, target="setup")
        raise GemelError("GEM905", "The setup token does not hold.")
    token, user = found
    hashed = service.passwords.hash(form.password.get_secret_value(), name=user.name)
    actor = Actor(user.id, user.name)
    with service.log.act(actor, "user.setup", target=user.id, address=address_of(request)) as act:
        tokens.end(act.connection, user.id, token.id)  # once: of two at the same time one finds it ended
        tokens.end_all(act.connection, user.id)
        users.set_password_hash(act.connection, user.id, hashed)
    service.attempts.succeeded(user.name)
    return begin_session(service, user, request, how="setup")


@DOORS.door("POST", "/api/v1/logout", Permission.SELF, tags=["login"], status_code=204)
def logout(caller: CallerIn, service: ServiceIn) -> None:
    """End the token that this request came with."""
    with service.log.act(caller.actor, "session.end", target=caller.token.id) as act:
        tokens.end(act.connection, caller.user.id, caller.token.id)


def count(service: Service, account: str | None, request: Request) -> None:
    """Count an attempt, for the account and the address. Raises GEM903."""
    try:
        service.attempts.count(account=account, address=address_of(request))
    except TooManyAttempts as error:
        service.metrics.logins.labels("limited").inc()
        if error.first:  # the flood itself is not written down
            service.log.refused(NOBODY, "session.begin", error.code, address=address_of(request))
        raise


def refuse(service: Service, request: Request, *, target: str) -> None:
    """Write down a failed attempt; never what was typed."""
    service.metrics.logins.labels("refused").inc()
    service.log.refused(NOBODY, "session.begin", "GEM902", target=target, address=address_of(request))


def begin_session(service: Service, user: User, request: Request, *, how: str) -> SecretOut:
    """A session's token, shown once."""
    actor = Actor(user.id, user.name)
    with service.log.act(actor, "session.begin", how=how, address=address_of(request)) as act:
        secret, token = tokens.issue(act.connection, user, TokenKind.SESSION, seconds=SESSION_S)
        act.target = token.id
    service.metrics.logins.labels("ok").inc()
    return shown_once(secret, token)


def shown_once(secret: str, token: Token) -> SecretOut:
    """The answer that holds a secret."""
    return SecretOut(secret=secret, token=TokenOut.model_validate(token))
