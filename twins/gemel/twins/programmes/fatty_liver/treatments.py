"""What can be done, and what trials found it to do.

The data sets of this programme record no drug and no weight change after the index date. So no effect is estimated here:
each one is that of a randomised trial or meta-analysis (of weight loss: of a cohort with paired biopsies), carried into the
twin as it was published. It is an effect in that trial's patients; nobody showed it in those of the hospitals.
"""

from __future__ import annotations

from gemel.core.programme import Assignment, Treatment, TreatmentKind

VILAR_GOMEZ = (
    "Vilar-Gomez E et al., Gastroenterology 2015;149:367 (293 patients, paired biopsies, no control group)"
)
ESSENCE = "Sanyal AJ et al., N Engl J Med 2025 (ESSENCE, 800 patients at 72 weeks)"
MAESTRO_NASH = "Harrison SA et al., N Engl J Med 2024;390:497 (MAESTRO-NASH, 966 patients at 52 weeks)"
GLP_1_OUTCOMES = "meta-analysis of seven outcome trials, Diabetes Obes Metab 2020;22:203 (type 2 diabetes)"
STATIN_TRIALS = (
    "Cholesterol Treatment Trialists, Lancet 2005;366:1267 (14 trials, per 1 mmol/L of LDL cholesterol)"
)
PREDESCI = (
    "Villanueva C et al., Lancet 2019;393:1597 (PREDESCI; HVPG -16 % by carvedilol, -10 % by propranolol)"
)

TREATMENTS = (
    Treatment(
        name="weight_loss",
        title="Weight loss, kept",
        kind=TreatmentKind.DOSE,
        assignment=Assignment.OBSERVED,
        unit="%",
        high=20,
        source=VILAR_GOMEZ,
    ),
    Treatment(
        name="glp_1_receptor_agonist",
        title="GLP-1 receptor agonist (semaglutide 2.4 mg weekly)",
        kind=TreatmentKind.BINARY,
        assignment=Assignment.OBSERVED,
        source=f"{ESSENCE}; {GLP_1_OUTCOMES}",
    ),
    Treatment(
        name="resmetirom",
        title="Resmetirom",
        kind=TreatmentKind.BINARY,
        assignment=Assignment.OBSERVED,
        source=MAESTRO_NASH,
    ),
    Treatment(
        name="statin",
        title="Statin, lowering LDL cholesterol by 1 mmol/L",
        kind=TreatmentKind.BINARY,
        assignment=Assignment.OBSERVED,
        source=STATIN_TRIALS,
    ),
    Treatment(
        name="beta_blocker",
        title="Non-selective beta-blocker (carvedilol)",
        kind=TreatmentKind.BINARY,
        assignment=Assignment.OBSERVED,
        source=PREDESCI,
    ),
)
