"""Published stroke scores, exactly: points, and the risks that their papers give.

The trial's data have neither the total of the NIH Stroke Scale nor glucose, so that only programmes' unit vectors check these
here; a hospital that records them is compared with those whose inputs the programme declares (`BASELINES`). The others need
what no feature of the programme holds (a dense artery on the scan, the haematoma's volume, the delay) and are functions only.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from gemel.twins.parameters import Mark
from gemel.twins.published_score import Points, PublishedScore, points

Floats = NDArray[np.float64]

ASTRAL_SOURCE = (
    "Ntaios et al., Neurology 2012;78:1916 (abstract read: coefficients times 4, a score of 31 goes with 50 %); points as in a "
    "public description of the score"
)
DRAGON_SOURCE = "Strbian et al., Neurology 2012;78:427 (abstract read)"
THRIVE_SOURCE = "Flint et al., Int J Stroke 2010;5:427, by public code that cites it"
SEDAN_SOURCE = "Strbian et al., Ann Neurol 2012;71:634 (abstract read); risks by public code that cites it"
HAT_SOURCE = (
    "Lou et al., Neurology 2008;71:1417 (abstract read for the risks); points by public code that cites it"
)
ICH_SOURCE = "Hemphill et al., Stroke 2001;32:891 (abstract read for the points); risks by Medscape 2172479"

# Score -> probability, of what the score foresees.
SEDAN_BLEEDING: Mapping[int, float] = MappingProxyType(
    {0: 0.014, 1: 0.029, 2: 0.085, 3: 0.122, 4: 0.217, 5: 0.333}
)
HAT_BLEEDING: Mapping[int, float] = MappingProxyType({0: 0.02, 1: 0.05, 2: 0.10, 3: 0.15, 4: 0.44, 5: 0.44})
ICH_DEATH: Mapping[int, float] = MappingProxyType(
    {0: 0.0, 1: 0.13, 2: 0.26, 3: 0.72, 4: 0.97, 5: 1.0, 6: 1.0}
)
DRAGON_GOOD: Mapping[int, float] = MappingProxyType(
    {0: 0.96, 1: 0.96, 2: 0.88, 3: 0.74, 8: 0.0, 9: 0.0, 10: 0.0}
)
# Its coefficients were multiplied by 4 and rounded, and 31 points go with even odds.
_ASTRAL_PER_LOGIT, _ASTRAL_EVEN = 4.0, 31.0


def astral(
    *,
    age_years: float,
    nihss: int,
    onset_hours: float,
    visual_defect: bool,
    glucose_mmol_l: float,
    drowsy: bool,
) -> int:
    """Dead or mRS 3-5 at three months after ischaemic stroke. One point for each whole 5 years of age."""
    return (
        int(age_years // 5)
        + nihss
        + 2 * (onset_hours > 3)
        + 2 * visual_defect
        + (glucose_mmol_l > 7.3 or glucose_mmol_l < 3.7)
        + 3 * drowsy
    )


def astral_risk(score: Floats) -> Floats:
    """The probability of mRS 3-6 that the score's construction implies: logit = (score - 31) / 4."""
    return np.asarray(1 / (1 + np.exp(-(score - _ASTRAL_EVEN) / _ASTRAL_PER_LOGIT)), np.float64)


def dragon(
    *,
    dense_artery: bool,
    early_infarct: bool,
    prestroke_rankin: int,
    age_years: float,
    glucose_mmol_l: float,
    onset_to_treatment_min: float,
    nihss: int,
) -> int:
    """Outcome at three months after intravenous thrombolysis, 0 to 10."""
    return (
        dense_artery
        + early_infarct
        + (prestroke_rankin > 1)
        + (2 if age_years >= 80 else 1 if age_years >= 65 else 0)
        + (glucose_mmol_l > 8)
        + (onset_to_treatment_min > 90)
        + (3 if nihss > 15 else 2 if nihss >= 10 else 1 if nihss >= 5 else 0)
    )


def sedan(
    *, glucose_mmol_l: float, early_infarct: bool, dense_artery: bool, age_years: float, nihss: int
) -> int:
    """Symptomatic intracranial haemorrhage after intravenous thrombolysis, 0 to 6."""
    sugar = 2 if glucose_mmol_l > 12 else 1 if glucose_mmol_l > 8 else 0
    return sugar + early_infarct + dense_artery + (age_years > 75) + (nihss >= 10)


def hat(*, diabetes_or_glucose_over_200: bool, nihss: int, hypodensity_thirds: float) -> int:
    """Haemorrhage after thrombolysis, 0 to 5.

    `hypodensity_thirds`: how many thirds of the middle cerebral artery's territory are easily seen to be hypodense.
    """
    severity = 2 if nihss >= 20 else 1 if nihss >= 15 else 0
    seen = 2 if hypodensity_thirds >= 1 else 1 if hypodensity_thirds > 0 else 0
    return diabetes_or_glucose_over_200 + severity + seen


def ich(
    *,
    glasgow_coma_scale: int,
    volume_ml: float,
    intraventricular: bool,
    infratentorial: bool,
    age_years: float,
) -> int:
    """Death within 30 days of intracerebral haemorrhage, 0 to 6."""
    coma = 2 if glasgow_coma_scale <= 4 else 1 if glasgow_coma_scale <= 12 else 0
    return coma + (volume_ml >= 30) + intraventricular + infratentorial + (age_years >= 80)


THRIVE = PublishedScore(
    name="thrive",
    title="THRIVE",
    source=THRIVE_SOURCE,
    mark=Mark.SECOND_HAND,
    endpoint="dead_or_dependent",
    formula=points(
        Points("nihss", (11, 21), (0, 2, 4)),
        Points("age_years", (60, 80), (0, 1, 2)),
        Points.flag("hypertension", 1),
        Points.flag("diabetes", 1),
        Points.flag("atrial_fibrillation", 1),
    ),
    inputs=("nihss", "age_years", "hypertension", "diabetes", "atrial_fibrillation"),
)

_MG_DL_PER_MMOL_L = 18.0156
ASTRAL_WITHIN_3_HOURS = PublishedScore(
    name="astral",
    title="ASTRAL, for arrival within 3 hours (the programme has no delay)",
    source=ASTRAL_SOURCE,
    mark=Mark.SECOND_HAND,
    endpoint="dead_or_dependent",
    formula=lambda columns: (
        np.floor(columns["age_years"] / 5)
        + columns["nihss"]
        + 2 * (columns["visual_deficit"] > 0.5)
        + (
            (columns["glucose_mg_dl"] > 7.3 * _MG_DL_PER_MMOL_L)
            | (columns["glucose_mg_dl"] < 3.7 * _MG_DL_PER_MMOL_L)
        )
        + 3 * (columns["consciousness"] > 0.5)
    ),
    inputs=("age_years", "nihss", "visual_deficit", "glucose_mg_dl", "consciousness"),
)

_AGE_SOURCE = "age alone: the simplest rule that any model of stroke has to beat"
AGE = PublishedScore(
    name="age",
    title="Age alone",
    source=_AGE_SOURCE,
    mark=Mark.COMPUTED,
    endpoint="dead_or_dependent",
    formula=lambda columns: columns["age_years"],
    inputs=("age_years",),
)
AGE_FOR_DEATH = PublishedScore(
    name="age",
    title="Age alone",
    source=_AGE_SOURCE,
    mark=Mark.COMPUTED,
    endpoint="death",
    formula=lambda columns: columns["age_years"],
    inputs=("age_years",),
)

BASELINES = (AGE, AGE_FOR_DEATH, THRIVE, ASTRAL_WITHIN_3_HOURS)
