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
    "GEM510": CatalogueEntry(
        "A run was asked to stop",
        "Somebody with the right to do so stopped the study. What was released stays charged.",
        "Resume the study to go on from its last completed task.",
    ),
    "GEM511": CatalogueEntry(
        "A site answered after its round was closed",
        "The study closes a round as soon as enough hospitals answered (`pace.enough`). A later release is recorded and "
        "charged, and not averaged.",
        "Nothing: the site takes part in the next round. Raise `pace.enough` in the next study to wait for more.",
    ),
    "GEM512": CatalogueEntry(
        "A certificate claims what cannot be true",
        "A task is missing without a reason, a quorum was not met, a site is counted twice, or a hash does not follow from "
        "what it is of.",
        "Do not rely on the run. Ask the coordinator for its folder, and read what the message names.",
        ExitCode.REFUSED,
    ),
    "GEM513": CatalogueEntry(
        "A run's folder is not what its record says",
        "A model, a release or a result is missing or differs from the hash on record, or a reply is not signed by its site.",
        "Restore the run's folder from a backup of the same time as its state.",
        ExitCode.REFUSED,
    ),
    "GEM514": CatalogueEntry(
        "Hospitals know more of a run than its coordinator",
        "They released a task already, for other inputs than the coordinator has now: its folder is of an older backup. Nobody "
        "draws twice for one charge.",
        "Restore the newest copy of the run's folder; without one the study ends here, and a new one has to be signed.",
        ExitCode.REFUSED,
    ),
    "GEM515": CatalogueEntry(
        "There is nothing to evaluate",
        "The site whose last update was to be evaluated at all hospitals released none.",
        "Nothing: the task is skipped, and nobody pays for it.",
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
