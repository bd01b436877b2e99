"""A small programme for tests of what every twin does: death, cardiovascular disease and diabetes over 15 years."""

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
    )
)

_CARDIOVASCULAR = ("heart_failure", "atrial_fibrillation", "myocardial_infarction", "stroke")
_YEARS_5 = 1826
_CHOSEN = "round clinical reference values, chosen by the programme's authors; not fitted on patients"


def _history(name: str, title: str, *concepts: str) -> Feature:
    return Feature(
        name=name,
        title=title,
        kind=FeatureKind.PRESENT,
        unit="1",
        low=0,
        high=1,
        reference_mean=0,
        scale=1,
        bin_edges=(0.0, 0.5, 1.0),
        source="recorded diagnosis",
        concepts=concepts,
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
    Feature(
        name="body_mass_index_kg_m2",
        title="Body mass index",
        kind=FeatureKind.LAST,
        unit="kg/m2",
        low=15,
        high=60,
        reference_mean=28,
        scale=6,
        bin_edges=(15, 20, 22.5, 25, 27.5, 30, 32.5, 35, 40, 45, 60),
        source=_CHOSEN,
        concepts=("body_mass_index",),
        window_days=_YEARS_5,
    ),
    Feature(
        name="systolic_blood_pressure_mmhg",
        title="Systolic blood pressure",
        kind=FeatureKind.LAST,
        unit="mm[Hg]",
        low=80,
        high=220,
        reference_mean=130,
        scale=20,
        bin_edges=(80, 100, 110, 120, 130, 140, 150, 160, 180, 220),
        source=_CHOSEN,
        concepts=("systolic_blood_pressure",),
        window_days=_YEARS_5,
    ),
    Feature(
        name="hdl_cholesterol_mg_dl",
        title="HDL cholesterol",
        kind=FeatureKind.LAST,
        unit="mg/dL",
        low=15,
        high=120,
        reference_mean=50,
        scale=15,
        bin_edges=(15, 30, 35, 40, 45, 50, 55, 60, 70, 80, 120),
        source=_CHOSEN,
        concepts=("hdl_cholesterol",),
        window_days=_YEARS_5,
    ),
    _history("fatty_liver", "Fatty liver disease", "fatty_liver"),
    _history("hypertension", "Hypertension", "hypertension"),
    _history("dyslipidaemia", "Dyslipidaemia", "dyslipidaemia"),
    _history("diabetes_history", "Diabetes before the index date", "diabetes"),
    _history("ischaemic_heart_disease", "Ischaemic heart disease", "ischaemic_heart_disease"),
    _history(
        "cardiovascular_history", "Heart failure, AF, MI or stroke before the index date", *_CARDIOVASCULAR
    ),
)

OUTCOMES = (
    Outcome(name="death", title="Death", kind=OutcomeKind.DEATH),
    Outcome(
        name="cardiovascular",
        title="First heart failure, atrial fibrillation, myocardial infarction or stroke",
        kind=OutcomeKind.FIRST_DIAGNOSIS,
        concepts=_CARDIOVASCULAR,
    ),
    Outcome(name="diabetes", title="Diabetes", kind=OutcomeKind.FIRST_DIAGNOSIS, concepts=("diabetes",)),
)

PROGRAMME = Programme(
    name="cardiometabolic",
    version="1",
    title="Cardiometabolic course in fatty liver",
    question=(
        "Over 15 years, how likely are death, a first cardiovascular disease and diabetes in an adult "
        "with or without fatty liver, and how would losing weight change what the twin expects?"
    ),
    cohort=CohortDefinition(minimum_age_years=18, maximum_age_years=100, minimum_follow_up_days=1),
    concepts=CONCEPTS,
    features=FEATURES,
    outcomes=OUTCOMES,
    horizon_years=15,
    endpoints=tuple(
        Endpoint(name=outcome.name, title=outcome.title, outcome=outcome.name, horizons_days=(1826, 3652))
        for outcome in OUTCOMES[:2]  # each further one costs every patient privacy
    ),
)
