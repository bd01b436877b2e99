"""Signing in by the identity provider: begun by the user's program, approved in a browser, redeemed by the program."""

from __future__ import annotations

import logging
from typing import Annotated

from fastapi import Query, Request
from fastapi.responses import RedirectResponse

from gemel.core.errors import GemelError
from gemel.server.service.access import Doors, ServiceIn, address_of
from gemel.server.service.audit import NOBODY
from gemel.server.service.doors import login
from gemel.server.service.forms import OidcBegun, OidcIn, RedeemIn, SecretOut
from gemel.server.service.oidc import CALLBACK, Provider
from gemel.server.service.parts import Service
from gemel.server.service.roles import Permission

DOORS = Doors()
LOG = logging.getLogger("gemel.service.oidc")
Word = Annotated[str, Query(min_length=1, max_length=2000)]


@DOORS.door("POST", "/api/v1/login/oidc", Permission.ANYBODY, tags=["login"], status_code=201)
def begin(form: OidcIn, service: ServiceIn, request: Request) -> OidcBegun:
    """Where to send the browser; it comes back to `port` on the machine that it runs on."""
    provider = _provider(service)
    login.count(service, None, request)
    return OidcBegun(address=provider.begin(service.engine, port=form.port, proof=form.proof))


@DOORS.door("GET", CALLBACK, Permission.ANYBODY, tags=["login"], include_in_schema=False)
def callback(
    state: Word,
    service: ServiceIn,
    request: Request,
    code: Word = "",
    iss: Annotated[str, Query(max_length=500)] = "",
) -> RedirectResponse:
    """Where the provider sends the browser back to."""
    provider = _provider(service)
    login.count(service, None, request)
    try:
        with service.engine.begin() as connection:
            under_way = provider.take(connection, state)
        if not code or (iss and iss != provider.config.issuer):
            raise GemelError("GEM913", "code: none, or of another issuer.")
        subject = provider.subject(under_way, code)
        with service.engine.begin() as connection:
            onward = provider.hand_over(connection, under_way, subject)
    except GemelError as error:
        service.log.refused(NOBODY, "oidc.callback", error.code, address=address_of(request))
        LOG.warning("a login by the identity provider was refused: %s", error.message)
        raise GemelError(error.code, "The identity provider's answer is not accepted.") from error
    return RedirectResponse(onward, status_code=303)


@DOORS.door("POST", "/api/v1/login/oidc/token", Permission.ANYBODY, tags=["login"])
def redeem(form: RedeemIn, service: ServiceIn, request: Request) -> SecretOut:
    """A session for the word that the browser brought and the secret that the program kept."""
    provider = _provider(service)
    login.count(service, None, request)
    try:
        with service.engine.begin() as connection:
            user = provider.redeem(
                connection,
                handoff=form.handoff.get_secret_value(),
                secret=form.secret.get_secret_value(),
            )
    except GemelError:
        login.refuse(service, request, target="oidc")
        raise
    return login.begin_session(service, user, request, how="oidc")


def _provider(service: Service) -> Provider:
    if service.provider is None:
        raise GemelError("GEM906", "This service uses no identity provider.")
    return service.provider
