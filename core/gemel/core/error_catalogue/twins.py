"""GEM6xx: twins."""

from __future__ import annotations

from gemel.core.error_catalogue.entry import CatalogueEntry, ExitCode

ENTRIES: dict[str, CatalogueEntry] = {
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
    "GEM603": CatalogueEntry(
        "A treatment plan does not fit the programme",
        "It names a treatment or an amount that the programme does not have, its days overlap, or it changes later what the "
        "data know at the index date only.",
        "`gemel programme show NAME` lists the treatments and their bounds.",
        ExitCode.REFUSED,
    ),
    "GEM604": CatalogueEntry(
        "The twin does not observe this",
        "Observations can be taken in only of what the programme's twin observes, in its unit, after the index date.",
        "`gemel programme show NAME` lists what it observes.",
        ExitCode.REFUSED,
    ),
    "GEM610": CatalogueEntry(
        "A patient's observations do not fit the twin",
        "They are impossible, or so far from anything the twin can produce that no parameters explain them.",
        "Check the values and their units first; then whether the patient is one of those that the programme is made for.",
        ExitCode.REFUSED,
    ),
    "GEM620": CatalogueEntry(
        "No what-if: a value is outside the public bounds",
        "The patient has a value for which the twin was not made.",
        "Check value and unit.",
        ExitCode.REFUSED,
    ),
    "GEM621": CatalogueEntry(
        "No what-if: the plan gives what is contraindicated",
        "The patient has, or may have (it is not known), a condition that forbids a treatment of the plan.",
        "Compare plans that may be given, or find out whether the patient has the condition.",
        ExitCode.REFUSED,
    ),
    "GEM622": CatalogueEntry(
        "No what-if: nobody like this patient got the plan",
        "The combination of values and plan lies outside what the twin learnt from: it would be guessing.",
        "Ask about a plan that people like this one got.",
        ExitCode.REFUSED,
    ),
    "GEM623": CatalogueEntry(
        "No what-if: hardly anybody like this patient got one of the plans",
        "The propensity of a plan is under 0.02 given the patient's values, so the comparison would rest on extrapolation.",
        "Ask about plans between which doctors choose for such patients.",
        ExitCode.REFUSED,
    ),
    "GEM624": CatalogueEntry(
        "No what-if: the twin knows no effect of what differs",
        "It expects exactly the same under both plans. That is not a difference of 0 that anybody found: the twin was not trained, "
        "or does not know the treatment, or the plans differ after its horizon only.",
        "`gemel programme show NAME` lists the treatments and where their effects come from.",
        ExitCode.REFUSED,
    ),
    "GEM625": CatalogueEntry(
        "The comparison is not one",
        "The endpoint, its horizon or the measure is none of the programme's, or the two plans are the same.",
        "`gemel programme show NAME` lists endpoints, horizons and treatments.",
        ExitCode.USAGE,
    ),
    "GEM626": CatalogueEntry(
        "No effect: the people asked about are not those who can be answered",
        "More than a tenth of them have no support for both plans, or there are not two of them.",
        "Narrow the population to people who could have got either plan, and ask again.",
        ExitCode.REFUSED,
    ),
    "GEM627": CatalogueEntry(
        "The error of the twin's parameters cannot be computed from these people",
        "The sandwich formula holds at the optimum only, and the twin was trained elsewhere, with privacy, or not to the end.",
        "Use the parametric bootstrap (`gemel.twins.causal.precision.retrained`).",
        ExitCode.REFUSED,
    ),
    "GEM628": CatalogueEntry(
        "No E-value of this",
        "It takes a positive ratio with an interval around it, two risks above 0, or a difference with a standard deviation.",
        "Check the numbers.",
        ExitCode.USAGE,
    ),
    "GEM629": CatalogueEntry(
        "No reference cohort of this",
        "A share is stated for something that is no flag of the programme, or is not between 0 and 1.",
        "State shares of the programme's flags.",
        ExitCode.USAGE,
    ),
    "GEM630": CatalogueEntry(
        "The patients do not fit the evaluation",
        "The data set is of another programme or version, lacks a column, or has nobody; or a grouping is not of its length.",
        "Build the data set with the programme version of the twin.",
        ExitCode.USAGE,
    ),
    "GEM631": CatalogueEntry(
        "An interval cannot be made",
        "A level outside 0 to 1, models of different programmes, or a covariance that is not of the twin's parameters.",
        "Give a level such as 0.9, and models of one programme.",
        ExitCode.USAGE,
    ),
    "GEM632": CatalogueEntry(
        "Too few patients to calibrate an interval",
        "A conformal interval needs at least level / (1 - level) held-out patients whose outcome is known.",
        "Ask for a lower level, or use the interval of the twin alone and say that it was not calibrated here.",
        ExitCode.REFUSED,
    ),
    "GEM633": CatalogueEntry(
        "No report of this",
        "Local numbers were given for a public report, or study, evaluation and definition are not of one programme.",
        "Exact local numbers belong into an internal report only.",
        ExitCode.REFUSED,
    ),
    "GEM634": CatalogueEntry(
        "The twin predicts something that is no number",
        "A risk, a mean or a spread is infinite or not a number; to score the others alone would hide it.",
        "A fault of the twin, or parameters that ran off in training: do not use it.",
        ExitCode.FAILED,
    ),
    "GEM655": CatalogueEntry(
        "The plan stops a drug that the patient takes",
        "The twin of type 2 diabetes learned what follows the start of a class. What stopping one does, it was never shown.",
        "Leave that class out of the plan, or ask about patients who do not take it.",
        ExitCode.REFUSED,
    ),
}
