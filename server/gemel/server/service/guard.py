"""What stands before every endpoint: size, door, token, permission; then headers on every answer, and one log line."""

from __future__ import annotations

import logging
import time

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gemel.core.errors import GemelError
from gemel.server.service import access, answers

LOG = logging.getLogger("gemel.service")
MOST_BODY = 1 << 20
MOST_TARGET = 4096
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"strict-transport-security", b"max-age=31536000"),
    (b"permissions-policy", b"interest-cohort=()"),
)


class _TooLarge(Exception):
    """The body went over the limit while it was read."""


class Guard:
    """Decides before anything of a request's body is read; the application behind it sees admitted requests only."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._inner: ASGIApp = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; anything but HTTP (and the start and end of the process) is not served."""
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        await _Request(self._app, scope, receive, send).serve()


class _Request:
    def __init__(self, app: FastAPI, scope: Scope, receive: Receive, send: Send) -> None:
        self._app, self._scope, self._receive, self._send = app, scope, receive, send
        self._status = 0
        self._read = 0

    async def serve(self) -> None:
        began = time.monotonic()
        try:
            await self._admit()
            await self._app(self._scope, self._limited, self._unless_too_large)
        except GemelError as error:
            await self._refuse(error)
        except Exception:  # whatever it is, no stack trace leaves
            if self._read > MOST_BODY:
                LOG.debug("too large", exc_info=True)
            elif self._status == 0:
                await answers.fault()(self._scope, self._receive, self._answer)
            else:  # answered by the handler of faults, which has logged it
                LOG.debug("passed on", exc_info=True)
        if self._read > MOST_BODY:
            await self._refuse(GemelError("GEM908", f"A request has at most {MOST_BODY} bytes."))
        self._note(time.monotonic() - began)

    async def _admit(self) -> None:
        target = len(self._scope.get("raw_path") or b"") + len(self._scope["query_string"])
        if target > MOST_TARGET:
            raise GemelError("GEM908", f"An address has at most {MOST_TARGET} bytes.")
        headers = dict(self._scope["headers"])
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > MOST_BODY:
            raise GemelError("GEM908", f"A request has at most {MOST_BODY} bytes.")
        permission = access.permission_at(self._app, self._scope)
        request = Request(self._scope)
        service = self._app.state.service
        caller = await run_in_threadpool(access.admit, service, permission, request)
        self._scope.setdefault("state", {})["caller"] = caller

    async def _refuse(self, error: GemelError) -> None:
        if self._status == 0:
            await answers.answer(error)(self._scope, self._receive, self._answer)

    async def _limited(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._read += len(message.get("body", b""))
            if self._read > MOST_BODY:
                raise _TooLarge
        return message

    async def _unless_too_large(self, message: Message) -> None:
        """What the application answers; not its own words when the body went over the limit while it read it."""
        if self._read <= MOST_BODY or self._status:
            await self._answer(message)

    async def _answer(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = int(message["status"])
            message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
        await self._send(message)

    def _note(self, seconds: float) -> None:
        # The door's pattern, never the address: a query may hold a code.
        route = self._scope.get("route")
        path = getattr(route, "path", "none")
        method = self._scope["method"] if route is not None else "any"
        metrics = self._app.state.service.metrics
        metrics.requests.labels(method, path, str(self._status)).inc()
        metrics.seconds.labels(path).observe(seconds)
        caller = self._scope.get("state", {}).get("caller")
        who = caller.user.id if caller is not None else "nobody"
        LOG.info("%s %s %s %s %.0f ms", self._status, method, path, who, 1000 * seconds)
