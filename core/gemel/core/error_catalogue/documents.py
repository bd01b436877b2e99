"""GEM1xx: studies, programmes, signatures."""

from __future__ import annotations

from gemel.core.error_catalogue.entry import CatalogueEntry, ExitCode

ENTRIES: dict[str, CatalogueEntry] = {
    "GEM101": CatalogueEntry(
        "A study document is malformed",
        "A study is checked field by field when it is read; an unknown, missing or ill-typed field is refused.",
        "Correct the field that the message names, then sign the study again.",
        ExitCode.USAGE,
    ),
    "GEM102": CatalogueEntry(
        "A signature does not verify",
        "The document was changed after it was signed, or was signed with another key than the one on record.",
        "Ask the signer for the original document; do not run this one.",
        ExitCode.REFUSED,
    ),
    "GEM103": CatalogueEntry(
        "A hash does not match its document",
        "The content differs from the hash that names it.",
        "Fetch the document again; if the difference stays, treat it as tampered with.",
        ExitCode.REFUSED,
    ),
    "GEM104": CatalogueEntry(
        "A programme is not installed here",
        "Studies name a programme and its version; only installed, reviewed programmes run.",
        "Install the wheel that holds this programme version, or ask for a study with an installed one.",
        ExitCode.REFUSED,
    ),
    "GEM105": CatalogueEntry(
        "A chain is broken",
        "An entry of a hash chain was changed, removed, added or reordered.",
        "Stop, keep the file as evidence, and restore the last anchored copy.",
        ExitCode.REFUSED,
    ),
    "GEM106": CatalogueEntry(
        "A file holds no document that can be verified",
        "`gemel verify` takes signed documents and exported ledgers.",
        "Check the path; export the ledger with `gemel ledger show --export FILE`.",
        ExitCode.USAGE,
    ),
}
