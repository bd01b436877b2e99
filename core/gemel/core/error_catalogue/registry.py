"""GEM530 to GEM539: simulations and the registry of models."""

from __future__ import annotations

from gemel.core.error_catalogue.entry import CatalogueEntry, ExitCode

ENTRIES: dict[str, CatalogueEntry] = {
    "GEM530": CatalogueEntry(
        "The patients cannot be divided so",
        "Each virtual hospital needs patients of its own, and a patient is in one hospital.",
        "Name fewer hospitals or more patients; in a file of `--split`, each patient once and each hospital with some.",
        ExitCode.USAGE,
    ),
    "GEM531": CatalogueEntry(
        "The registry has no such model",
        "A model is named by its hash (at least 8 of its digits), or by its study's id for the newest one.",
        "See which there are: `gemel model list`.",
    ),
    "GEM532": CatalogueEntry(
        "A registered model differs from its hash",
        "A file of the registry was changed or damaged; it is not given out.",
        "Restore the registry's folder from a backup; the hash on record names the content that was registered.",
        ExitCode.REFUSED,
    ),
    "GEM533": CatalogueEntry(
        "This twin cannot be exported to ONNX",
        "Its prediction uses what ONNX cannot say, or the exported graph did not agree with the twin.",
        "Use the safetensors file with the programme that the card names.",
    ),
    "GEM534": CatalogueEntry(
        "The tracking server cannot be used",
        "MLflow's client is not installed here, or its server does not answer.",
        "Install `mlflow-skinny` beside Gemel and check the address; the registry itself does not need it.",
        ExitCode.UNREACHABLE,
    ),
    "GEM535": CatalogueEntry(
        "The model is on record with other facts",
        "What is registered is never changed: the same bytes may not get another study, certificate or card.",
        "Register a new run; nothing has to be removed.",
        ExitCode.REFUSED,
    ),
}
