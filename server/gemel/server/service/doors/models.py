"""The registry of global twins, to be read: their cards, lineage and files."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Response

from gemel.server.registry import views
from gemel.server.service.access import Doors, ServiceIn
from gemel.server.service.roles import Permission

DOORS = Doors()
ModelName = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,127}$")]
FileName = Annotated[str, Path(pattern=r"^[a-z][a-z0-9_.-]{0,63}$")]


@DOORS.door("GET", "/api/v1/models", Permission.MODELS_READ, tags=["models"])
def list_models(service: ServiceIn) -> dict[str, Any]:
    """Every registered twin."""
    return {"models": views.list_models(service.home)}


@DOORS.door("GET", "/api/v1/models/{name}", Permission.MODELS_READ, tags=["models"])
def show_model(name: ModelName, service: ServiceIn) -> dict[str, Any]:
    """One twin: its record, files, scores and limits. Named by its hash, or by its study."""
    return views.show_model(service.home, name)


@DOORS.door("GET", "/api/v1/models/{name}/files/{file}", Permission.MODELS_READ, tags=["models"])
def model_file(name: ModelName, file: FileName, service: ServiceIn) -> Response:
    """One of its files, by a name of the signed record; never a path."""
    content, media_type = views.model_file(service.home, name, file)
    return Response(content, media_type=media_type)
