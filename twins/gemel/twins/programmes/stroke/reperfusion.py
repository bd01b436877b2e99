"""What thrombolysis and thrombectomy do to outcome: odds ratios of trials. No data set of this programme records either.

An odds ratio of a good outcome is taken as that of every level of the scale (proportional odds). Neither treatment changes the hazard
of death here: the trials found no clear effect.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gemel.twins.parameters import Mark
from gemel.twins.treatment_plan import TreatmentPlan

# Until which hour, and the odds ratio of mRS 0-1. The hours count from the index date: the programme has no delay before it.
THROMBOLYSIS_BY_HOUR = ((3.0, 1.75), (4.5, 1.26), (math.inf, 1.15))
THROMBOLYSIS_SOURCE = (
    "Emberson et al., Lancet 2014;384:1929, abstract: 1.75 (1.35-2.27), 1.26 (1.05-1.51), 1.15 (0.95-1.40)"
)
THROMBOLYSIS_MARK = Mark.VERIFIED
THROMBECTOMY_ODDS = 2.49
THROMBECTOMY_SOURCE = "Goyal et al. (HERMES), Lancet 2016;387:1723: common odds ratio, by the research note"
THROMBECTOMY_MARK = Mark.UNVERIFIED
# Symptomatic haemorrhage in the week after thrombolysis, as a ratio of hazards.
BLEEDING_RATIO, BLEEDING_DAYS = 5.55, 7.0
BLEEDING_SOURCE = (
    "Emberson et al. 2014: odds ratio of type 2 parenchymal haemorrhage within 7 days, from memory"
)
BLEEDING_MARK = Mark.UNVERIFIED


def shift_of_function(plan: TreatmentPlan) -> float:
    """What a plan adds to a patient's place on the logistic scale of the modified Rankin Scale; negative is better."""
    shift = 0.0
    for dose in plan.doses:
        if dose.amount and dose.treatment == "thrombectomy":
            shift -= math.log(THROMBECTOMY_ODDS)
        if dose.amount and dose.treatment == "thrombolysis":
            hours = dose.from_days * 24
            shift -= math.log(next(odds for until, odds in THROMBOLYSIS_BY_HOUR if hours <= until))
    return shift


def bleeding(plan: TreatmentPlan, days: NDArray[np.floating]) -> NDArray[np.float32]:
    """float32 (T,): what a plan adds to the logarithm of the hazard of intracerebral haemorrhage on each of `days`."""
    added = np.zeros(days.shape, np.float32)
    for dose in plan.doses:
        if dose.amount and dose.treatment == "thrombolysis":
            within = (days >= dose.from_days) & (days < dose.from_days + BLEEDING_DAYS)
            added[within] += math.log(BLEEDING_RATIO)
    return added
