"""GEM6xx: twins."""

from __future__ import annotations

from gemel.core.error_catalogue.entry import CatalogueEntry, ExitCode

ENTRIES: dict[str, CatalogueEntry] = {
    "GEM601": CatalogueEntry(
        "A patient's features are outside the twin's support",
        "The twin refuses to predict for values outside the public bounds that it was trained with.",
        "Check value and unit.",
        ExitCode.REFUSED,
    ),
    "GEM602": CatalogueEntry(
        "A twin file does not fit its programme",
        "Parameter names, shapes or dtypes differ from what the programme declares.",
        "Use the programme version that the model card names.",
        ExitCode.REFUSED,
    ),
}
