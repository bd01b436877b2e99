"""Type 2 diabetes: what HbA1c, weight, the heart and survival do after a glucose-lowering drug is started.

Context: the dAIbetes row of the European virtual-human-twin programmes (CORDIS 101136305).
"""

from __future__ import annotations

from gemel.core.concepts import load_concepts
from gemel.core.programme import (
    Assignment,
    CohortDefinition,
    Criterion,
    Endpoint,
    Feature,
    FeatureKind,
    IndexEvent,
    IndexKind,
    Outcome,
    OutcomeKind,
    Programme,
    Target,
    TargetKind,
    Treatment,
    TreatmentKind,
)
from gemel.twins.feature_forms import measured, recorded

# By the name of the treatment: the library's concept, and a title. The order is that of the twin's parameters.
DRUG_CLASSES = {
    "metformin": ("metformin", "Metformin"),
    "sulfonylurea": ("sulfonylureas", "Sulfonylurea"),
    "sglt2_inhibitor": ("sglt2_inhibitors", "SGLT2 inhibitor"),
    "glp_1_receptor_agonist": ("glp_1_receptor_agonists", "GLP-1 receptor agonist"),
    "dpp_4_inhibitor": ("dpp_4_inhibitors", "DPP-4 inhibitor"),
}
_STARTED = tuple(concept for concept, _ in DRUG_CLASSES.values())
_CARDIOVASCULAR = ("myocardial_infarction", "stroke", "heart_failure")
_DIABETES = ("type_2_diabetes", "diabetes")
CONCEPTS = tuple(
    load_concepts()[name]
    for name in (
        "hba1c",
        "fasting_glucose",
        "body_weight",
        "body_mass_index",
        "systolic_blood_pressure",
        "egfr",
        "alanine_aminotransferase",
        "triglycerides",
        "hdl_cholesterol",
        *_STARTED,
        "thiazolidinediones",
        "insulins",
        *_DIABETES,
        "hypertension",
        "ischaemic_heart_disease",
        *_CARDIOVASCULAR,
    )
)

_YEAR = 365
_CHOSEN = "round clinical reference values, chosen by the programme's authors; not fitted on patients"
# How long a prescription without an end counts as being taken.
_ON_TREATMENT_DAYS = 180


def _measured(
    name: str,
    title: str,
    concept: str,
    unit: str,
    mean: float,
    scale: float,
    edges: tuple[float, ...],
    *,
    kind: FeatureKind = FeatureKind.LAST,
    from_days: int = -_YEAR,
    to_days: int = 0,
) -> Feature:
    return measured(
        name,
        title,
        concept,
        unit=unit,
        edges=edges,
        mean=mean,
        scale=scale,
        source=_CHOSEN,
        kind=kind,
        from_days=from_days,
        to_days=to_days,
    )


def _recorded(
    name: str, title: str, *concepts: str, from_days: int | None = None, to_days: int = 0
) -> Feature:
    source = "recorded diagnosis or prescription"
    return recorded(name, title, *concepts, source=source, from_days=from_days, to_days=to_days)


_HBA1C_EDGES = (4.0, 6.0, 6.5, 7.0, 7.5, 8.0, 8.5, 9.0, 10.0, 11.0, 16.0)
_PERSON = (
    Feature(
        name="age_years",
        title="Age",
        kind=FeatureKind.AGE,
        unit="a",
        low=18,
        high=100,
        reference_mean=60,
        scale=12,
        bin_edges=(18, 35, 45, 50, 55, 60, 65, 70, 75, 80, 100),
        source=_CHOSEN,
    ),
    Feature(
        name="male",
        title="Male sex",
        kind=FeatureKind.MALE,
        unit="1",
        low=0,
        high=1,
        reference_mean=0,
        scale=1,
        bin_edges=(0.0, 0.5, 1.0),
        source="administrative sex",
    ),
    Feature(
        name="days_since_diabetes_was_recorded",
        title="Days since type 2 diabetes was last recorded",
        kind=FeatureKind.TIME_SINCE,
        unit="d",
        low=0,
        high=14_610,
        reference_mean=2_000,
        scale=2_000,
        bin_edges=(0, 90, 365, 1_096, 1_826, 3_652, 14_610),
        source=_CHOSEN,
        concepts=_DIABETES,
    ),
)
_MEASURED = (
    _measured("hba1c_percent", "HbA1c (NGSP)", "hba1c", "%", 8.3, 1.4, _HBA1C_EDGES),
    Feature(
        name="days_since_hba1c",
        title="Days since HbA1c was measured",
        kind=FeatureKind.TIME_SINCE,
        unit="d",
        low=0,
        high=_YEAR,
        reference_mean=30,
        scale=90,
        bin_edges=(0, 15, 31, 61, 91, 183, _YEAR),
        source=_CHOSEN,
        concepts=("hba1c",),
        window_days=_YEAR,
    ),
    _measured(
        "earlier_hba1c_percent",
        "HbA1c (NGSP), mean of two months to two years before",
        "hba1c",
        "%",
        7.9,
        1.3,
        _HBA1C_EDGES,
        kind=FeatureKind.MEAN,
        from_days=-2 * _YEAR,
        to_days=-61,
    ),
    _measured(
        "fasting_glucose_mg_dl",
        "Fasting plasma glucose",
        "fasting_glucose",
        "mg/dL",
        165,
        45,
        (50, 100, 115, 126, 140, 155, 170, 190, 220, 260, 500),
    ),
    _measured(
        "body_weight_kg",
        "Body weight",
        "body_weight",
        "kg",
        90,
        20,
        (35, 55, 65, 75, 85, 95, 105, 120, 140, 250),
    ),
    _measured(
        "body_mass_index_kg_m2",
        "Body mass index",
        "body_mass_index",
        "kg/m2",
        31,
        6,
        (15, 20, 22.5, 25, 27.5, 30, 32.5, 35, 40, 45, 70),
        from_days=-5 * _YEAR,
    ),
    _measured(
        "systolic_blood_pressure_mmhg",
        "Systolic blood pressure",
        "systolic_blood_pressure",
        "mm[Hg]",
        135,
        18,
        (80, 110, 120, 130, 140, 150, 160, 180, 240),
        from_days=-2 * _YEAR,
    ),
    _measured(
        "egfr_ml_min",
        "Estimated glomerular filtration rate",
        "egfr",
        "mL/min/{1.73_m2}",
        85,
        22,
        (5, 30, 45, 60, 75, 90, 105, 180),
        from_days=-2 * _YEAR,
    ),
    _measured(
        "alanine_aminotransferase_u_l",
        "Alanine aminotransferase",
        "alanine_aminotransferase",
        "U/L",
        30,
        18,
        (3, 15, 20, 25, 30, 40, 55, 80, 500),
        from_days=-2 * _YEAR,
    ),
    _measured(
        "triglycerides_mg_dl",
        "Triglycerides",
        "triglycerides",
        "mg/dL",
        165,
        90,
        (20, 80, 110, 150, 200, 260, 400, 2_000),
        from_days=-2 * _YEAR,
    ),
    _measured(
        "hdl_cholesterol_mg_dl",
        "HDL cholesterol",
        "hdl_cholesterol",
        "mg/dL",
        46,
        13,
        (10, 30, 35, 40, 45, 50, 60, 70, 130),
        from_days=-2 * _YEAR,
    ),
)
_GIVEN = tuple(
    _recorded(name, f"{title}, on the index date", concept, from_days=0)
    for name, (concept, title) in DRUG_CLASSES.items()
)
_EARLIER = tuple(
    _recorded(
        f"earlier_{name}",
        f"{title}, before the index date",
        concept,
        from_days=-_ON_TREATMENT_DAYS,
        to_days=-1,
    )
    for name, (concept, title) in DRUG_CLASSES.items()
)
_OTHER_DRUGS = (
    _recorded("thiazolidinedione", "Thiazolidinedione", "thiazolidinediones", from_days=-_ON_TREATMENT_DAYS),
    _recorded("insulin", "Insulin", "insulins", from_days=-_ON_TREATMENT_DAYS),
)
_HISTORY = (
    _recorded("hypertension", "Hypertension", "hypertension"),
    _recorded("ischaemic_heart_disease", "Ischaemic heart disease", "ischaemic_heart_disease"),
    _recorded(
        "cardiovascular_history", "Myocardial infarction, stroke or heart failure before", *_CARDIOVASCULAR
    ),
)
FEATURES = (*_PERSON, *_MEASURED, *_GIVEN, *_EARLIER, *_OTHER_DRUGS, *_HISTORY)

OUTCOMES = (
    Outcome(name="death", title="Death", kind=OutcomeKind.DEATH),
    Outcome(
        name="cardiovascular",
        title="First myocardial infarction, stroke or heart failure",
        kind=OutcomeKind.FIRST_DIAGNOSIS,
        concepts=_CARDIOVASCULAR,
    ),
)


def _value_at(name: str, title: str, concept: str, unit: str, day: int, tolerance: int) -> Target:
    return Target(
        name=name,
        title=title,
        kind=TargetKind.VALUE_AT,
        unit=unit,
        concepts=(concept,),
        at_days=day,
        tolerance_days=tolerance,
    )


TARGETS = (
    _value_at("hba1c_182", "HbA1c after 6 months", "hba1c", "%", 182, 60),
    _value_at("hba1c_365", "HbA1c after 12 months", "hba1c", "%", 365, 90),
    _value_at("weight_182", "Weight after 6 months", "body_weight", "kg", 182, 60),
    _value_at("weight_365", "Weight after 12 months", "body_weight", "kg", 365, 90),
)

TREATMENTS = (
    *(
        Treatment(
            name=name,
            title=title,
            kind=TreatmentKind.BINARY,
            assignment=Assignment.OBSERVED,
            feature=name,
        )
        for name, (_, title) in DRUG_CLASSES.items()
    ),
    Treatment(
        name="diet",
        title="Energy-deficient diet with counselling",
        kind=TreatmentKind.BINARY,
        assignment=Assignment.OBSERVED,
        source="Choy 2016, placebo arm of NCT00236600: weight input -4.08 %, and -2.28 % more from day 42 on",
    ),
)

PROGRAMME = Programme(
    name="type_2_diabetes",
    version="1",
    title="Treatment response in type 2 diabetes",
    question=(
        "After an adult with type 2 diabetes starts one of five drug classes, where will HbA1c and weight be after 6 and "
        "12 months, how likely are death and a first cardiovascular event over the years, and what would another class do?"
    ),
    cohort=CohortDefinition(
        minimum_age_years=18,
        maximum_age_years=100,
        minimum_follow_up_days=1,
        minimum_look_back_days=_ON_TREATMENT_DAYS,
        index=IndexEvent(kind=IndexKind.TREATMENT, concepts=_STARTED),
        required=(
            Criterion(
                name="no type 2 diabetes",
                reason="type 2 diabetes is recorded within a month of the first drug",
                concepts=_DIABETES,
                to_days=30,
            ),
        ),
    ),
    concepts=CONCEPTS,
    features=FEATURES,
    outcomes=OUTCOMES,
    grid_days=(91, 182, 274, 365, 730, 1096, 1461, 1826, 2191, 2557, 2922, 3287, 3652),
    targets=TARGETS,
    endpoints=(
        Endpoint(
            name="hba1c_182",
            title="HbA1c after 6 months",
            target="hba1c_182",
            value_edges=(4.0, 6.5, 7.0, 7.5, 8.0, 9.0, 10.0, 16.0),
        ),
        Endpoint(
            name="cardiovascular",
            title="First cardiovascular event",
            outcome="cardiovascular",
            horizons_days=(1826,),
            risk_edges=(0.0, 0.04, 0.07, 0.1, 0.15, 0.22, 1.0),
        ),
    ),
    treatments=TREATMENTS,
)
