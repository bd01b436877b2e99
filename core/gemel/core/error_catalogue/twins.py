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
    "GEM603": CatalogueEntry(
        "A treatment plan does not fit the programme",
        "It names a treatment or an amount that the programme does not have, its days overlap, or it changes later what the "
        "data know at the index date only.",
        "`gemel programme show NAME` lists the treatments and their bounds.",
        ExitCode.REFUSED,
    ),
    "GEM604": CatalogueEntry(
        "The twin does not observe this",
        "Observations can be taken in only of what the programme's twin observes, in its unit, after the index date.",
        "`gemel programme show NAME` lists what it observes.",
        ExitCode.REFUSED,
    ),
}
