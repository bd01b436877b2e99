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
    "GEM524": CatalogueEntry(
        "A coordinator's settings are not sound",
        "`federation.json` in its home says what the federation is called and where it is reached; or the home is none.",
        "Correct what the message names; `gemel federation init` makes a new home.",
    ),
    "GEM525": CatalogueEntry(
        "A certificate cannot be used or renewed",
        "The federation's CA signs its server certificates; its key lies in `keys/ca.key`, if it is not kept elsewhere.",
        "Put the CA's key back for the renewal; when the CA itself ends, follow `docs/consortium.md`, Certificates.",
    ),
    "GEM526": CatalogueEntry(
        "A request to join does not belong here",
        "It is for another coordinator, of a hospital that was not invited, or of keys that are another's.",
        "Invite the hospital under this name, and let it start from that kit: `gemel federation invite`.",
        ExitCode.REFUSED,
    ),
    "GEM527": CatalogueEntry(
        "The fingerprint on the phone is another",
        "The request to join that arrived does not hold the keys that the hospital's node made.",
        "Admit nothing. Ask the hospital to read it again (`gemel node status`) and to send its `join.json` again; "
        "if it differs still, the request was changed on its way.",
        ExitCode.REFUSED,
    ),
    "GEM528": CatalogueEntry(
        "A backup cannot be made or restored",
        "Restoring never writes over a home, and takes only a whole and unchanged backup.",
        "Do what the message says; restore into a folder that does not exist yet.",
    ),
}
