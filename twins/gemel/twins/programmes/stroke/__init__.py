"""Acute stroke: death, recurrence, bleeding and the modified Rankin Scale at six months.

Context: the GEMINI row of the European virtual-human-twin programmes. Open data that it was tried on: the International
Stroke Trial (Lancet 1997;349:1569; data: Sandercock et al., Trials 2011;12:101, ODC-By), see `open_data`.
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

# The codes, units and bounds are the library's; each says there by what source.
CONCEPTS = tuple(
    load_concepts()[name]
    for name in (
        "stroke",
        "ischaemic_stroke",
        "intracerebral_haemorrhage",
        "atrial_fibrillation",
        "hypertension",
        "diabetes",
        "systolic_blood_pressure",
        "glucose",
        "nihss",
        "nihss_consciousness",
        "nihss_visual",
        "nihss_facial_palsy",
        "nihss_arm",
        "nihss_leg",
        "nihss_ataxia",
        "nihss_language",
        "nihss_neglect",
        "glasgow_coma_scale",
        "modified_rankin_scale",
        "aspirin",
        "heparin",
        "intravenous_thrombolysis",
        "thrombectomy",
    )
)

# Half a year: what trials call six months.
OUTCOME_DAY = 183
_CHOSEN = "round clinical reference values, chosen by the programme's authors; not fitted on patients"
_ITEM = f"item of the NIH Stroke Scale, any deficit counts as 1; centre and scale: {_CHOSEN}"


def _recorded(
    name: str,
    title: str,
    *concepts: str,
    from_days: int | None = None,
    to_days: int = 0,
    mean: float = 0.0,
    scale: float = 1.0,
) -> Feature:
    source = f"recorded; centre and scale: {_CHOSEN}"
    return recorded(
        name, title, *concepts, source=source, mean=mean, scale=scale, from_days=from_days, to_days=to_days
    )


def _measured(
    name: str,
    title: str,
    concept: str,
    bin_edges: tuple[float, ...],
    *,
    unit: str = "{score}",
    mean: float,
    scale: float,
    from_days: int = -1,
    to_days: int = 0,
    source: str = _CHOSEN,
) -> Feature:
    """The last value; by default of the index date or the day before it."""
    return measured(
        name,
        title,
        concept,
        unit=unit,
        edges=bin_edges,
        mean=mean,
        scale=scale,
        source=source,
        from_days=from_days,
        to_days=to_days,
    )


def _deficit(name: str, title: str, concept: str, *, mean: float) -> Feature:
    return _measured(name, title, concept, (0.0, 0.5, 1.0), mean=mean, scale=0.5, source=_ITEM)


FEATURES = (
    Feature(
        name="age_years",
        title="Age",
        kind=FeatureKind.AGE,
        unit="a",
        low=18,
        high=105,
        reference_mean=72,
        scale=12,
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
    _measured(
        "consciousness",
        "Level of consciousness (0 alert to 3 coma)",
        "nihss_consciousness",
        (0.0, 0.5, 1.5, 3.0),
        mean=0.3,
        scale=0.7,
    ),
    _deficit("facial_palsy", "Facial palsy", "nihss_facial_palsy", mean=0.75),
    _deficit("arm_weakness", "Weakness of an arm or hand", "nihss_arm", mean=0.85),
    _deficit("leg_weakness", "Weakness of a leg or foot", "nihss_leg", mean=0.75),
    _deficit("language_deficit", "Dysphasia", "nihss_language", mean=0.45),
    _deficit("visual_deficit", "Visual field defect", "nihss_visual", mean=0.2),
    _deficit("neglect", "Visuospatial disorder or neglect", "nihss_neglect", mean=0.2),
    _deficit("ataxia", "Brainstem or cerebellar signs", "nihss_ataxia", mean=0.1),
    _measured(
        "systolic_blood_pressure_mmhg",
        "Systolic blood pressure",
        "systolic_blood_pressure",
        (70, 120, 140, 150, 160, 170, 180, 200, 270),
        unit="mm[Hg]",
        mean=160,
        scale=30,
    ),
    _recorded("atrial_fibrillation", "Atrial fibrillation", "atrial_fibrillation", mean=0.2, scale=0.5),
    _recorded(
        "infarct_visible",
        "Infarct seen on a scan: ischaemic stroke is coded as such by the index date",
        "ischaemic_stroke",
        from_days=-1,
        mean=0.3,
        scale=0.5,
    ),
    _recorded("haemorrhage", "Intracerebral haemorrhage", "intracerebral_haemorrhage", scale=0.5),
    _recorded("hypertension", "Hypertension", "hypertension", scale=0.5),
    _recorded("diabetes", "Diabetes", "diabetes", scale=0.5),
    _recorded(
        "aspirin_before",
        "Aspirin in the 3 days before",
        "aspirin",
        from_days=-3,
        to_days=-1,
        mean=0.2,
        scale=0.5,
    ),
    _recorded("heparin_before", "Heparin the day before", "heparin", from_days=-1, to_days=-1, scale=0.5),
    # Half of those with a chance of it get it: centred there, its effect is apart from the level.
    _recorded("aspirin", "Aspirin from the index date", "aspirin", from_days=0, mean=0.5, scale=0.5),
    _recorded("heparin", "Heparin from the index date", "heparin", from_days=0, mean=0.5, scale=0.5),
    _measured("nihss", "NIH Stroke Scale, total", "nihss", (0, 3, 6, 10, 15, 20, 25, 42), mean=10, scale=7),
    _measured(
        "glasgow_coma_scale", "Glasgow Coma Scale", "glasgow_coma_scale", (3, 5, 9, 13, 15), mean=14, scale=3
    ),
    _measured(
        "glucose_mg_dl",
        "Glucose",
        "glucose",
        (20, 70, 110, 130, 145, 180, 250, 600),
        unit="mg/dL",
        mean=130,
        scale=50,
    ),
    _measured(
        "prestroke_rankin",
        "Modified Rankin Scale before the stroke",
        "modified_rankin_scale",
        (0.0, 0.5, 1.5, 2.5, 5.0),
        mean=0.5,
        scale=1.2,
        from_days=-365,
        to_days=-1,
    ),
)

OUTCOMES = (
    Outcome(name="death", title="Death", kind=OutcomeKind.DEATH),
    Outcome(
        name="recurrent_stroke",
        title="Another stroke, ischaemic or of unknown type",
        kind=OutcomeKind.NEXT_DIAGNOSIS,
        concepts=("stroke",),
    ),
    Outcome(
        name="intracranial_haemorrhage",
        title="Intracerebral haemorrhage",
        kind=OutcomeKind.FIRST_DIAGNOSIS,
        concepts=("intracerebral_haemorrhage",),
    ),
)

# Five months either way: trials reach their six-month patients from the second to the eleventh month.
_WITHIN = 150

TARGETS = (
    Target(
        name="rankin_6_months",
        title="Modified Rankin Scale at six months: six levels among the living",
        kind=TargetKind.ORDINAL,
        concepts=("modified_rankin_scale",),
        at_days=OUTCOME_DAY,
        tolerance_days=_WITHIN,
        levels=(1.0, 2.0, 3.0, 4.0, 5.0),
    ),
    # The number itself: a value between two levels says that only a range of levels is known, see `rankin`.
    Target(
        name="rankin_value_6_months",
        title="Modified Rankin Scale at six months, as written",
        kind=TargetKind.VALUE_AT,
        unit="{score}",
        concepts=("modified_rankin_scale",),
        at_days=OUTCOME_DAY,
        tolerance_days=_WITHIN,
    ),
)

_BLEEDING = ("haemorrhage",)

TREATMENTS = (
    Treatment(
        name="aspirin",
        title="Aspirin from the index date",
        kind=TreatmentKind.BINARY,
        assignment=Assignment.RANDOMISED,
        feature="aspirin",
        chance=0.5,
        contraindications=_BLEEDING,
        source="International Stroke Trial, Lancet 1997;349:1569: by lot, one half",
    ),
    Treatment(
        name="heparin",
        title="Heparin from the index date",
        kind=TreatmentKind.BINARY,
        assignment=Assignment.RANDOMISED,
        feature="heparin",
        chance=0.5,
        contraindications=_BLEEDING,
        source="International Stroke Trial, Lancet 1997;349:1569: by lot, one half",
    ),
    Treatment(
        name="thrombolysis",
        title="Intravenous thrombolysis",
        kind=TreatmentKind.BINARY,
        assignment=Assignment.OBSERVED,
        contraindications=_BLEEDING,
        source=(
            "Emberson et al., Lancet 2014;384:1929 (abstract read): odds of mRS 0-1 1.75 within 3 h, 1.26 within 4.5 h; "
            "no data set of this programme records it"
        ),
    ),
    Treatment(
        name="thrombectomy",
        title="Thrombectomy",
        kind=TreatmentKind.BINARY,
        assignment=Assignment.OBSERVED,
        contraindications=_BLEEDING,
        source=(
            "Goyal et al. (HERMES), Lancet 2016;387:1723: common odds ratio 2.49; no data set of this programme records it"
        ),
    ),
)

PROGRAMME = Programme(
    name="stroke",
    version="1",
    title="Acute stroke: survival and function at six months",
    question=(
        "In an adult with acute stroke, how likely are death, another stroke, a bleed and each level of the modified "
        "Rankin Scale over six months, and how would aspirin, heparin, thrombolysis or thrombectomy change that?"
    ),
    cohort=CohortDefinition(
        minimum_age_years=18,
        maximum_age_years=105,
        minimum_follow_up_days=0,  # who dies on the first day counts
        index=IndexEvent(kind=IndexKind.DIAGNOSIS, concepts=("stroke", "intracerebral_haemorrhage")),
    ),
    concepts=CONCEPTS,
    features=FEATURES,
    outcomes=OUTCOMES,
    grid_days=(1, 2, 3, 5, 7, 10, 14, 21, 30, 45, 60, 90, 120, 150, OUTCOME_DAY),
    targets=TARGETS,
    endpoints=(
        Endpoint(
            name="dead_or_dependent",
            title="Death or dependence at six months",
            target="rankin_6_months",
            at_least=3,
            with_death=True,
            risk_edges=(0.0, 0.4, 0.5, 0.65, 0.8, 0.9, 1.0),
        ),
        Endpoint(
            name="death",
            title="Death within six months",
            outcome="death",
            horizons_days=(OUTCOME_DAY,),
            risk_edges=(0.0, 0.07, 0.11, 0.16, 0.25, 0.4, 1.0),
        ),
    ),
    treatments=TREATMENTS,
)
