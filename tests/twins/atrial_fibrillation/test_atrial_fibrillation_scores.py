"""CHA2DS2-VASc, CHA2DS2-VA and HAS-BLED on patients whose points can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemel.twins.programmes.atrial_fibrillation import PROGRAMME
from gemel.twins.programmes.atrial_fibrillation.published_scores import (
    CHA2DS2_VA,
    CHA2DS2_VASC,
    FRIBERG_2012,
    HAS_BLED,
    PISTERS_2010,
)

NOTHING = {name: 0.0 for name in PROGRAMME.feature_names} | {
    "age_years": 50.0,
    "male": 1.0,
    "systolic_blood_pressure_mmhg": 130.0,
    "body_mass_index_kg_m2": 26.0,
    "creatinine_mg_dl": 1.0,
}


def patient(**known: float) -> np.ndarray:
    return np.array([[(NOTHING | known)[name] for name in PROGRAMME.feature_names]])


@pytest.mark.parametrize(
    ("known", "vasc", "va"),
    [
        ({}, 0, 0),
        ({"male": 0.0}, 1, 0),
        ({"age_years": 64.9}, 0, 0),
        ({"age_years": 65.0}, 1, 1),
        ({"age_years": 74.9}, 1, 1),
        ({"age_years": 75.0}, 2, 2),
        ({"stroke_history": 1.0}, 2, 2),
        ({"heart_failure": 1.0, "hypertension": 1.0}, 2, 2),
        ({"diabetes": 1.0, "vascular_disease": 1.0, "male": 0.0, "age_years": 80.0}, 5, 4),
    ],
)
def test_points_for_stroke_are_those_of_the_definition(known, vasc, va):
    assert CHA2DS2_VASC(patient(**known), PROGRAMME)[0] == vasc
    assert CHA2DS2_VA(patient(**known), PROGRAMME)[0] == va


@pytest.mark.parametrize(
    ("known", "points"),
    [
        ({}, 0),
        ({"systolic_blood_pressure_mmhg": 160.0}, 0),
        ({"systolic_blood_pressure_mmhg": 161.0}, 1),
        ({"creatinine_mg_dl": 2.3}, 1),
        ({"liver_disease": 1.0}, 1),
        ({"age_years": 65.0}, 0),
        ({"age_years": 65.5}, 1),
        ({"stroke_history": 1.0, "bleeding_history": 1.0, "antiplatelet": 1.0}, 3),
    ],
)
def test_points_for_bleeding_are_those_of_the_definition(known, points):
    assert HAS_BLED(patient(**known), PROGRAMME)[0] == points


def test_who_has_no_age_gets_no_score():
    assert np.isnan(CHA2DS2_VASC(patient(age_years=np.nan), PROGRAMME)[0])


def test_a_yearly_risk_goes_with_each_score():
    risk = CHA2DS2_VASC.risk(patient(age_years=76.0, hypertension=1.0), PROGRAMME)
    assert risk == pytest.approx(1 - np.exp(-FRIBERG_2012[3] / 100))
    bleed = HAS_BLED.risk(patient(age_years=76.0, bleeding_history=1.0), PROGRAMME)
    assert bleed == pytest.approx(1 - np.exp(-PISTERS_2010[2] / 100))


@given(
    st.sets(
        st.sampled_from(["heart_failure", "hypertension", "diabetes", "stroke_history", "vascular_disease"])
    )
)
def test_a_further_risk_factor_never_lowers_a_score(held):
    known = dict.fromkeys(held, 1.0)
    score = CHA2DS2_VASC(patient(**known), PROGRAMME)[0]
    for name in ("heart_failure", "hypertension", "diabetes", "stroke_history", "vascular_disease"):
        assert CHA2DS2_VASC(patient(**known, **({} if name in known else {name: 1.0})), PROGRAMME)[0] >= score
