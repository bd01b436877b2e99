"""The service as an ASGI application: every door declared, the guard before them, the watcher beside."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI

from gemel.server.service import access, answers
from gemel.server.service.doors import accounts, login, models, oidc_login, operations, studies
from gemel.server.service.parts import Service

ALL_DOORS = (login.DOORS, oidc_login.DOORS, accounts.DOORS, studies.DOORS, models.DOORS, operations.DOORS)


def build(service: Service) -> FastAPI:
    """The application behind the guard. A route without a declared permission is a RuntimeError: it does not start."""
    app = FastAPI(
        title="Gemel",
        version=version("gemel"),
        description="Users, tokens, studies and the audit log of a federation's coordinator.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    app.state.service = service
    access.install(app, *ALL_DOORS)
    answers.install(app)
    access.require_all_declared(app)
    return app
