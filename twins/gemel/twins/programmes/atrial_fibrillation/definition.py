"""The programme of atrial fibrillation with its twin, and all that says what it is worth."""

from __future__ import annotations

from gemel.twins.claims import Grade
from gemel.twins.definition import ContextOfUse, Example, TwinDefinition, Validation
from gemel.twins.programmes.atrial_fibrillation import PROGRAMME
from gemel.twins.programmes.atrial_fibrillation.claims import CLAIMS
from gemel.twins.programmes.atrial_fibrillation.open_data import OlmstedFibrillation
from gemel.twins.programmes.atrial_fibrillation.plan import DEFAULT_TRAINING
from gemel.twins.programmes.atrial_fibrillation.published_scores import CHA2DS2_VA, CHA2DS2_VASC
from gemel.twins.programmes.atrial_fibrillation.rhythm import ClotPropensity, RhythmChain
from gemel.twins.programmes.atrial_fibrillation.twin import AtrialFibrillationTwin
from gemel.twins.treatment_plan import TreatmentPlan

_CONTEXT = ContextOfUse(
    question=PROGRAMME.question,
    role="Compares expected courses of groups of people with atrial fibrillation, for research and for planning studies.",
    users="Cardiologists, stroke physicians and statisticians of the hospitals that trained it.",
    influence="low",
    consequence="high",
    credibility={
        "numerical_code_verification": "the published stroke rate at each score, and the trials' ratios, are reproduced exactly",
        "model_form": "the equation of clots is our closure: fitted to KP-RHYTHM, and checked against ASSERT",
        "comparator_samples": "1,442 people of Olmsted County, who were not drawn for this question",
    },
    not_for=(
        "deciding on anticoagulation for a single patient",
        "valvular atrial fibrillation, mechanical valves",
        "telling a patient's risk of bleeding: it is a published table, not learned",
    ),
)

_VALIDATION = Validation(
    grade=Grade.POPULATION,
    data="Olmsted County, 1,442 people with atrial fibrillation (R package survival, nafld1-3)",
    missing=(
        "an open cohort of atrial fibrillation with follow-up, burden and anticoagulation",
        "GARFIELD-AF as a baseline: its coefficients could not be verified",
        "bleeding in any open data",
    ),
    limits=(
        "The equation of clots is ours; the length of episodes and the time constant are chosen, not measured.",
        "Burden is described for paroxysmal fibrillation without anticoagulation.",
        "Drugs act as they did on average in trials, at once, and alike in everybody.",
        "Anticoagulation of the people in the evidence is not recorded, so the learned rates are of a mixture.",
    ),
)

_EXAMPLE = Example(
    title="A woman of 76 with hypertension and diabetes, without anticoagulation",
    values={name: 0.0 for name in PROGRAMME.feature_names}
    | {
        "age_years": 76.0,
        "hypertension": 1.0,
        "diabetes": 1.0,
        "systolic_blood_pressure_mmhg": 148.0,
        "body_mass_index_kg_m2": 29.0,
        "creatinine_mg_dl": 0.9,
    },
    plan=TreatmentPlan(name="no anticoagulation"),
    other_plan=TreatmentPlan.always({"direct_anticoagulant": 1.0}, name="direct anticoagulant"),
    observations={"rhythm": ((1.0, 0.0), (8.0, 1.0), (30.0, 0.0), (60.0, 1.0), (90.0, 1.0))},
)

DEFINITION = TwinDefinition(
    programme=PROGRAMME,
    twin=AtrialFibrillationTwin,
    training=DEFAULT_TRAINING,
    physiology=(RhythmChain(), ClotPropensity()),
    baselines=(CHA2DS2_VASC, CHA2DS2_VA),
    claims=CLAIMS,
    context=_CONTEXT,
    validation=_VALIDATION,
    example=_EXAMPLE,
    open_data=OlmstedFibrillation(),
)
