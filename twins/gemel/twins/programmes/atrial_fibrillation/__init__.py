"""Atrial fibrillation: stroke, bleeding and death over two years, and what prevents the stroke.

Context: the TARGET row of the European virtual-human-twin programmes. Open data that it is tried on: people of Olmsted County
with atrial fibrillation (Allen AM et al., Hepatology 2018;67:1726; R package survival, nafld1-3).
"""

from __future__ import annotations

from gemel.core.concepts import load_concepts
from gemel.core.programme import (
    Assignment,
    CohortDefinition,
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

_STROKE = ("stroke", "ischaemic_stroke")
_BLEED = ("intracerebral_haemorrhage", "subarachnoid_haemorrhage", "gastrointestinal_haemorrhage")
_VASCULAR = ("myocardial_infarction", "ischaemic_heart_disease", "coronary_artery_disease")
_DIRECT = ("dabigatran", "rivaroxaban", "apixaban", "edoxaban")
_ANTIPLATELET = ("aspirin", "clopidogrel")

CONCEPTS = tuple(
    load_concepts()[name]
    for name in (
        "atrial_fibrillation",
        "heart_failure",
        "hypertension",
        "diabetes",
        *_STROKE,
        "transient_ischaemic_attack",
        *_VASCULAR,
        *_BLEED,
        "liver_cirrhosis",
        "systolic_blood_pressure",
        "body_mass_index",
        "creatinine",
        "warfarin",
        *_DIRECT,
        *_ANTIPLATELET,
    )
)

_YEARS_5 = 1826
_HALF_YEAR = 182
_CHOSEN = "round clinical reference values, chosen by the programme's authors; not fitted on patients"


def _measured(
    name: str, title: str, concept: str, unit: str, edges: tuple[float, ...], mean: float, scale: float
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
        high=105,
        reference_mean=72,
        scale=11,
        bin_edges=(18, 50, 60, 65, 70, 75, 80, 85, 90, 105),
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
    recorded("heart_failure", "Heart failure", "heart_failure"),
    recorded("hypertension", "Hypertension", "hypertension"),
    recorded("diabetes", "Diabetes", "diabetes"),
    recorded(
        "stroke_history", "Stroke or transient ischaemic attack", *_STROKE, "transient_ischaemic_attack"
    ),
    recorded("vascular_disease", "Myocardial infarction or coronary heart disease", *_VASCULAR),
    recorded("bleeding_history", "Intracranial or gastrointestinal bleeding", *_BLEED),
    recorded("liver_disease", "Cirrhosis of the liver", "liver_cirrhosis"),
    _measured(
        "systolic_blood_pressure_mmhg",
        "Systolic blood pressure",
        "systolic_blood_pressure",
        "mm[Hg]",
        (80, 110, 120, 130, 140, 160, 220),
        135,
        20,
    ),
    _measured(
        "body_mass_index_kg_m2",
        "Body mass index",
        "body_mass_index",
        "kg/m2",
        (15, 22.5, 27.5, 32.5, 60),
        28,
        6,
    ),
    _measured(
        "creatinine_mg_dl", "Creatinine", "creatinine", "mg/dL", (0.3, 0.9, 1.2, 1.6, 2.26, 12), 1.0, 0.4
    ),
    recorded(
        "warfarin",
        "Warfarin",
        "warfarin",
        window_days=_HALF_YEAR,
        source="prescribed in the half year before",
    ),
    recorded(
        "direct_anticoagulant",
        "Direct oral anticoagulant",
        *_DIRECT,
        window_days=_HALF_YEAR,
        source="prescribed in the half year before",
    ),
    recorded(
        "antiplatelet",
        "Aspirin or clopidogrel",
        *_ANTIPLATELET,
        window_days=_HALF_YEAR,
        source="prescribed in the half year before",
    ),
)

OUTCOMES = (
    Outcome(name="death", title="Death", kind=OutcomeKind.DEATH),
    Outcome(name="stroke", title="Next stroke", kind=OutcomeKind.NEXT_DIAGNOSIS, concepts=_STROKE),
)

TARGETS = (
    Target(
        name="major_bleeding_1y",
        title="Intracranial or gastrointestinal bleeding within a year",
        kind=TargetKind.BINARY,
        concepts=_BLEED,
        at_days=365,
    ),
)

TREATMENTS = (
    Treatment(
        name="warfarin",
        title="Warfarin at an INR of 2 to 3",
        kind=TreatmentKind.BINARY,
        assignment=Assignment.OBSERVED,
        feature="warfarin",
        source="Hart RG et al., Ann Intern Med 2007;146:857, by EHRA 2018 (doi 10.1093/europace/euy046), table 7",
    ),
    Treatment(
        name="direct_anticoagulant",
        title="A direct oral anticoagulant at full dose",
        kind=TreatmentKind.BINARY,
        assignment=Assignment.OBSERVED,
        feature="direct_anticoagulant",
        source="Ruff CT et al., Lancet 2014;383:955, by EHRA 2018 (doi 10.1093/europace/euy046), table 7",
    ),
    Treatment(
        name="rhythm_control",
        title="Rhythm control: the share of atrial fibrillation that it takes away",
        kind=TreatmentKind.DOSE,
        assignment=Assignment.OBSERVED,
        unit="1",
        low=0.0,
        high=1.0,
        source="an assumption of the plan, not an effect: it says how much burden is left, and the twin what follows",
    ),
)

PROGRAMME = Programme(
    name="atrial_fibrillation",
    version="1",
    title="Stroke, bleeding and death in atrial fibrillation",
    question=(
        "Over two years, how likely are a stroke, a major bleeding and death in an adult with atrial fibrillation, without "
        "anticoagulation, with warfarin, with a direct anticoagulant, and at another burden of the arrhythmia?"
    ),
    cohort=CohortDefinition(
        minimum_age_years=18,
        maximum_age_years=105,
        minimum_follow_up_days=1,
        index=IndexEvent(kind=IndexKind.DIAGNOSIS, concepts=("atrial_fibrillation",)),
    ),
    concepts=CONCEPTS,
    features=FEATURES,
    outcomes=OUTCOMES,
    targets=TARGETS,
    treatments=TREATMENTS,
    grid_days=(30, 91, 182, 274, 365, 456, 548, 639, 730),
    endpoints=(
        Endpoint(name="death", title="Death", outcome="death", horizons_days=(365, 730)),
        Endpoint(
            name="stroke",
            title="Next stroke",
            outcome="stroke",
            horizons_days=(365, 730),
            risk_edges=(0.0, 0.02, 0.05, 0.1, 0.2, 1.0),
        ),
    ),
)
