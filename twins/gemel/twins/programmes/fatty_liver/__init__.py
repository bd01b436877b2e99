"""Cardiometabolic course in fatty liver: death, cardiovascular disease, diabetes over 15 years.

Context: the ARTEMIS row of the European virtual-human-twin programmes. Open data that it was tried on:
Allen AM et al., Hepatology 2018;67:1726 (Olmsted County; R package survival, nafld1-3).
"""

from __future__ import annotations

from gemel.core.concepts import ICD_10, ICD_10_CM, ICD_10_GM, LOINC, SNOMED_CT, Code, Concept
from gemel.core.programme import CohortDefinition, Feature, FeatureKind, Outcome, OutcomeKind, Programme

_VALUE_SETS = "seen in several independent public FHIR value sets, 2026-11"
_WHO = "WHO ICD-10"
_MODIFICATIONS = "category of WHO ICD-10, kept by the national modifications"
_MIMIC = "MIMIC-IV LOINC concept maps"


def _snomed(code: str) -> Code:
    return Code(SNOMED_CT, code, verified=True, source=_VALUE_SETS)


def _icd(code: str) -> tuple[Code, Code, Code]:
    """A WHO category, and the same in the American and the German modification (not looked up code by code)."""
    return (
        Code(ICD_10, code, verified=True, source=_WHO, prefix=True),
        Code(ICD_10_CM, code, verified=False, source=_MODIFICATIONS, prefix=True),
        Code(ICD_10_GM, code, verified=False, source=_MODIFICATIONS, prefix=True),
    )


def _loinc(code: str, source: str = _MIMIC) -> Code:
    return Code(LOINC, code, verified=True, source=source)


CONCEPTS = (
    Concept(
        name="body_mass_index",
        title="Body mass index",
        codes=(_loinc("39156-5"),),
        unit="kg/m2",
        low=10,
        high=90,
        source="plausibility bounds of adult BMI",
    ),
    Concept(
        name="systolic_blood_pressure",
        title="Systolic blood pressure",
        codes=(_loinc("8480-6"),),
        unit="mm[Hg]",
        low=50,
        high=270,
        source="plausibility bounds of adult blood pressure",
    ),
    Concept(
        name="hdl_cholesterol",
        title="HDL cholesterol",
        codes=(_loinc("2085-9"), _loinc("14646-4", _VALUE_SETS)),
        unit="mg/dL",
        low=5,
        high=200,
        # 386.65 g/mol: cholesterol, C27H46O.
        molar_mass_g_mol=386.65,
        source="plausibility bounds of serum HDL cholesterol",
    ),
    Concept(name="fatty_liver", title="Fatty liver disease", codes=(*_icd("K76.0"), _snomed("197321007"))),
    Concept(name="hypertension", title="Hypertension", codes=(*_icd("I10"), _snomed("38341003"))),
    Concept(name="dyslipidaemia", title="Dyslipidaemia", codes=(*_icd("E78"), _snomed("370992007"))),
    Concept(
        name="diabetes",
        title="Diabetes mellitus",
        codes=(*_icd("E11"), _snomed("73211009"), _snomed("44054006")),
    ),
    Concept(
        name="ischaemic_heart_disease",
        title="Angina or ischaemic heart disease",
        codes=(*_icd("I20"), *_icd("I25"), _snomed("194828000"), _snomed("414545008"), _snomed("53741008")),
    ),
    Concept(name="heart_failure", title="Heart failure", codes=(*_icd("I50"), _snomed("84114007"))),
    Concept(
        name="atrial_fibrillation", title="Atrial fibrillation", codes=(*_icd("I48"), _snomed("49436004"))
    ),
    Concept(
        name="myocardial_infarction", title="Myocardial infarction", codes=(*_icd("I21"), _snomed("22298006"))
    ),
    Concept(
        name="stroke",
        title="Stroke",
        codes=(*_icd("I63"), *_icd("I64"), _snomed("230690007"), _snomed("422504002")),
    ),
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
    name="fatty_liver",
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
)
