"""GEM7xx: virtual cohorts."""

from __future__ import annotations

from gemel.core.error_catalogue.entry import CatalogueEntry, ExitCode

ENTRIES: dict[str, CatalogueEntry] = {
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
    "GEM704": CatalogueEntry(
        "A virtual cohort cannot be drawn under this condition",
        "The condition names no run of the public bins, or nobody in the model meets it.",
        "Choose bounds among the column's public edges, or a level that it has.",
        ExitCode.REFUSED,
    ),
    "GEM705": CatalogueEntry(
        "A plan of virtual cohorts does not fit its domain",
        "A table names no column of the domain, the tree is none, or nothing is there to tie the columns to.",
        "Plan anew from the programme version that the study names.",
        ExitCode.REFUSED,
    ),
    "GEM720": CatalogueEntry(
        "What was chosen for a virtual cohort cannot be counted",
        "A round of synthesis was asked for pairs that are no spanning tree of the programme's public columns, or for other numbers "
        "of tables than the study is charged for. Nothing was counted.",
        "The coordinator's software differs from the node's, or lies: compare their versions.",
        ExitCode.REFUSED,
    ),
    "GEM730": CatalogueEntry(
        "The programme has no visits to learn",
        "A study asks for virtual trajectories of a programme that declares no visits, or for a larger network of them than is trained.",
        "Leave trajectories out, or use a programme that declares visits.",
        ExitCode.REFUSED,
    ),
    "GEM731": CatalogueEntry(
        "A twin cannot be calibrated so",
        "The twin has no scalars of that name, there are too many of them, or the summaries are too many, or too noisy to tell anything.",
        "Name fewer of the twin's arrays, or ask for summaries with less noise.",
    ),
    "GEM740": CatalogueEntry(
        "Visits do not fit the virtual cohort",
        "A visit names a patient that is not there, lies before the index date or after a death, or stands out of order. "
        "Nothing was written.",
        "Simulate the visits for this very cohort, and stop at each death.",
    ),
    "GEM741": CatalogueEntry(
        "An exported cohort is not what was signed",
        "A file that the manifest names is missing or was changed, or one is there that it does not name.",
        "Take the cohort again from who generated it; keep other files out of its folder.",
        ExitCode.REFUSED,
    ),
    "GEM742": CatalogueEntry(
        "A virtual cohort does not leave by this decision",
        "The decision to release is about another model than the cohort is drawn from, or contradicts itself; or the report given is "
        "not the one that the cohort was released by.",
        "Examine the very model that you draw from (gemel synth report), and draw with that report.",
        ExitCode.REFUSED,
    ),
    "GEM755": CatalogueEntry(
        "A virtual cohort may not be released by its report",
        "A row of the report that decides has failed, or one that is required was not tested. Nothing was written.",
        "Make the report with patients' data, or name who releases the cohort all the same, and why: this is recorded with it.",
        ExitCode.REFUSED,
    ),
    "GEM756": CatalogueEntry(
        "A report is about another model",
        "The report names another model's hash than that of the model to draw from, or is no report.",
        "Make the report of this very model.",
        ExitCode.REFUSED,
    ),
    "GEM757": CatalogueEntry(
        "People do not fit the report's domain",
        "A column of the public domain is missing, or columns are not equally long.",
        "Give the columns that the domain names, one entry for each person.",
    ),
    "GEM763": CatalogueEntry(
        "A model file does not hold",
        "It is damaged, is no model of virtual cohorts, or its parts do not follow from each other: the tables are not those that the "
        "certificate names, the provenance is not that of the study, or the potentials are another model's.",
        "Fit the model again from the run's folder: gemel synth fit.",
        ExitCode.REFUSED,
    ),
    "GEM764": CatalogueEntry(
        "A run brought no virtual cohorts",
        "The folder holds no certificate, or the run ended before its last round of synthesis, or the tables of that round are not there.",
        "Name the folder of a finished run: the coordinator's runs/HASH, what gemel study pull wrote, or gemel study simulate --out.",
        ExitCode.REFUSED,
    ),
    "GEM765": CatalogueEntry(
        "The patients that a report needs are not there",
        "A folder holds no data set of the model's programme, or there are patients who were counted and none who were kept out.",
        "Name a data set of gemel data build, or a node's home, with --data; or both --training and --holdout.",
    ),
}
