"""The programme of acute stroke with its twin, and all that says what it is worth."""

from __future__ import annotations

from gemel.twins.claims import Grade
from gemel.twins.definition import ContextOfUse, Example, TwinDefinition, Validation
from gemel.twins.programmes.stroke import PROGRAMME
from gemel.twins.programmes.stroke.claims import CLAIMS
from gemel.twins.programmes.stroke.haematoma import Haematoma
from gemel.twins.programmes.stroke.open_data import InternationalStrokeTrial
from gemel.twins.programmes.stroke.plan import DEFAULT_TRAINING
from gemel.twins.programmes.stroke.published_scores import BASELINES
from gemel.twins.programmes.stroke.recovery import Recovery
from gemel.twins.programmes.stroke.tissue import Shape, Tissue
from gemel.twins.programmes.stroke.twin import StrokeTwin
from gemel.twins.treatment_plan import TreatmentPlan

_CONTEXT = ContextOfUse(
    question=PROGRAMME.question,
    role="Compares expected courses of groups of people with acute stroke, for research and for planning studies.",
    users="Stroke physicians and statisticians of the hospitals that trained it.",
    influence="low",
    consequence="high",
    credibility={
        "numerical_code_verification": "published scores exact; growth of cores and haematomas reproduces published quantiles",
        "model_form": "the tissue model is checked against populations only, the scale of impairment against one score",
        "comparator_samples": "International Stroke Trial, hospitals of 36 countries, randomised treatments",
        "relevance_of_quantities": "three coarse answers of the trial stand for six levels of the Rankin Scale",
    },
    not_for=(
        "deciding on a treatment of a single patient",
        "telling who should get thrombolysis or thrombectomy: their effects are trials' averages, not learned",
        "subarachnoid haemorrhage, transient attacks, children",
    ),
)

_VALIDATION = Validation(
    grade=Grade.POPULATION,
    data="International Stroke Trial, 14,691 of 19,435 people, 350 of 466 hospitals, 1991-96",
    missing=(
        "open patients with NIH Stroke Scale, imaging and reperfusion, for the tissue model and the scale of impairment",
        "repeated scores of one person, for subject-specific validation of the recovery",
        "open patients with intracerebral haemorrhage",
    ),
    limits=(
        "The trial is of 1991-96: no stroke units everywhere, no reperfusion; levels of risk are of that time.",
        "The modified Rankin Scale is mapped from two questions; levels within a range are told apart by public constants alone.",
        "Recurrence and bleeding were recorded for 14 days: the twin knows no later ones.",
        "Country matters beyond the features: risks need local recalibration before use.",
        "Effects of thrombolysis and thrombectomy are trials' odds ratios, alike in everybody; two of the numbers are unverified.",
    ),
)

_FINDINGS = {
    "age_years": 74.0,
    "male": 0.0,
    "consciousness": 1.0,
    "facial_palsy": 1.0,
    "arm_weakness": 1.0,
    "leg_weakness": 1.0,
    "language_deficit": 1.0,
    "visual_deficit": 0.0,
    "neglect": 0.0,
    "ataxia": 0.0,
    "systolic_blood_pressure_mmhg": 165.0,
    "atrial_fibrillation": 1.0,
    "infarct_visible": 0.0,
    "haemorrhage": 0.0,
    "hypertension": 0.0,
    "diabetes": 0.0,
    "aspirin_before": 0.0,
    "heparin_before": 0.0,
    "aspirin": 0.0,
    "heparin": 0.0,
}

_EXAMPLE = Example(
    title="A woman of 74 with atrial fibrillation, drowsy, with dysphasia and weakness of face, arm and leg",
    values=_FINDINGS,
    plan=TreatmentPlan.always({"aspirin": 0.0}, name="no aspirin"),
    other_plan=TreatmentPlan.always({"aspirin": 1.0}, name="aspirin from the first day"),
    observations={
        "nihss": ((1.0, 13.0), (3.0, 9.0), (7.0, 6.0)),
        "at_home": ((3.0, 0.0), (7.0, 0.0), (14.0, 1.0)),
        "modified_rankin_scale": ((30.0, 3.0),),
    },
)

DEFINITION = TwinDefinition(
    programme=PROGRAMME,
    twin=StrokeTwin,
    training=DEFAULT_TRAINING,
    physiology=(Recovery(), *(Tissue(shape) for shape in Shape), Haematoma()),
    baselines=BASELINES,
    claims=CLAIMS,
    context=_CONTEXT,
    validation=_VALIDATION,
    example=_EXAMPLE,
    open_data=InternationalStrokeTrial(),
)
