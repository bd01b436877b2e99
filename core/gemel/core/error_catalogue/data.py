"""GEM2xx: data."""

from __future__ import annotations

from gemel.core.error_catalogue.entry import CatalogueEntry, ExitCode

ENTRIES: dict[str, CatalogueEntry] = {
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
}
