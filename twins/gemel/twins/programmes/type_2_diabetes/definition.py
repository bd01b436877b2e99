"""The programme of type 2 diabetes with its twin, and all that says what it is worth."""

from __future__ import annotations

from gemel.twins.claims import Grade
from gemel.twins.definition import ContextOfUse, Example, TwinDefinition, Validation
from gemel.twins.programmes.type_2_diabetes import PROGRAMME
from gemel.twins.programmes.type_2_diabetes.claims import CLAIMS
from gemel.twins.programmes.type_2_diabetes.open_data import SimulatedTypeTwoDiabetes
from gemel.twins.programmes.type_2_diabetes.physiology import DiabetesPhysiology
from gemel.twins.programmes.type_2_diabetes.plan import DEFAULT_TRAINING
from gemel.twins.programmes.type_2_diabetes.published_models import RiggsPhysiology
from gemel.twins.programmes.type_2_diabetes.published_scores import LAST_VALUE, UKPDS_90
from gemel.twins.programmes.type_2_diabetes.twin import TypeTwoDiabetesTwin
from gemel.twins.treatment_plan import TreatmentPlan

_CONTEXT = ContextOfUse(
    question=PROGRAMME.question,
    role="Compares what drug classes are expected to do to HbA1c and weight, in groups of people and for planning studies.",
    users="Diabetologists, general practitioners and statisticians of the hospitals that trained it.",
    influence="low",
    consequence="medium",
    credibility={
        "numerical_code_verification": "WHIG, Riggs and Topp give their published numbers; each class its published mean effect",
        "discretisation_error": "closed forms over pieces of time agree with the ODE within 0.012 % of HbA1c at 6 and 12 months",
        "model_form": "trained and measured on people simulated by two other mechanisms, which share no code with the twin",
        "comparator_samples": "simulated people only: no open data hold measured responses; events: Olmsted County's diabetics",
    },
    not_for=(
        "choosing a drug for a single patient",
        "type 1 diabetes, pregnancy, insulin doses",
        "hypoglycaemia, ketoacidosis and other harms of drugs: it knows none of them",
        "stopping a drug that a patient takes",
    ),
)

_VALIDATION = Validation(
    grade=Grade.POPULATION,
    data="mean effects of five drug classes (published meta-analyses); simulated people; events in Olmsted County",
    missing=(
        "open data with patients' HbA1c before and after the start of a drug",
        "how people differ in their response to a class: no published number was found, it is chosen",
        "UKPDS Outcomes Model 2 as a baseline of events: its coefficients were not at hand",
        "thiazolidinediones and insulin as treatments: they are known as other drugs only",
    ),
    limits=(
        "WHIG was seen for 67 weeks in obese people on a diet; beyond that the twin keeps HbA1c and weight as they are.",
        "Drugs act at full dose from the first day; doses, agents of a class and interactions between classes are not known.",
        "Which drug was started was the doctor's choice: what the twin learns of differences between classes may be confounded.",
        "Duration is the time since diabetes was last recorded, which is shorter than the truth where it is recorded often.",
        "A first prescription after half a year on record counts as a start, also where it renews an old one.",
    ),
)

_KNOWN = {
    "age_years": 61.0,
    "male": 1.0,
    "days_since_diabetes_was_recorded": 2400.0,
    "hba1c_percent": 8.4,
    "days_since_hba1c": 12.0,
    "earlier_hba1c_percent": 7.9,
    "fasting_glucose_mg_dl": 172.0,
    "body_weight_kg": 97.0,
    "body_mass_index_kg_m2": 32.4,
    "systolic_blood_pressure_mmhg": 141.0,
    "egfr_ml_min": 84.0,
    "alanine_aminotransferase_u_l": 38.0,
    "triglycerides_mg_dl": 190.0,
    "hdl_cholesterol_mg_dl": 42.0,
    "metformin": 1.0,
    "earlier_metformin": 1.0,
    "hypertension": 1.0,
}
_FLAGS = {f.name: 0.0 for f in PROGRAMME.columns if f.name not in _KNOWN and f.high == 1}

_EXAMPLE = Example(
    title="A man of 61 on metformin, HbA1c 8.4 %: an SGLT2 inhibitor or a DPP-4 inhibitor?",
    values={**_FLAGS, **_KNOWN},
    plan=TreatmentPlan.always({"sglt2_inhibitor": 1.0, "dpp_4_inhibitor": 0.0}, name="SGLT2 inhibitor"),
    other_plan=TreatmentPlan.always({"sglt2_inhibitor": 0.0, "dpp_4_inhibitor": 1.0}, name="DPP-4 inhibitor"),
    observations={
        "fasting_glucose": ((28.0, 141.0), (91.0, 138.0)),
        "body_weight": ((28.0, 96.1), (91.0, 95.2)),
        "hba1c": ((91.0, 7.7),),
    },
)

DEFINITION = TwinDefinition(
    programme=PROGRAMME,
    twin=TypeTwoDiabetesTwin,
    training=DEFAULT_TRAINING,
    physiology=(DiabetesPhysiology(), RiggsPhysiology()),
    baselines=(LAST_VALUE, UKPDS_90),
    claims=CLAIMS,
    context=_CONTEXT,
    validation=_VALIDATION,
    example=_EXAMPLE,
    open_data=SimulatedTypeTwoDiabetes(),
)
