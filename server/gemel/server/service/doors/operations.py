"""Health, metrics, members, the audit log, and the form of this interface."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy import text

from gemel.core.software import software_versions
from gemel.server import studies
from gemel.server.service.access import CallerIn, Doors, ServiceIn
from gemel.server.service.forms import HealthOut, MemberOut
from gemel.server.service.roles import Permission
from gemel.server.studies import StudyState

DOORS = Doors()


@DOORS.door("GET", "/api/v1/health", Permission.ANYBODY, tags=["operations"])
def health(service: ServiceIn) -> HealthOut:
    """Whether the service and its store answer."""
    with service.engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    return HealthOut(status="ok", software=software_versions().get("gemel", ""))


@DOORS.door("GET", "/metrics", Permission.LOCAL, include_in_schema=False)
def metrics(service: ServiceIn) -> Response:
    """Prometheus' page, on this machine only."""
    with service.engine.connect() as connection:
        standing = [record.state for record in studies.every(connection)]
    for state in StudyState:
        service.metrics.studies.labels(str(state)).set(standing.count(state))
    service.metrics.audit_entries.set(service.log.head()[0])
    return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)


@DOORS.door("GET", "/api/v1/openapi.json", Permission.SELF, include_in_schema=False)
def openapi(request: Request) -> dict[str, Any]:
    """The form of this interface."""
    form: dict[str, Any] = request.app.openapi()
    return form


@DOORS.door("GET", "/api/v1/members", Permission.MEMBERS_READ, tags=["members"])
def list_members(service: ServiceIn) -> list[MemberOut]:
    """Every key of every hospital that was ever admitted, and whether it holds."""
    return [
        MemberOut(
            site=member.site,
            public_key=member.public_key,
            state=service.members.refusal(member.public_key) or "admitted",
            admitted_at=member.admitted_at,
            expires_at=member.expires_at,
            ended_at=member.ended_at,
        )
        for member in service.members.all()
    ]


@DOORS.door("GET", "/api/v1/audit", Permission.AUDIT_READ, tags=["audit"])
def audit_entries(
    service: ServiceIn,
    after: Annotated[int, Query(ge=0, le=2**53)] = 0,
    most: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """Entries of the audit log, the oldest first."""
    entries = service.log.entries(after=after, most=most)
    return {"entries": [msgspec.to_builtins(entry) for entry in entries], "head": service.log.head()[0]}


@DOORS.door("GET", "/api/v1/audit/export", Permission.AUDIT_READ, tags=["audit"])
def audit_export(
    caller: CallerIn, service: ServiceIn, after: Annotated[int, Query(ge=0, le=2**53)] = 0
) -> dict[str, Any]:
    """The audit log as a document that the coordinator signed; `gemel verify` checks it offline."""
    with service.log.act(caller.actor, "audit.export", after=str(after)):
        pass
    exported: dict[str, Any] = msgspec.to_builtins(service.log.export(service.home.key, after=after))
    return exported
