"""What each drug class does to HbA1c and weight: published mean effects, and where in the physiology they act."""

from __future__ import annotations

from dataclasses import dataclass

from gemel.twins.parameters import Mark
from gemel.twins.programmes.type_2_diabetes import DRUG_CLASSES

# The person that a class's mean effect is set at.
REFERENCE_HBA1C, REFERENCE_WEIGHT_KG = 8.3, 90.0


@dataclass(frozen=True)
class DrugClass:
    """One class.

    Attributes:
        hba1c_percent: Mean change against placebo; low and high: its 95 % interval.
        weight_kg: Mean change of weight.
        renal: It acts by the loss of glucose in urine (Riggs 2014), and not on sensitivity or secretion.
    """

    name: str
    hba1c_percent: float
    low: float
    high: float
    source: str
    mark: Mark
    weight_kg: float
    weight_source: str
    weight_mark: Mark
    renal: bool = False


CLASSES = (
    DrugClass(
        "metformin",
        -1.12,
        -1.32,
        -0.92,
        "Hirst JA et al., Diabetes Care 2012;35:446, abstract: monotherapy against placebo",
        Mark.VERIFIED,
        -0.91,
        "GRADE run-in, Diabetes Care 2020;43:940, abstract: dose raised by 1,000 mg or more; not against placebo",
        Mark.VERIFIED,
    ),
    DrugClass(
        "sulfonylurea",
        -1.51,
        -1.78,
        -1.25,
        "Hirst JA et al., Diabetologia 2013;56:973, abstract: monotherapy against placebo",
        Mark.VERIFIED,
        2.00,
        "Qian D et al., Diabetes Ther 2018;9:1945, abstract: added to metformin",
        Mark.VERIFIED,
    ),
    DrugClass(
        "sglt2_inhibitor",
        -0.63,
        -0.70,
        -0.57,
        "Meta-analysis of 66 trials, PMID 29327406, abstract: 24 weeks",
        Mark.VERIFIED,
        -1.81,
        "Diabetol Metab Syndr 2015;7(S1):A58, abstract: empagliflozin 25 mg against placebo",
        Mark.VERIFIED,
        renal=True,
    ),
    DrugClass(
        "glp_1_receptor_agonist",
        -0.97,
        -1.13,
        -0.81,
        "Amori RE et al., JAMA 2007;298:194, abstract: against placebo",
        Mark.VERIFIED,
        -1.51,
        "PLoS One 2015;10:e0126769, abstract: liraglutide 1.8 mg against placebo",
        Mark.VERIFIED,
    ),
    DrugClass(
        "dpp_4_inhibitor",
        -0.74,
        -0.85,
        -0.62,
        "Amori RE et al., JAMA 2007;298:194, abstract: against placebo; the interval's upper end from memory",
        Mark.VERIFIED,
        0.0,
        "taken as weight-neutral",
        Mark.UNVERIFIED,
    ),
)
if tuple(one.name for one in CLASSES) != tuple(DRUG_CLASSES):
    raise ValueError("the classes are not those of the programme, in its order")
