"""The fatty-liver programme with its twin, and all that says what it is worth."""

from __future__ import annotations

from gemel.twins.claims import Grade
from gemel.twins.definition import ContextOfUse, Example, TwinDefinition, Validation
from gemel.twins.programmes.fatty_liver import PROGRAMME
from gemel.twins.programmes.fatty_liver.circulation import Circulation
from gemel.twins.programmes.fatty_liver.claims import CLAIMS
from gemel.twins.programmes.fatty_liver.fibrosis import FibrosisChain
from gemel.twins.programmes.fatty_liver.open_data import OlmstedCounty
from gemel.twins.programmes.fatty_liver.plan import DEFAULT_TRAINING
from gemel.twins.programmes.fatty_liver.published_scores import BASELINES
from gemel.twins.programmes.fatty_liver.twin import FattyLiverTwin
from gemel.twins.treatment_plan import TreatmentPlan

_CONTEXT = ContextOfUse(
    question=PROGRAMME.question,
    role="Compares expected courses of groups of patients, for research and for planning studies.",
    users="Hepatologists, cardiologists and statisticians of the hospitals that trained it.",
    influence="low",
    consequence="medium",
    credibility={
        "output_comparison": "held-out fifth of the Olmsted County cohort, by benchmarks/fatty_liver.py",
        "comparator_samples": "17,549 people of one county in Minnesota, 1,364 deaths; hospitals are random parts of it",
        "model_form": "transition rates of 54 studies; what other paired biopsies contradict is said in the limits",
        "model_inputs": "each parameter with source and mark; the circulation's are textbook orders of magnitude",
        "numerical_code_verification": "matrix exponential and periodic beat against scipy, in the tests",
        "relevance_of_validation": "outcomes and their competition; no fibrosis stage was ever measured there",
    },
    not_for=(
        "a treatment decision for a single patient",
        "diagnosing fibrosis, cirrhosis or portal hypertension",
        "children, and adults outside the bounds of the features",
    ),
)

_VALIDATION = Validation(
    grade=Grade.POPULATION,
    data="Olmsted County, 17,549 people, 1,364 deaths (R package survival, nafld1-3)",
    missing=(
        "a second population",
        "a cohort with AST, ALT and platelets: on this one FIB-4 can be computed for nobody",
        "fibrosis stages of the same patients over time",
        "treatment and weight after the index date",
    ),
    limits=(
        "Observational, recorded diagnoses: what was never coded was never seen.",
        "Hospitals in the evidence are random parts of one cohort; real ones differ more.",
        "Blood pressure is missing for three in four people of the evidence; its effect is weakly known.",
        "Diseases that are diagnosed together count as independent within a year: a first cardiovascular disease of any kind is "
        "predicted a quarter too often, while each kind is not.",
        "Of 411 patients with paired biopsies (Singh 2015) 34 % progressed and 22 % improved in 5.2 years; the published rates "
        "give 31 % and 9 %.",
        "Stages count for death alone: no verified ratio was found for cardiovascular diseases.",
        "Effects of weight loss and drugs are those of other people's trials; weight loss on fibrosis was never randomised.",
        "No number of the portal gradient was verified: it supports no claim.",
    ),
)

_EXAMPLE = Example(
    title="A man of 52 with fatty liver, obesity and high blood pressure",
    values={
        "age_years": 52.0,
        "male": 1.0,
        "body_mass_index_kg_m2": 36.0,
        "systolic_blood_pressure_mmhg": 138.0,
        "hdl_cholesterol_mg_dl": 39.0,
        "fatty_liver": 1.0,
        "hypertension": 1.0,
        "dyslipidaemia": 1.0,
        "diabetes_history": 0.0,
        "ischaemic_heart_disease": 0.0,
        "heart_failure_history": 0.0,
        "atrial_fibrillation_history": 0.0,
        "myocardial_infarction_history": 0.0,
        "stroke_history": 0.0,
    },
    plan=TreatmentPlan(name="as it is"),
    other_plan=TreatmentPlan.always({"weight_loss": 10.0}, name="10 % less weight, kept"),
    observations={
        "fib_4": ((0.0, 1.64), (400.0, 1.9), (800.0, 2.2)),
        "liver_stiffness": ((30.0, 9.8), (400.0, 11.5)),
    },
)

DEFINITION = TwinDefinition(
    programme=PROGRAMME,
    twin=FattyLiverTwin,
    training=DEFAULT_TRAINING,
    physiology=(FibrosisChain(), Circulation()),
    baselines=BASELINES,
    claims=CLAIMS,
    context=_CONTEXT,
    validation=_VALIDATION,
    example=_EXAMPLE,
    open_data=OlmstedCounty(),
)
