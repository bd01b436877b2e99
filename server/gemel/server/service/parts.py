"""What the service is made of, in one value that every endpoint gets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from gemel.server.home import CoordinatorHome
from gemel.server.members import Members
from gemel.server.service.attempts import Attempts
from gemel.server.service.audit import AuditLog
from gemel.server.service.metrics import Metrics
from gemel.server.service.passwords import Passwords

if TYPE_CHECKING:
    from gemel.server.service.oidc import Provider


@dataclass(frozen=True)
class Service:
    """The coordinator's home and store, and what checks and counts."""

    home: CoordinatorHome
    engine: Engine
    log: AuditLog
    attempts: Attempts
    passwords: Passwords
    members: Members
    metrics: Metrics = field(default_factory=Metrics)
    provider: Provider | None = None


def open_service(
    home: CoordinatorHome,
    engine: Engine,
    *,
    passwords: Passwords | None = None,
    provider: Provider | None = None,
) -> Service:
    """The parts for a home and its open store."""
    log = AuditLog(engine)
    log.begin()
    return Service(
        home=home,
        engine=engine,
        log=log,
        attempts=Attempts(engine),
        passwords=passwords or Passwords(),
        members=Members(engine),
        provider=provider,
    )
