"""Fatty liver, heart and circulation: death, heart failure, atrial fibrillation, infarction, stroke, diabetes over 15 years.

Context: the ARTEMIS row of the European virtual-human-twin programmes. Open data that it was tried on:
Allen AM et al., Hepatology 2018;67:1726 (Olmsted County; R package survival, nafld1-3).
"""

from __future__ import annotations

from gemel.core.concepts import load_concepts
from gemel.core.programme import (
    CohortDefinition,
    Endpoint,
    Feature,
    FeatureKind,
    Outcome,
    OutcomeKind,
    Programme,
)
from gemel.twins.feature_forms import measured, recorded
from gemel.twins.programmes.fatty_liver.treatments import TREATMENTS

# The codes, units and bounds are the library's; each says there by what source.
CONCEPTS = tuple(
    load_concepts()[name]
    for name in (
        "body_mass_index",
        "systolic_blood_pressure",
        "hdl_cholesterol",
        "fatty_liver",
        "hypertension",
        "dyslipidaemia",
        "diabetes",
        "ischaemic_heart_disease",
        "heart_failure",
        "atrial_fibrillation",
        "myocardial_infarction",
        "stroke",
        "aspartate_aminotransferase",
        "alanine_aminotransferase",
        "platelets",
        "albumin",
        "liver_stiffness",
    )
)

_YEARS_5 = 1826
_YEARS_10 = 3652
_CHOSEN = "round clinical reference values, chosen by the programme's authors; not fitted on patients"


def _measured(
    name: str, title: str, unit: str, mean: float, scale: float, edges: tuple[float, ...], concept: str
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
        window_days=_YEARS_5,
    )


FEATURES = (
    Feature(
        name="age_years",
        title="Age",
        kind=FeatureKind.AGE,
        unit="a",
        low=18,
        high=100,
        reference_mean=55,
        scale=15,
        bin_edges=(18, 30, 40, 45, 50, 55, 60, 65, 70, 75, 80, 100),
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
    _measured(
        "body_mass_index_kg_m2",
        "Body mass index",
        "kg/m2",
        28,
        6,
        (15, 20, 22.5, 25, 27.5, 30, 32.5, 35, 40, 45, 60),
        "body_mass_index",
    ),
    _measured(
        "systolic_blood_pressure_mmhg",
        "Systolic blood pressure",
        "mm[Hg]",
        130,
        20,
        (80, 100, 110, 120, 130, 140, 150, 160, 180, 220),
        "systolic_blood_pressure",
    ),
    _measured(
        "hdl_cholesterol_mg_dl",
        "HDL cholesterol",
        "mg/dL",
        50,
        15,
        (15, 30, 35, 40, 45, 50, 55, 60, 70, 80, 120),
        "hdl_cholesterol",
    ),
    recorded("fatty_liver", "Fatty liver disease", "fatty_liver"),
    recorded("hypertension", "Hypertension", "hypertension"),
    recorded("dyslipidaemia", "Dyslipidaemia", "dyslipidaemia"),
    recorded("diabetes_history", "Diabetes before the index date", "diabetes"),
    recorded("ischaemic_heart_disease", "Ischaemic heart disease", "ischaemic_heart_disease"),
    recorded("heart_failure_history", "Heart failure before the index date", "heart_failure"),
    recorded(
        "atrial_fibrillation_history", "Atrial fibrillation before the index date", "atrial_fibrillation"
    ),
    recorded(
        "myocardial_infarction_history",
        "Myocardial infarction before the index date",
        "myocardial_infarction",
    ),
    recorded("stroke_history", "Stroke before the index date", "stroke"),
    # What the published fibrosis scores and the fibrosis chain read; no hazard reads them directly.
    _measured(
        "aspartate_aminotransferase_u_l",
        "Aspartate aminotransferase (AST)",
        "U/L",
        30,
        20,
        (5, 20, 30, 40, 60, 100, 500),
        "aspartate_aminotransferase",
    ),
    _measured(
        "alanine_aminotransferase_u_l",
        "Alanine aminotransferase (ALT)",
        "U/L",
        35,
        25,
        (5, 20, 30, 40, 60, 100, 500),
        "alanine_aminotransferase",
    ),
    _measured(
        "platelets_10e9_l",
        "Platelets",
        "10*9/L",
        240,
        65,
        (20, 100, 150, 200, 250, 300, 800),
        "platelets",
    ),
    _measured("albumin_g_dl", "Albumin", "g/dL", 4.2, 0.4, (1, 3, 3.5, 4, 4.5, 6), "albumin"),
    _measured(
        "liver_stiffness_kpa",
        "Liver stiffness by transient elastography",
        "kPa",
        7,
        4,
        (1.5, 5, 8, 10, 14, 20, 75),
        "liver_stiffness",
    ),
)

OUTCOMES = (
    Outcome(name="death", title="Death", kind=OutcomeKind.DEATH),
    *(
        Outcome(name=name, title=title, kind=OutcomeKind.FIRST_DIAGNOSIS, concepts=(name,))
        for name, title in (
            ("heart_failure", "Heart failure"),
            ("atrial_fibrillation", "Atrial fibrillation"),
            ("myocardial_infarction", "Myocardial infarction"),
            ("stroke", "Stroke"),
            ("diabetes", "Diabetes"),
        )
    ),
)
CARDIOVASCULAR = ("heart_failure", "atrial_fibrillation", "myocardial_infarction", "stroke")

PROGRAMME = Programme(
    name="fatty_liver",
    version="2",
    title="Fatty liver, heart and circulation",
    question=(
        "Over 15 years, how likely are death, heart failure, atrial fibrillation, myocardial infarction, stroke and "
        "diabetes in an adult with or without fatty liver, how does the liver's fibrosis move, and what would "
        "losing weight or a drug change?"
    ),
    cohort=CohortDefinition(minimum_age_years=18, maximum_age_years=100, minimum_follow_up_days=1),
    concepts=CONCEPTS,
    features=FEATURES,
    outcomes=OUTCOMES,
    horizon_years=15,
    endpoints=tuple(
        Endpoint(
            name=outcome.name,
            title=outcome.title,
            outcome=outcome.name,
            horizons_days=(_YEARS_5, _YEARS_10),
        )
        for outcome in OUTCOMES[:2]  # each further one costs every patient privacy
    ),
    treatments=TREATMENTS,
)
