"""GEM9xx: the coordinator's service and its users."""

from __future__ import annotations

from gemel.core.error_catalogue.entry import CatalogueEntry

ENTRIES: dict[str, CatalogueEntry] = {}
