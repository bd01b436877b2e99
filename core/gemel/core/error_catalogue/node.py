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
        "A node runs only code installed there. Nodes said so of a submitted bundle; today they ask for none (ADR 14).",
        "Install the programme's wheel at the node.",
        ExitCode.REFUSED,
    ),
    "GEM409": CatalogueEntry(
        "Node and coordinator speak different protocols",
        "A hello says which protocol its side speaks. This node and this coordinator are of versions too far apart.",
        "Bring the older side to the other's version: `gemel --version` on both, and the certificate's `software`.",
        ExitCode.REFUSED,
    ),
    "GEM410": CatalogueEntry(
        "A start kit or a request to join is malformed",
        "Each field of both documents is checked, and each must be signed by the keys that it names.",
        "Ask the coordinator for a new kit (`gemel federation invite`), or make the request again (`gemel node init`).",
        ExitCode.USAGE,
    ),
    "GEM411": CatalogueEntry(
        "A start kit is not valid now",
        "A kit may be used for a limited time. This one expired, or this machine's clock is wrong.",
        "Check the clock, then ask the coordinator for a new kit.",
        ExitCode.REFUSED,
    ),
    "GEM412": CatalogueEntry(
        "An approval is over",
        "The steward approved the study until a date, or for a number of runs, and that is past.",
        "A steward reads the study again (`gemel node show`) and decides anew.",
        ExitCode.REFUSED,
    ),
    "GEM413": CatalogueEntry(
        "A second steward has not approved yet",
        "This hospital asks for the approval of two stewards, and one has given it.",
        "Another steward decides with `gemel node approve`.",
        ExitCode.REFUSED,
    ),
    "GEM414": CatalogueEntry(
        "The installed code is not the code that was allowed",
        "The hospital allowed a programme as it was installed then. The code has changed since, as by an upgrade.",
        "Read what changed, allow it again (`gemel node allow PROGRAMME@VERSION HOME`), and start the node again.",
        ExitCode.REFUSED,
    ),
    "GEM415": CatalogueEntry(
        "The node's audit log does not hold",
        "An entry was changed, removed, added or put elsewhere, or the end of the log was cut off.",
        "Stop, keep the folder as evidence, and compare with an exported copy.",
        ExitCode.REFUSED,
    ),
    "GEM416": CatalogueEntry(
        "The node's audit log cannot be written",
        "A node that cannot write down what it does answers nothing: the disk is full, or the folder is not writable.",
        "Free disk space, or make HOME/audit writable for the node's user.",
    ),
    "GEM417": CatalogueEntry(
        "A key of the node cannot be used",
        "It is missing, readable by others, expired, or it is not the one that documents name.",
        "`gemel doctor --node HOME` says which; `gemel node rotate HOME` makes new ones.",
        ExitCode.REFUSED,
    ),
    "GEM419": CatalogueEntry(
        "A steward or a study is not known here",
        "The name, the key or the beginning of a hash fits none on record, or more than one.",
        "`gemel node studies HOME` and `gemel node status HOME` list them.",
        ExitCode.USAGE,
    ),
    "GEM420": CatalogueEntry(
        "The worker that computes on patients cannot be started",
        "Its process does not start, or the kernel gives it no network namespace or no Landlock to be shut in.",
        "`gemel doctor --node HOME` says which; the node's log has the system's words.",
    ),
    "GEM421": CatalogueEntry(
        "A task needed more memory than this node allows",
        "The task was ended at the node's limit. What it was charged stays charged; nothing was released.",
        "Raise the worker's memory in the node's configuration, or train in smaller batches.",
    ),
    "GEM422": CatalogueEntry(
        "A task took longer than this node allows",
        "The task was ended at the node's limit. What it was charged stays charged; nothing was released.",
        "Raise the worker's time in the node's configuration, or ask for fewer steps in a round.",
    ),
    "GEM423": CatalogueEntry(
        "The worker ended in the middle of a task, or answered something else",
        "Its process died by a signal, or what it sent is no answer. It was replaced; what was charged stays charged.",
        "Read the node's log. When it happens again, report it with the log.",
    ),
    "GEM424": CatalogueEntry(
        "The node's disk takes no writes",
        "It is full, or broken. Nothing was released; the node goes on by itself when there is room again.",
        "Make room on the file system that holds the node's home.",
    ),
    "GEM425": CatalogueEntry(
        "The coordinator does not accept this node",
        "Its transport key is not admitted, was revoked, or has expired.",
        "Ask the coordinator; `gemel node status HOME` shows since when.",
        ExitCode.REFUSED,
    ),
    "GEM426": CatalogueEntry(
        "This machine's clock differs from the coordinator's",
        "The node signs the time of each request: more than 5 minutes slow or 5 seconds fast is refused.",
        "Let the clock be set by NTP: `timedatectl set-ntp true`.",
    ),
}
