"""What TRIPOD+AI asks for: its 27 items with their parts, in our words.

Collins GS et al., BMJ 2024;385:e078378 (CC BY 4.0). The wording there is what counts.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """One item or part of one: its number, its section, and what it asks for."""

    number: str
    section: str
    asks: str


_SECTIONS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("Title", (("1", "Development or evaluation of a prediction model; population and outcome"),)),
    ("Abstract", (("2", "Structured summary"),)),
    (
        "Introduction",
        (
            ("3a", "Healthcare context, rationale, existing models"),
            ("3b", "Target population, place in care, intended users and purpose"),
            ("3c", "Known health inequalities between groups"),
            ("4", "Objectives: development, evaluation or both"),
        ),
    ),
    (
        "Methods",
        (
            ("5a", "Sources of data for development and evaluation, and how representative they are"),
            ("5b", "Dates of data, of accrual and of the end of follow-up"),
            ("6a", "Setting, number and place of centres"),
            ("6b", "Eligibility"),
            ("6c", "Treatments, and how they were handled"),
            ("7", "Data preparation and quality checks, alike over groups"),
            ("8a", "Outcome, time horizon, how and when it is assessed"),
            ("8b", "Who assessed the outcome, where that takes judgement"),
            ("8c", "Blinding of the outcome's assessment"),
            ("9a", "How predictors were chosen"),
            ("9b", "Predictors, how and when they were measured"),
            ("9c", "Who assessed predictors, where that takes judgement"),
            ("10", "How the sample size came about, for development and evaluation"),
            ("11", "Missing data, and reasons to leave data out"),
            ("12a", "How data were used: parts, and what for"),
            ("12b", "How predictors were handled: form, scaling, standardisation"),
            ("12c", "Type of model, all steps of building it, hyperparameters, internal validation"),
            ("12d", "Heterogeneity over clusters: hospitals, countries"),
            ("12e", "Measures and plots of performance, and comparison of models"),
            ("12f", "Model updating, for all or for some settings"),
            ("12g", "For evaluation: how predictions were computed"),
            ("13", "Class imbalance, and recalibration after it"),
            ("14", "Fairness: what was done about it"),
            ("15", "Output of the model, and thresholds"),
            ("16", "Differences between development and evaluation data"),
            ("17", "Ethical approval and consent"),
        ),
    ),
    (
        "Open science",
        (
            ("18a", "Funding"),
            ("18b", "Conflicts of interest"),
            ("18c", "Protocol"),
            ("18d", "Registration"),
            ("18e", "Data sharing"),
            ("18f", "Code sharing"),
        ),
    ),
    (
        "Patient and public involvement",
        (("19", "Involvement of patients and the public, or that there was none"),),
    ),
    (
        "Results",
        (
            ("20a", "Flow of participants, with and without the outcome, follow-up"),
            ("20b", "Characteristics, and how much is missing"),
            ("20c", "For evaluation: predictors and outcome beside those of development"),
            ("21", "Participants and events of each analysis"),
            ("22", "The whole model, so that others can predict and evaluate it"),
            ("23a", "Performance with intervals, for key subgroups"),
            ("23b", "Heterogeneity of performance over clusters"),
            ("24", "Results of updating"),
        ),
    ),
    (
        "Discussion",
        (
            ("25", "Interpretation, with fairness and earlier studies"),
            ("26", "Limitations: bias, uncertainty, generalisability"),
            ("27a", "What to do with poor or unavailable input"),
            ("27b", "What users need: interaction and expertise"),
            ("27c", "Next steps for research"),
        ),
    ),
)

ITEMS = tuple(Item(number, section, asks) for section, items in _SECTIONS for number, asks in items)
