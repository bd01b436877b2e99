"""What the twin of atrial fibrillation is held to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from gemel.twins.claims import Claim, Gate
from gemel.twins.parameters import Mark
from gemel.twins.programmes.atrial_fibrillation import PROGRAMME, rhythm
from gemel.twins.programmes.atrial_fibrillation.effects import (
    DIRECT_OVER_WARFARIN_STROKE,
    WARFARIN_STROKE,
)
from gemel.twins.programmes.atrial_fibrillation.published_scores import (
    CHA2DS2_VA,
    CHA2DS2_VASC,
    FRIBERG_2012,
    HAS_BLED,
)
from gemel.twins.programmes.atrial_fibrillation.twin import AtrialFibrillationTwin
from gemel.twins.published_score import PublishedScore
from gemel.twins.treatment_plan import TreatmentPlan

# ASSERT: episodes of over a day, and of six minutes to a day, in the 30 days that a burden is told over.
_DAY, _SIX_MINUTES = 1 / 30, 0.1 / 24 / 30


def _patient(known: Mapping[str, float]) -> NDArray[np.float64]:
    """One row of raw values (1, d); what is not given is missing."""
    return np.array([[known.get(name, np.nan) for name in PROGRAMME.feature_names]])


def _worst_case(score: PublishedScore) -> float:
    """The highest score: everything that counts is there."""
    everything = {name: 1.0 for name in PROGRAMME.feature_names}
    everything |= {
        "age_years": 80.0,
        "male": 0.0,
        "systolic_blood_pressure_mmhg": 170.0,
        "creatinine_mg_dl": 3.0,
    }
    return float(score(_patient(everything), PROGRAMME)[0])


def _published_rates(data: Path) -> float:
    """The largest relative difference of the twin's yearly hazards of stroke from the published ones, over the ten scores."""
    twin = AtrialFibrillationTwin(PROGRAMME)
    worst = 0.0
    histories = ("heart_failure", "hypertension", "diabetes", "vascular_disease")
    for score, percent in enumerate(FRIBERG_2012):
        left = score
        known = {name: 0.0 for name in PROGRAMME.feature_names} | {"age_years": 60.0, "male": 1.0}
        for name in histories:
            known[name], left = (1.0, left - 1) if left > 0 else (0.0, left)
        if left >= 2:
            known["age_years"], left = 80.0, left - 2
        if left >= 2:
            known["stroke_history"], left = 1.0, left - 2
        if left:
            known["male"], left = 0.0, left - 1
        values = _patient(known)
        if left or CHA2DS2_VASC(values, PROGRAMME)[0] != score:
            raise AssertionError(f"no patient of score {score}")
        yearly = twin.hazards_in_state(values, 0)[0, 1, : PROGRAMME.step_at(365)].sum() / (365 / 365.25)
        worst = max(worst, abs(yearly * 100 / percent - 1))
    return worst


def _ratio_of(treatment: str) -> float:
    """The ratio of the hazards of stroke in the first year with and without a drug."""
    twin = AtrialFibrillationTwin(PROGRAMME)
    known = {name: 0.0 for name in PROGRAMME.feature_names} | {"age_years": 76.0, "hypertension": 1.0}
    values = _patient(known)
    with_drug = _patient(known | {treatment: 1.0})
    year = PROGRAMME.step_at(365)
    given, not_given = (twin.hazards_in_state(v, 0)[0, 1, :year].sum() for v in (with_drug, values))
    return float(given / not_given)


def _assert_over_a_day(data: Path) -> float:
    return float(rhythm.stroke_ratio(torch.tensor(rhythm.mean_propensity(low=_DAY))) / _no_fibrillation())


def _assert_short(data: Path) -> float:
    short = rhythm.mean_propensity(low=_SIX_MINUTES, high=_DAY)
    return float(rhythm.stroke_ratio(torch.tensor(short)) / _no_fibrillation())


def _no_fibrillation() -> float:
    return float(rhythm.stroke_ratio(torch.tensor(0.0)))


def _highest_third(data: Path) -> float:
    above, below = (
        rhythm.stroke_ratio(torch.tensor(rhythm.mean_propensity(low=low, high=high)))
        for low, high in ((rhythm.HIGHEST_THIRD, 1.0), (0.0, rhythm.HIGHEST_THIRD))
    )
    return float(above / below)


def _no_burden_left(data: Path) -> float:
    """Clots a year after all fibrillation was taken away."""
    twin = AtrialFibrillationTwin(PROGRAMME)
    clots, _ = twin.clot_courses([0.0, 365.0], TreatmentPlan.always({"rhythm_control": 1.0}))
    return float(np.abs(clots[:, -1]).max())


_ASSERT = "Van Gelder IC et al., Eur Heart J 2017;38:1339 (ASSERT, 2,455 people), abstract"

CLAIMS = (
    Claim(
        name="highest_cha2ds2_vasc",
        statement="A woman over 75 with everything that counts has 9 points.",
        gate=Gate.G0,
        value=9.0,
        low=9.0,
        high=9.0,
        unit="{score}",
        source=CHA2DS2_VASC.source,
        mark=CHA2DS2_VASC.mark,
        compute=lambda data: _worst_case(CHA2DS2_VASC),
    ),
    Claim(
        name="highest_cha2ds2_va",
        statement="Without sex, the most is 8 points.",
        gate=Gate.G0,
        value=8.0,
        low=8.0,
        high=8.0,
        unit="{score}",
        source=CHA2DS2_VA.source,
        mark=CHA2DS2_VA.mark,
        compute=lambda data: _worst_case(CHA2DS2_VA),
    ),
    Claim(
        name="highest_has_bled",
        statement="Of the 9 points of HAS-BLED 7 can be had here: labile INR and alcohol are not recorded.",
        gate=Gate.G0,
        value=7.0,
        low=7.0,
        high=7.0,
        unit="{score}",
        source=HAS_BLED.source,
        mark=HAS_BLED.mark,
        compute=lambda data: _worst_case(HAS_BLED),
    ),
    Claim(
        name="published_stroke_rates",
        statement="Untrained, the twin has the published yearly stroke rate at each CHA2DS2-VASc (largest relative difference).",
        gate=Gate.G0,
        value=0.0,
        low=0.0,
        high=1e-4,
        unit="1",
        source=CHA2DS2_VASC.source,
        mark=Mark.SECOND_HAND,
        compute=_published_rates,
    ),
    Claim(
        name="warfarin",
        statement="Warfarin takes away 64 % of strokes.",
        gate=Gate.G0,
        value=WARFARIN_STROKE.value,
        low=WARFARIN_STROKE.value - 1e-6,
        high=WARFARIN_STROKE.value + 1e-6,
        unit="1",
        source=WARFARIN_STROKE.source,
        mark=WARFARIN_STROKE.mark,
        compute=lambda data: _ratio_of("warfarin"),
    ),
    Claim(
        name="direct_anticoagulant",
        statement="A direct anticoagulant has 0.81 times the strokes of warfarin.",
        gate=Gate.G0,
        value=DIRECT_OVER_WARFARIN_STROKE.value,
        low=DIRECT_OVER_WARFARIN_STROKE.low,
        high=DIRECT_OVER_WARFARIN_STROKE.high,
        unit="1",
        source=DIRECT_OVER_WARFARIN_STROKE.source,
        mark=DIRECT_OVER_WARFARIN_STROKE.mark,
        compute=lambda data: _ratio_of("direct_anticoagulant") / _ratio_of("warfarin"),
    ),
    Claim(
        name="kp_rhythm",
        statement="The highest third of burdens has 3.13 times the hazard of stroke of the others (what the closure is fitted to).",
        gate=Gate.G0,
        value=3.13,
        low=3.12,
        high=3.14,
        unit="1",
        source="Go AS et al., JAMA Cardiol 2018;3:601 (KP-RHYTHM): 3.13 (1.50-6.56)",
        mark=Mark.VERIFIED,
        compute=_highest_third,
    ),
    Claim(
        name="assert_over_a_day",
        statement="Episodes of over a day raise the hazard of stroke 3.24-fold; the closure was not fitted to this.",
        gate=Gate.G0,
        value=3.24,
        low=1.51,
        high=6.95,
        unit="1",
        source=_ASSERT,
        mark=Mark.VERIFIED,
        compute=_assert_over_a_day,
    ),
    Claim(
        name="assert_short_episodes",
        statement="Episodes of six minutes to a day make no significant difference to who has none.",
        gate=Gate.G0,
        value=1.0,
        low=0.9,
        high=1.2,
        unit="1",
        source=f"{_ASSERT}; no interval is given there: the range here is ours",
        mark=Mark.VERIFIED,
        compute=_assert_short,
    ),
    Claim(
        name="nothing_left",
        statement="A year after the last episode no propensity to form clots is left.",
        gate=Gate.G0,
        value=0.0,
        low=0.0,
        high=1e-6,
        unit="1",
        source="by the equations",
        mark=Mark.COMPUTED,
        compute=_no_burden_left,
    ),
)
