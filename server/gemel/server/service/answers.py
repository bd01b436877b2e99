"""What the service answers when it refuses: a code of the closed list in JSON, with its HTTP status; no stack trace."""

from __future__ import annotations

import logging
import secrets
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from gemel.core.error_catalogue import ExitCode
from gemel.core.errors import GemelError
from gemel.server.service.attempts import TooManyAttempts

LOG = logging.getLogger("gemel.service")
_STATUS = {
    "GEM901": 401,
    "GEM902": 401,
    "GEM903": 429,
    "GEM904": 403,
    "GEM905": 401,
    "GEM906": 404,
    "GEM907": 422,
    "GEM908": 413,
    "GEM909": 409,
    "GEM910": 409,
    "GEM911": 403,
    "GEM913": 401,
    "GEM914": 422,
    "GEM915": 500,
    "GEM920": 409,
    "GEM921": 409,
    "GEM531": 404,
    "GEM533": 409,
    "GEM534": 503,
}
_BY_EXIT = {ExitCode.REFUSED: 403, ExitCode.USAGE: 422, ExitCode.UNREACHABLE: 503}


def status_of(error: GemelError) -> int:
    """The HTTP status of a code; a document that is malformed, or wrongly signed, is the client's fault."""
    if error.code in _STATUS:
        return _STATUS[error.code]
    return 422 if error.code.startswith(("GEM1", "GEM3")) else _BY_EXIT.get(error.exit_code, 500)


def answer(error: GemelError) -> JSONResponse:
    """A refusal as JSON."""
    headers = {"WWW-Authenticate": "Bearer"} if status_of(error) == 401 else {}
    if isinstance(error, TooManyAttempts):
        headers["Retry-After"] = str(error.retry_after_s)
    return JSONResponse({"error": error.as_dict()}, status_code=status_of(error), headers=headers)


def fault() -> JSONResponse:
    """The answer to what should not happen; the log has the cause under the same number. Call it while handling."""
    number = secrets.token_hex(4)
    LOG.exception("fault %s", number)
    return answer(GemelError("GEM915", f"A fault inside the service, number {number}."))


def install(app: FastAPI) -> None:
    """Make the application answer everything in this way."""

    @app.exception_handler(GemelError)
    async def _expected(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, GemelError)  # noqa: S101  # what it is registered for
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def _malformed(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        return answer(GemelError("GEM907", f"Malformed: {_first(error.errors())}."))

    @app.exception_handler(HTTPException)
    async def _of_starlette(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)  # noqa: S101
        if error.status_code in (404, 405):
            return answer(GemelError("GEM906", "There is no such address here."))
        return answer(GemelError("GEM907", "The request cannot be read."))

    @app.exception_handler(Exception)
    async def _unexpected(_request: Request, _error: Exception) -> JSONResponse:
        return fault()


def _first(errors: Any) -> str:
    """Where the first fault is and what it is; never the value, which may be a password."""
    for error in errors:
        place = ".".join(str(part)[:40] for part in error.get("loc", ()))
        return f"{place}: {error.get('type', 'invalid')}"
    return "invalid"
