"""The closed list of error codes. A code is never reused; only a code may leave a node, never its text.

Ranges: GEM1xx studies and signatures, GEM2xx data, GEM3xx privacy, GEM4xx node and gate,
GEM5xx coordinator and rounds, GEM6xx twins, GEM7xx virtual cohorts, GEM8xx command line and demo, GEM9xx the coordinator's
service and its users.
"""

from __future__ import annotations

from gemel.core.error_catalogue import (
    cohorts,
    command_line,
    coordinator,
    data,
    documents,
    node,
    privacy,
    registry,
    service,
    twins,
)
from gemel.core.error_catalogue.entry import CatalogueEntry, ExitCode

__all__ = ["CATALOGUE", "CatalogueEntry", "ExitCode"]

CATALOGUE: dict[str, CatalogueEntry] = {
    **documents.ENTRIES,
    **data.ENTRIES,
    **privacy.ENTRIES,
    **node.ENTRIES,
    **coordinator.ENTRIES,
    **registry.ENTRIES,
    **twins.ENTRIES,
    **cohorts.ENTRIES,
    **command_line.ENTRIES,
    **service.ENTRIES,
}
