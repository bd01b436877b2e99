"""Published scores of stroke and bleeding in atrial fibrillation, exactly, and the rates that go with them.

GARFIELD-AF is not here: the coefficients in public code mix two versions of the model, and the registry's own
equations were not at hand to check them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gemel.twins.parameters import Mark
from gemel.twins.published_score import Points, PublishedScore, points

Floats = NDArray[np.float64]

# Ischaemic stroke, % a year, untreated, by CHA2DS2-VASc of 0 to 9.
FRIBERG_2012 = (0.2, 0.6, 2.2, 3.2, 4.8, 7.2, 9.7, 11.2, 10.8, 12.2)
# Major bleeding, % a year on warfarin, by HAS-BLED of 0 to 5; few had more.
PISTERS_2010 = (1.13, 1.02, 1.88, 3.74, 8.70, 12.50)

_VA = (
    Points.flag("heart_failure", 1),
    Points.flag("hypertension", 1),
    Points("age_years", (65, 75), (0, 1, 2)),
    Points.flag("diabetes", 1),
    Points.flag("stroke_history", 2),
    Points.flag("vascular_disease", 1),
)
_FEMALE = Points("male", (0.5,), (1, 0))
_RENAL = Points("creatinine_mg_dl", (2.26,), (0, 1), above=True)  # 200 µmol/L
_BLEED = (
    Points("systolic_blood_pressure_mmhg", (160,), (0, 1), above=True),
    _RENAL,
    Points.flag("liver_disease", 1),
    Points.flag("stroke_history", 1),
    Points.flag("bleeding_history", 1),
    Points("age_years", (65,), (0, 1), above=True),
    Points.flag("antiplatelet", 1),
)
_HISTORY = ("heart_failure", "hypertension", "diabetes", "stroke_history", "vascular_disease")


def rate_of(table: tuple[float, ...], score: Floats) -> Floats:
    """Events per year at scores (n,), by a table in % a year; beyond its end that of the end."""
    place = np.clip(np.rint(score), 0, len(table) - 1).astype(np.int64)
    return np.asarray(table)[place] / 100


CHA2DS2_VASC = PublishedScore(
    name="cha2ds2_vasc",
    title="CHA2DS2-VASc (vascular disease: myocardial infarction or coronary heart disease, where recorded)",
    source="Lip GYH et al., Chest 2010;137:263; yearly rates Friberg L et al., Eur Heart J 2012;33:1500",
    mark=Mark.SECOND_HAND,
    endpoint="stroke",
    formula=points(*_VA, _FEMALE),
    inputs=("age_years", "male", *_HISTORY),
    risk_of=lambda score: -np.expm1(-rate_of(FRIBERG_2012, np.nan_to_num(score))),
    risk_days=365.25,
)
CHA2DS2_VA = PublishedScore(
    name="cha2ds2_va",
    title="CHA2DS2-VA (the former without sex)",
    source="Van Gelder IC et al., Eur Heart J 2024;45:3314 (ESC guideline)",
    mark=Mark.SECOND_HAND,
    endpoint="stroke",
    formula=points(*_VA),
    inputs=("age_years", *_HISTORY),
)
HAS_BLED = PublishedScore(
    name="has_bled",
    title="HAS-BLED without labile INR and alcohol, which are not recorded here",
    source="Pisters R et al., Chest 2010;138:1093; definition and rates as in PMC3418985, table 3",
    mark=Mark.SECOND_HAND,
    endpoint="major_bleeding_1y",
    formula=points(*_BLEED),
    inputs=("age_years", "stroke_history", "bleeding_history"),
    optional=("systolic_blood_pressure_mmhg", "creatinine_mg_dl", "liver_disease", "antiplatelet"),
    risk_of=lambda score: -np.expm1(-rate_of(PISTERS_2010, np.nan_to_num(score))),
    risk_days=365.25,
)
