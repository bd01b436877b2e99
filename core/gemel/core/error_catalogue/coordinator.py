"""GEM5xx: coordinator and rounds."""

from __future__ import annotations

from gemel.core.error_catalogue.entry import CatalogueEntry, ExitCode

ENTRIES: dict[str, CatalogueEntry] = {
    "GEM501": CatalogueEntry(
        "Fewer sites than the quorum",
        "Too few hospitals answered for a sound average; the run stops rather than average quietly.",
        "Read the certificate: it names each site and why it is missing. Then resume the run.",
    ),
    "GEM502": CatalogueEntry(
        "A site did not answer in time",
        "The hospital's node was away or too slow; its privacy charge stands.",
        "Check the node; it takes part again from the next round.",
        ExitCode.UNREACHABLE,
    ),
    "GEM503": CatalogueEntry(
        "A reply does not verify",
        "The reply's signature, task or payload hash is wrong; it was not used.",
        "Check the node's key on record at the coordinator.",
        ExitCode.REFUSED,
    ),
    "GEM504": CatalogueEntry(
        "A run ended without a certificate",
        "The coordinator or Flower stopped before the run was complete.",
        "Resume the run: it goes on from the last completed round.",
    ),
    "GEM505": CatalogueEntry(
        "A peer cannot be reached",
        "The process did not start or does not listen.",
        "Read its log, named in the message.",
        ExitCode.UNREACHABLE,
    ),
    "GEM520": CatalogueEntry(
        "The coordinator's store does not open",
        "Members, users and studies are kept in SQLite in the coordinator's home, or in the PostgreSQL that it names.",
        "Check `keys/database.url`, that the server runs and that its user may make tables; for SQLite, the folder's owner.",
        ExitCode.UNREACHABLE,
    ),
    "GEM521": CatalogueEntry(
        "A hospital is not a member",
        "The federation has admitted no node with this key.",
        "Invite the hospital, and admit the key that its node made: `gemel federation admit`.",
        ExitCode.REFUSED,
    ),
    "GEM522": CatalogueEntry(
        "A hospital's key was revoked or replaced",
        "This key is no longer believed, whatever it signs.",
        "Use the hospital's present key (`gemel federation list`), or admit a new one.",
        ExitCode.REFUSED,
    ),
    "GEM523": CatalogueEntry(
        "A hospital's key has expired",
        "Keys are admitted for a time; this one's is over.",
        "Rotate it at the hospital (`gemel node rotate`) and admit the new one.",
        ExitCode.REFUSED,
    ),
}
