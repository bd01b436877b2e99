"""A made-up programme of six weeks, for tests: a day grid, every kind of target and endpoint, a treatment, series, visits."""

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
    Stratum,
    Target,
    TargetKind,
    Treatment,
    TreatmentKind,
    VisitField,
    VisitPlan,
)

LAST_DAY = 42
# Half of these people are dependent: bins where most risks are.
_LOW_EDGES = (0.0, 0.02, 0.035, 0.05, 0.07, 0.1, 0.15, 1.0)
_MIDDLE_EDGES = (0.0, 0.1, 0.15, 0.2, 0.25, 0.3, 1.0)
_EDGES = (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0)


def _feature(
    name: str, kind: FeatureKind, low: float, high: float, mean: float, scale: float, *concepts: str
) -> Feature:
    unit = {FeatureKind.AGE: "a", FeatureKind.LAST: "mm[Hg]", FeatureKind.SERIES: "mm[Hg]"}.get(kind, "1")
    return Feature(
        name=name,
        title=name,
        kind=kind,
        unit=unit,
        low=low,
        high=high,
        reference_mean=mean,
        scale=scale,
        source="made up",
        concepts=concepts,
    )


PROGRAMME = Programme(
    name="six_weeks",
    version="1",
    title="Six weeks after a stroke",
    question="How are people six weeks after a stroke?",
    cohort=CohortDefinition(
        minimum_age_years=18,
        maximum_age_years=100,
        minimum_follow_up_days=0,
        index=IndexEvent(kind=IndexKind.DIAGNOSIS, concepts=("stroke",)),
    ),
    concepts=tuple(
        load_concepts()[name]
        for name in (
            "stroke",
            "systolic_blood_pressure",
            "diabetes",
            "atrial_fibrillation",
            "aspirin",
            "modified_rankin_scale",
        )
    ),
    features=(
        _feature("pressures", FeatureKind.SERIES, 80, 220, 130, 20, "systolic_blood_pressure"),
        _feature("age_years", FeatureKind.AGE, 18, 100, 70, 12),
        _feature("male", FeatureKind.MALE, 0, 1, 0, 1),
        _feature("pressure", FeatureKind.LAST, 80, 220, 150, 25, "systolic_blood_pressure"),
        _feature("diabetes", FeatureKind.PRESENT, 0, 1, 0, 1, "diabetes"),
        _feature("aspirin", FeatureKind.PRESENT, 0, 1, 0, 1, "aspirin"),
    ),
    outcomes=(
        Outcome(name="death", title="Death", kind=OutcomeKind.DEATH),
        Outcome(
            name="atrial_fibrillation",
            title="Atrial fibrillation",
            kind=OutcomeKind.FIRST_DIAGNOSIS,
            concepts=("atrial_fibrillation",),
        ),
    ),
    grid_days=(7, 14, 28, LAST_DAY),
    targets=(
        Target(
            name="rankin",
            title="Modified Rankin Scale at six weeks",
            kind=TargetKind.ORDINAL,
            concepts=("modified_rankin_scale",),
            at_days=LAST_DAY,
            tolerance_days=10,
            levels=(1.0, 2.0, 3.0, 4.0, 5.0),
        ),
        Target(
            name="pressure_later",
            title="Systolic blood pressure at four weeks",
            kind=TargetKind.VALUE_AT,
            unit="mm[Hg]",
            concepts=("systolic_blood_pressure",),
            at_days=28,
            tolerance_days=7,
        ),
        Target(
            name="diabetes_later",
            title="Diabetes within four weeks",
            kind=TargetKind.BINARY,
            concepts=("diabetes",),
            at_days=28,
            incident=True,
        ),
        Target(name="dead", title="Dead at six weeks", kind=TargetKind.DEATH, at_days=LAST_DAY),
        Target(
            name="pressures_after",
            title="Systolic blood pressures after the stroke",
            kind=TargetKind.SERIES,
            unit="mm[Hg]",
            concepts=("systolic_blood_pressure",),
            to_days=LAST_DAY,
        ),
    ),
    visits=VisitPlan(
        fields=(VisitField(series="pressures_after", edges=(80.0, 120.0, 140.0, 160.0, 220.0)),),
        strata=(Stratum(feature="male", cuts=(0.5,)), Stratum(feature="age_years", cuts=(65.0, 75.0))),
        visits=5,
        days_between=10,
    ),
    endpoints=(
        Endpoint(
            name="dead_or_dependent",
            title="Dead or dependent",
            target="rankin",
            at_least=3,
            with_death=True,
            risk_edges=_EDGES,
        ),
        Endpoint(
            name="dependent", title="Dependent, of the living", target="rankin", at_least=3, risk_edges=_EDGES
        ),
        Endpoint(
            name="death", title="Death", outcome="death", horizons_days=(14, LAST_DAY), risk_edges=_LOW_EDGES
        ),
        Endpoint(name="diabetes", title="Diabetes", target="diabetes_later", risk_edges=_MIDDLE_EDGES),
        Endpoint(
            name="pressure",
            title="Blood pressure",
            target="pressure_later",
            value_edges=(80.0, 110.0, 125.0, 140.0, 155.0, 170.0, 185.0, 220.0),
        ),
    ),
    treatments=(
        Treatment(
            name="aspirin",
            title="Aspirin",
            kind=TreatmentKind.BINARY,
            assignment=Assignment.RANDOMISED,
            chance=0.5,
            feature="aspirin",
        ),
    ),
)
