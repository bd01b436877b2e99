"""GEM3xx: privacy."""

from __future__ import annotations

from gemel.core.error_catalogue.entry import CatalogueEntry, ExitCode

ENTRIES: dict[str, CatalogueEntry] = {
    "GEM301": CatalogueEntry(
        "The privacy budget would be exceeded",
        "Running this task would take patients of this hospital over its lifetime cap. Nothing was computed.",
        "Ask for a cheaper study, or have the hospital's steward raise the cap.",
        ExitCode.REFUSED,
    ),
    "GEM302": CatalogueEntry(
        "The ledger is damaged",
        "The privacy ledger does not verify: an entry was changed, removed or reordered. Nothing runs on it.",
        "Stop the node, keep the file, restore the last anchored copy.",
        ExitCode.REFUSED,
    ),
    "GEM303": CatalogueEntry(
        "A mechanism is not known to the accountant",
        "What cannot be accounted for is refused, never guessed.",
        "Use one of the mechanisms of the privacy plan.",
        ExitCode.REFUSED,
    ),
    "GEM304": CatalogueEntry(
        "A task was already charged for another request",
        "Each task of a study is released once; the same task with other inputs would be a second release.",
        "Propose a new study; replays of the very same request are answered from the node's outbox.",
        ExitCode.REFUSED,
    ),
    "GEM305": CatalogueEntry(
        "A privacy plan is not possible",
        "No noise within the allowed range meets the plan's ε and δ.",
        "Raise ε, lower the number of rounds or local steps, or leave out a task.",
        ExitCode.USAGE,
    ),
    "GEM306": CatalogueEntry(
        "A model cannot be trained under patient-level privacy",
        "A layer couples patients, or has no per-patient gradient.",
        "Replace the layer that the message names.",
        ExitCode.USAGE,
    ),
    "GEM307": CatalogueEntry(
        "A task was not charged",
        "Nothing is computed on patients, and nothing leaves, without a ledger entry that covers it.",
        "This is a defect in the node software: report it.",
        ExitCode.REFUSED,
    ),
    "GEM308": CatalogueEntry(
        "Budget cannot be given back",
        "Only tasks that never began are given back, by a decision that a steward on record has signed for this ledger.",
        "Name tasks that `gemel ledger show` lists as unused, and sign as a steward of the hospital.",
        ExitCode.REFUSED,
    ),
    "GEM309": CatalogueEntry(
        "The ledger was rolled back",
        "An entry that was its newest once, as the coordinator, a run certificate or the file beside it says, is missing.",
        "Stop the node and find the newest copy of the ledger; what was spent since this one must not be forgotten.",
        ExitCode.REFUSED,
    ),
    "GEM310": CatalogueEntry(
        "The clock moved back",
        "An entry would be, or is, dated before the one it follows.",
        "Set the node's clock right. An entry dated in the future lets nothing be written until then.",
        ExitCode.REFUSED,
    ),
    "GEM311": CatalogueEntry(
        "A statistic cannot be asked for",
        "Its bounds, bins, names or noise are outside of what a statistic may have, or the data set lacks what it names.",
        "Correct the field that the message names; bounds and bins are public and chosen beforehand.",
        ExitCode.USAGE,
    ),
    "GEM313": CatalogueEntry(
        "A plan does not say whom it touches",
        "A charge names a share of the patients, and the people of that share were not given, or cannot be told apart.",
        "This is a defect in the node software: report it.",
    ),
    "GEM320": CatalogueEntry(
        "A step of secure aggregation does not verify",
        "A masking message is malformed, too large, of another aggregation, already answered, or not by whom it names.",
        "Start the aggregation again; if it repeats, find out which party sends such messages.",
        ExitCode.REFUSED,
    ),
    "GEM321": CatalogueEntry(
        "The coordinator shows different views of one aggregation",
        "Nodes were told different participants or survivors, as one would to take the masks off a single update.",
        "Do not go on with this coordinator before the cause is known.",
        ExitCode.REFUSED,
    ),
    "GEM322": CatalogueEntry(
        "Too few nodes for secure aggregation",
        "Fewer nodes are left than the threshold, or than the shared noise needs; nothing was unmasked.",
        "Wait until more nodes are back and start the task again; the updates stay masked.",
        ExitCode.REFUSED,
    ),
    "GEM323": CatalogueEntry(
        "A second unmasking was asked for",
        "Both kinds of share of one peer, or shares of a second attempt after the first, would lay one update open.",
        "Nothing to do: what was unmasked once stays as it is. Do not go on with this coordinator unexamined.",
        ExitCode.REFUSED,
    ),
    "GEM324": CatalogueEntry(
        "A value does not fit the ring of secure aggregation",
        "The sum of all nodes could wrap around, or a value lies outside the stated range.",
        "Choose the 64-bit ring, a smaller range or fewer fraction bits.",
        ExitCode.REFUSED,
    ),
    "GEM330": CatalogueEntry(
        "An audit found a promise broken",
        "An attack on this installation got further than the privacy plan allows, or could not be carried out.",
        "Stop releasing until the cause is known: `gemel audit --format json` says what was measured. Report it.",
        ExitCode.FAILED,
    ),
    "GEM340": CatalogueEntry(
        "A strategy does not fit the twin",
        "It names parameters to keep at each hospital that the twin does not have, or leaves none to share.",
        "Name parameters of the programme's twin, and leave at least one to the federation.",
        ExitCode.USAGE,
    ),
    "GEM341": CatalogueEntry(
        "A correction is out of bounds",
        "The coordinator sent a correction for training that no honest round of this study leads to.",
        "Nothing was computed. Look at the learning rate: training probably diverged.",
        ExitCode.REFUSED,
    ),
    "GEM342": CatalogueEntry(
        "What a hospital keeps for itself is missing or damaged",
        "The parameters that never leave the hospital, or its personal twin, are not there as they were written.",
        "Restore the node's home from its backup, or propose a new study.",
        ExitCode.FAILED,
    ),
    "GEM343": CatalogueEntry(
        "A strategy is not installed",
        "The coordinator has no strategy of the name that the study asks for.",
        "Ask for one of those in `docs/strategies.md`, or install its file at the coordinator.",
        ExitCode.USAGE,
    ),
}
