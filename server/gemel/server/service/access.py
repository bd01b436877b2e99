"""The one place where it is decided who comes in: token, then the door's permission, then the object."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.routing import APIRoute
from sqlalchemy import Connection
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from gemel.core.errors import GemelError
from gemel.server import studies
from gemel.server.service import tokens
from gemel.server.service.audit import Actor
from gemel.server.service.forms import ErrorOut
from gemel.server.service.parts import Service
from gemel.server.service.roles import Permission, permitted
from gemel.server.service.tokens import Token
from gemel.server.service.users import User
from gemel.server.studies import PRIVATE, StudyRecord

_LOOPBACK = ("127.0.0.1", "::1")
_BEARER = "bearer "
_MOST_TOKEN = 200


@dataclass(frozen=True)
class Caller:
    """Who is at the door, by a token that holds."""

    user: User
    token: Token

    @property
    def permissions(self) -> frozenset[Permission]:
        """What the token may do now."""
        return permitted(self.user.role, self.token.role)

    @property
    def actor(self) -> Actor:
        """The name in the audit log."""
        return Actor(self.user.id, self.user.name)


Endpoint = Callable[..., Any]


@dataclass(frozen=True)
class _Door:
    method: str
    path: str
    permission: Permission
    endpoint: Endpoint
    options: dict[str, Any]


@dataclass
class Doors:
    """A module's addresses, each with the permission that it asks for."""

    declared: list[_Door] = field(default_factory=list)

    def door(
        self, method: str, path: str, permission: Permission, **options: Any
    ) -> Callable[[Endpoint], Endpoint]:
        """Declare an endpoint. `options` are FastAPI's."""

        def declare(endpoint: Endpoint) -> Endpoint:
            self.declared.append(_Door(method, path, permission, endpoint, options))
            return endpoint

        return declare


_ERRORS: dict[int | str, dict[str, Any]] = {
    422: {"model": ErrorOut, "description": "Malformed"},
    "4XX": {"model": ErrorOut, "description": "Refused"},
    "5XX": {"model": ErrorOut, "description": "Failed"},
}


def install(app: FastAPI, *all_doors: Doors) -> None:
    """Open every door, and remember what each asks for; `permission_at` knows no others."""
    table: dict[tuple[str, str], Permission] = {}
    for doors in all_doors:
        for door in doors.declared:
            options = {"responses": _ERRORS, **door.options}
            app.add_api_route(door.path, door.endpoint, methods=[door.method], **options)
            table[door.method, door.path] = door.permission
    app.state.permissions = table


def require_all_declared(app: FastAPI) -> None:
    """Refuse to start with an address that no door declares (a programming error: RuntimeError)."""
    for route in app.routes:
        methods = getattr(route, "methods", None) or {"?"}
        for method in methods:
            if not isinstance(route, APIRoute) or (method, route.path) not in app.state.permissions:
                raise RuntimeError(f"{method} {getattr(route, 'path', route)} has no declared permission")


def permission_at(app: FastAPI, scope: Scope) -> Permission:
    """The permission that a request's door asks for. Raises GEM906 when there is no such door."""
    for route in _matching(app.routes, scope):
        permission = app.state.permissions.get((scope["method"], getattr(route, "path", "")))
        if isinstance(permission, Permission):
            return permission
    raise GemelError("GEM906", "There is no such address here.")


def _matching(routes: list[BaseRoute], scope: Scope) -> Iterator[BaseRoute]:
    for route in routes:
        if route.matches(scope)[0] is Match.FULL:
            yield route
            return


def admit(service: Service, permission: Permission, request: Request) -> Caller | None:
    """Let a request through, or raise GEM901, GEM903, GEM904, GEM906. None where no token is asked for."""
    if permission is Permission.ANYBODY:
        return None
    if permission is Permission.LOCAL:
        if address_of(request) in _LOOPBACK and "x-forwarded-for" not in request.headers:
            return None
        raise GemelError("GEM906", "There is no such address here.")
    caller = _caller(service, request)
    if permission not in caller.permissions:
        service.log.refused(
            caller.actor, "door.refused", "GEM904", target=permission, address=address_of(request)
        )
        raise GemelError("GEM904", f"Your role, {caller.token.role}, does not permit this.")
    return caller


def _caller(service: Service, request: Request) -> Caller:
    header = request.headers.get("authorization", "")
    if not header:
        raise GemelError("GEM901", "The request carries no token.")
    secret = header[len(_BEARER) :].strip()
    if header[: len(_BEARER)].lower() == _BEARER and 0 < len(secret) <= _MOST_TOKEN:
        with service.engine.connect() as connection:
            found = tokens.find(connection, secret)
        if found is not None:
            return Caller(user=found[1], token=found[0])
    # Only failures count: a token that holds is never locked out.
    service.attempts.count(account=None, address=address_of(request))
    raise GemelError("GEM901", "The token does not hold.")


def address_of(request: Request) -> str:
    """Where a request comes from; nginx's word for it, which uvicorn takes from loopback only."""
    return request.client.host if request.client else "unknown"


def caller_of(request: Request) -> Caller:
    """The caller whom the guard admitted. Raises GEM901 when it admitted nobody."""
    caller = getattr(request.state, "caller", None)
    if not isinstance(caller, Caller):
        raise GemelError("GEM901", "Nobody is signed in.")
    return caller


def service_of(request: Request) -> Service:
    """The parts that the endpoints work with."""
    service = request.app.state.service
    assert isinstance(service, Service)  # noqa: S101  # set where the application is built
    return service


CallerIn = Annotated[Caller, Depends(caller_of)]
ServiceIn = Annotated[Service, Depends(service_of)]


def study_for(connection: Connection, caller: Caller, study_id: str, permission: Permission) -> StudyRecord:
    """The study, if this caller may do this with it: the only way from an id to a study.

    Raises GEM906 when it is not there or not the caller's to see (the same words), GEM904 when it may only be seen.
    """
    record = studies.get(connection, study_id)
    owner = record.owner == caller.user.id
    if permission not in caller.permissions or (record.state in PRIVATE and not owner):
        raise GemelError("GEM906", "There is no such study.")
    if permission in (Permission.STUDIES_READ, Permission.MODELS_READ) or owner:
        return record
    if permission is Permission.STUDIES_STEER and Permission.STUDIES_STEER_ANY in caller.permissions:
        return record
    raise GemelError("GEM904", "That study is another user's.")
