"""GEM4xx: node and gate."""

from __future__ import annotations

from gemel.core.error_catalogue.entry import CatalogueEntry, ExitCode

ENTRIES: dict[str, CatalogueEntry] = {
    "GEM401": CatalogueEntry(
        "A study is not approved at this node",
        "A steward of the hospital has not approved this study, or has refused it.",
        "Ask the hospital's steward.",
        ExitCode.REFUSED,
    ),
    "GEM402": CatalogueEntry(
        "Fewer people than the hospital's minimum",
        "The cohort is smaller than the floor that the hospital or the study sets. Nothing was released.",
        "The hospital takes no part in this study.",
        ExitCode.REFUSED,
    ),
    "GEM403": CatalogueEntry(
        "A payload is not what the study allows",
        "Names, shapes, dtypes or values differ from what this task may release. Nothing was released.",
        "Check that node and coordinator run the same programme version.",
        ExitCode.REFUSED,
    ),
    "GEM404": CatalogueEntry(
        "A message is not a task of its study",
        "The message's task, inputs or sender are not what the signed study says.",
        "Check the coordinator's version and the study it runs.",
        ExitCode.REFUSED,
    ),
    "GEM405": CatalogueEntry(
        "The data set changed since approval",
        "The snapshot that the steward approved differs from the data at hand.",
        "Ask the steward to approve the study again.",
        ExitCode.REFUSED,
    ),
    "GEM406": CatalogueEntry(
        "The node failed in a task",
        "An unexpected fault; its text stays in the hospital's log.",
        "Ask the hospital's IT to look into the node's log.",
    ),
    "GEM407": CatalogueEntry(
        "A node's home is not usable",
        "The folder lacks a part (configuration, keys, stores), or belongs to another version.",
        "Create the node again from its start kit.",
        ExitCode.USAGE,
    ),
    "GEM408": CatalogueEntry(
        "The app is not pre-installed at this node",
        "A node runs only code installed there; what a run submits is never unpacked.",
        "Install the programme's wheel at the node.",
        ExitCode.REFUSED,
    ),
    "GEM409": CatalogueEntry(
        "Node and coordinator speak different protocols",
        "A hello says which protocol its side speaks. This node and this coordinator are of versions too far apart.",
        "Bring the older side to the other's version: `gemel --version` on both, and the certificate's `software`.",
        ExitCode.REFUSED,
    ),
}
