"""One way in for every live source: settings and a folder give an export that `open_export` reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gemel.core.errors import GemelError
from gemel.data_adapters.sources import bulk_data, rest_search
from gemel.data_adapters.sources.fetched import Fetched
from gemel.data_adapters.sources.fhir_server import FhirServer, Patience
from gemel.data_adapters.sources.settings import SourceSettings


def fetch(
    source: SourceSettings,
    folder: Path,
    *,
    say: Callable[[str], None] = lambda _: None,
    patience: Patience | None = None,
) -> Fetched:
    """Fetch a source into a new folder, or go on in one where the same was broken off.

    Args:
        source: Where, how and what.
        folder: The export; it holds manifest.json when it is complete.
        say: Told about progress, new starts and other keys.
        patience: With a busy server; None takes it from the settings.

    Raises:
        GemelError: GEM223 to GEM229.
    """
    run = bulk_data.export if source.way == "bulk" else rest_search.search
    try:
        with FhirServer(source, patience=patience, say=say) as server:
            return run(source, folder, server)
    except OSError as error:
        raise GemelError("GEM226", f"{folder} cannot be written: {error.strerror}.") from error
