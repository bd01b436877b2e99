"""GEM9xx: the coordinator's service and its users."""

from __future__ import annotations

from gemel.core.error_catalogue.entry import CatalogueEntry, ExitCode

ENTRIES: dict[str, CatalogueEntry] = {
    "GEM901": CatalogueEntry(
        "Not signed in",
        "The request carries no token, or one that is unknown, expired or revoked, or its user is disabled.",
        "Sign in again: `gemel study login URL`.",
        ExitCode.REFUSED,
    ),
    "GEM902": CatalogueEntry(
        "The credentials are not accepted",
        "Name and password do not belong together, or no such user may sign in this way; the service does not say which.",
        "Try again, or ask an administrator for a new setup token.",
        ExitCode.REFUSED,
    ),
    "GEM903": CatalogueEntry(
        "Too many attempts",
        "Credentials were tried too often for this account, or from this address.",
        "Wait until the time in the answer's Retry-After is over. Tokens that are valid keep working.",
        ExitCode.REFUSED,
    ),
    "GEM904": CatalogueEntry(
        "The role does not permit this",
        "What a user may do is said in one table of roles; this is not in it for this user, or not for this token.",
        "Ask somebody who has the role, or an administrator to change yours.",
        ExitCode.REFUSED,
    ),
    "GEM905": CatalogueEntry(
        "The setup token is not accepted",
        "It is unknown, was used, or is older than a day; or the federation has its administrator already.",
        "Ask an administrator for a new one: `gemel federation user token NAME --setup`.",
        ExitCode.REFUSED,
    ),
    "GEM906": CatalogueEntry(
        "There is no such thing here",
        "Nothing of that name is here, or it is not this user's to see; the service does not say which.",
        "List what you may see: `gemel study list`.",
    ),
    "GEM907": CatalogueEntry(
        "The request is malformed",
        "The service checks each request against its published form, to the last field.",
        "The message names the field; the form is at /api/v1/openapi.json.",
        ExitCode.USAGE,
    ),
    "GEM908": CatalogueEntry(
        "The request is too large",
        "Requests are limited before they are read.",
        "A study is some kilobytes; send nothing else.",
        ExitCode.USAGE,
    ),
    "GEM909": CatalogueEntry(
        "It exists already",
        "A name, a key or a signed study is on record once only.",
        "Use the one on record, or another name.",
    ),
    "GEM910": CatalogueEntry(
        "The study's state does not allow this",
        "A study goes from draft to signed, proposed, approved and running, to finished, stopped or failed; only along the arrows.",
        "`gemel study show` says in which state it is.",
    ),
    "GEM911": CatalogueEntry(
        "The study is not signed with a key of yours",
        "A study is believed for its signature: by a key that its owner has put on record.",
        "Put the key on record (`gemel study key -o scientist.key`) and sign with it.",
        ExitCode.REFUSED,
    ),
    "GEM912": CatalogueEntry(
        "The audit log does not hold together",
        "An entry was changed, left out or put in, or entries were cut off.",
        "Compare with exports made before; keep this one as evidence.",
    ),
    "GEM913": CatalogueEntry(
        "The identity provider's answer is not accepted",
        "State, nonce, issuer, audience, signature or time of its answer are wrong, it was used before, or its user is not on record.",
        "Begin the login anew; if it fails again, the service's log names the check.",
        ExitCode.REFUSED,
    ),
    "GEM914": CatalogueEntry(
        "The password is too weak",
        "A password has 12 to 256 characters, five different ones at least, and does not hold the user's name.",
        "Choose another; a sentence is fine.",
        ExitCode.USAGE,
    ),
    "GEM915": CatalogueEntry(
        "A fault inside the service",
        "Something failed that should not; the cause is in the service's log, under the number that the message gives.",
        "Send the number to whoever runs the service.",
    ),
    "GEM916": CatalogueEntry(
        "The service cannot be reached",
        "No answer, or none that a Gemel service gives.",
        "Check the address and, for a CA of its own, `--ca`.",
        ExitCode.UNREACHABLE,
    ),
    "GEM917": CatalogueEntry(
        "Not signed in on this machine",
        "No token is stored here.",
        "`gemel study login URL`.",
        ExitCode.USAGE,
    ),
    "GEM918": CatalogueEntry(
        "A run's certificate does not verify",
        "A run ended with a certificate that is not its coordinator's, or not of this study: it does not count as finished.",
        "Keep the run's folder as it is and find out who wrote to it.",
    ),
    "GEM919": CatalogueEntry(
        "The service listens on loopback only",
        "nginx stands before it, with TLS and its limits.",
        "Start it with the address 127.0.0.1, and let nginx pass on to it.",
        ExitCode.USAGE,
    ),
    "GEM920": CatalogueEntry(
        "The last administrator cannot be removed",
        "Without one, nobody could let anybody in.",
        "Make another administrator first.",
        ExitCode.REFUSED,
    ),
    "GEM921": CatalogueEntry(
        "A study without a hospital that may take part",
        "One of the hospitals that the study lists is not a member of the federation with that key, now.",
        "`gemel federation list` has the members and their keys.",
        ExitCode.REFUSED,
    ),
    "GEM922": CatalogueEntry(
        "The home is served already",
        "One service at a time follows a coordinator's runs.",
        "Use the one that runs, or end it first.",
    ),
}
