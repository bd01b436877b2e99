"""Published stroke scores: described patients, ends and edges."""

import numpy as np
import pytest

from gemel.twins.programmes.stroke import PROGRAMME
from gemel.twins.programmes.stroke import published_scores as scores

BEST = {
    "dragon": (scores.dragon, {"dense_artery": False, "early_infarct": False, "prestroke_rankin": 1, "age_years": 64, "glucose_mmol_l": 8.0, "onset_to_treatment_min": 90, "nihss": 4}),
    "sedan": (scores.sedan, {"glucose_mmol_l": 8.0, "early_infarct": False, "dense_artery": False, "age_years": 75, "nihss": 9}),
    "hat": (scores.hat, {"diabetes_or_glucose_over_200": False, "nihss": 14, "hypodensity_thirds": 0.0}),
    "ich": (scores.ich, {"glasgow_coma_scale": 13, "volume_ml": 29.9, "intraventricular": False, "infratentorial": False, "age_years": 79}),
}  # fmt: skip
STEPS = [
    ("dragon", {"dense_artery": True}, 1),
    ("dragon", {"dense_artery": True, "early_infarct": True}, 2),
    ("dragon", {"prestroke_rankin": 2}, 1),
    ("dragon", {"age_years": 65}, 1),
    ("dragon", {"age_years": 80}, 2),
    ("dragon", {"glucose_mmol_l": 8.1}, 1),
    ("dragon", {"onset_to_treatment_min": 91}, 1),
    ("dragon", {"nihss": 5}, 1),
    ("dragon", {"nihss": 10}, 2),
    ("dragon", {"nihss": 15}, 2),
    ("dragon", {"nihss": 16}, 3),
    ("sedan", {"glucose_mmol_l": 8.1}, 1),
    ("sedan", {"glucose_mmol_l": 12.0}, 1),
    ("sedan", {"glucose_mmol_l": 12.1}, 2),
    ("sedan", {"age_years": 76}, 1),
    ("sedan", {"nihss": 10}, 1),
    ("hat", {"diabetes_or_glucose_over_200": True}, 1),
    ("hat", {"nihss": 15}, 1),
    ("hat", {"nihss": 20}, 2),
    ("hat", {"hypodensity_thirds": 0.5}, 1),
    ("hat", {"hypodensity_thirds": 1.0}, 2),
    ("ich", {"glasgow_coma_scale": 12}, 1),
    ("ich", {"glasgow_coma_scale": 5}, 1),
    ("ich", {"glasgow_coma_scale": 4}, 2),
    ("ich", {"volume_ml": 30.0}, 1),
    ("ich", {"intraventricular": True}, 1),
    ("ich", {"infratentorial": True}, 1),
    ("ich", {"age_years": 80}, 1),
]


@pytest.mark.parametrize("name", BEST)
def test_the_best_patient_has_no_points(name):
    formula, patient = BEST[name]
    assert formula(**patient) == 0


@pytest.mark.parametrize(("name", "worse", "points"), STEPS)
def test_each_thing_against_a_patient_has_its_points(name, worse, points):
    formula, patient = BEST[name]
    assert formula(**patient | worse) == points


@pytest.mark.parametrize(
    ("patient", "points"),
    [
        ({"age_years": 75, "nihss": 9, "onset_hours": 3.5, "visual_defect": True, "glucose_mmol_l": 5.0, "drowsy": True}, 31),
        ({"age_years": 64.9, "nihss": 0, "onset_hours": 3.0, "visual_defect": False, "glucose_mmol_l": 7.3, "drowsy": False}, 12),
        ({"age_years": 60, "nihss": 4, "onset_hours": 1.0, "visual_defect": False, "glucose_mmol_l": 3.6, "drowsy": False}, 17),
    ],
)  # fmt: skip
def test_astral_counts_whole_five_years(patient, points):
    assert scores.astral(**patient) == points


def test_astral_is_even_odds_at_31_points():
    np.testing.assert_allclose(scores.astral_risk(np.array([31.0])), 0.5)
    assert (np.diff(scores.astral_risk(np.arange(60.0))) > 0).all()


def values(**given):
    found = np.full((1, len(PROGRAMME.feature_names)), np.nan)
    for name, value in given.items():
        found[0, PROGRAMME.feature_names.index(name)] = value
    return found


def test_thrive_of_a_programme_patient():
    patient = {"nihss": 15, "age_years": 80, "hypertension": 1, "diabetes": 0, "atrial_fibrillation": 1}
    assert scores.THRIVE(values(**patient), PROGRAMME) == [6]
    assert scores.THRIVE(values(**patient | {"nihss": 10, "age_years": 59}), PROGRAMME) == [2]
    assert scores.THRIVE(values(**patient | {"nihss": 21}), PROGRAMME) == [8]


def test_astral_of_a_programme_patient_is_that_of_one_who_came_early():
    patient = {"age_years": 75, "nihss": 9, "visual_deficit": 1, "glucose_mg_dl": 90, "consciousness": 1}
    assert scores.ASTRAL_WITHIN_3_HOURS(values(**patient), PROGRAMME) == [29]
    high = scores.ASTRAL_WITHIN_3_HOURS(values(**patient | {"glucose_mg_dl": 140}), PROGRAMME)
    assert high == [30]


def test_a_score_without_its_inputs_is_none():
    assert np.isnan(scores.THRIVE(values(age_years=80), PROGRAMME)).all()


@pytest.mark.parametrize("table", [scores.SEDAN_BLEEDING, scores.HAT_BLEEDING, scores.ICH_DEATH])
def test_published_risks_rise_with_the_score(table):
    risks = [table[score] for score in sorted(table)]
    assert risks == sorted(risks)
    assert all(0 <= risk <= 1 for risk in risks)
