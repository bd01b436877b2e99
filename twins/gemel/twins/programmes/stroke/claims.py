"""What the programme claims of the world outside it, as numbers that run as tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gemel.twins.claims import Claim, Gate
from gemel.twins.parameters import Mark, Parameter, Scale
from gemel.twins.programmes.stroke import haematoma, open_data, published_scores, recovery, tissue
from gemel.twins.programmes.stroke.tissue import Shape, core_volume

_PEOPLE = 40_000
_ROCHA = "Rocha et al., Stroke 2019;50:2238 (abstract read): 185 people with large-vessel occlusion, imaged within 24 h"


def _population(parameters: tuple[Parameter, ...]) -> dict[str, Tensor]:
    """People who differ as a physiology says, by name (n,)."""
    random, people = np.random.default_rng(7), {}
    for parameter in parameters:
        value = torch.full((_PEOPLE,), parameter.value, dtype=torch.float64)
        if parameter.spread and parameter.scale is Scale.LOG:
            value = value * torch.from_numpy(np.exp(parameter.spread * random.standard_normal(_PEOPLE)))
        people[parameter.name] = value.clamp(parameter.low, parameter.high)
    return people


def _cores(first: float, last: float) -> tuple[Tensor, Tensor]:
    """(cores in mL, hours since onset) of untreated people imaged within a span of hours, a third of them of each shape."""
    people = _population(tissue.PARAMETERS)
    people["onset_hours"] = torch.full_like(people["onset_hours"], 48.0)
    hours = torch.from_numpy(np.random.default_rng(8).uniform(first, last, _PEOPLE))
    by_shape = [core_volume(shape, people, hours) for shape in Shape]
    return torch.cat(by_shape), hours.repeat(len(Shape))


def _growth(quantile: float) -> float:
    cores, hours = _cores(1.0, 8.0)
    return float(torch.quantile(cores / hours, quantile))


def _share(first: float, last: float, *, above: float) -> float:
    cores, _ = _cores(first, last)
    return float((cores > above).double().mean())


def _haematoma_growth(hours: float) -> float:
    grown = haematoma.grown_share(_population(haematoma.PARAMETERS), hours)
    return float((grown > 0.33).double().mean())


def _recovered_mildly() -> float:
    """What part of an impairment of 5 points is gone in the end."""
    theta = recovery.typical_person() | {"impairment_0": torch.tensor([5.0])}
    left = recovery.impairment(theta, torch.tensor([1e4]))
    return 1 - float(left) / 5.0


def _trial_share(arm: str, column: str, wanted: Callable[[str], bool]) -> Callable[[Path], float]:
    """Points between the arms of the trial's allocation in the share dead or dependent, of those whose status is known."""

    def difference(data: Path) -> float:
        rows = [
            row for row in open_data.read_rows(data / open_data.FILE) if row["OCCODE"] in ("1", "2", "3", "4")
        ]
        bad = {True: [0, 0], False: [0, 0]}
        for row in rows:
            counts = bad[wanted(row[column])]
            counts[0] += row["OCCODE"] in ("1", "2")
            counts[1] += 1
        return 100 * (bad[True][0] / bad[True][1] - bad[False][0] / bad[False][1])

    difference.__name__ = f"{arm}_difference"
    return difference


def _score(value: int) -> Callable[[Path], float]:
    return lambda data: float(value)


def _vector(name: str, statement: str, value: float, computed: int, source: str, mark: Mark) -> Claim:
    """A published score of one described patient: exact."""
    return Claim(
        name=name,
        statement=statement,
        gate=Gate.G0,
        value=value,
        low=value,
        high=value,
        unit="{score}",
        source=source,
        mark=mark,
        compute=_score(computed),
    )


SCORES = (
    _vector(
        "dragon_highest",
        "DRAGON gives its most, 10, to a patient of 80 with everything against them.",
        10,
        published_scores.dragon(
            dense_artery=True,
            early_infarct=True,
            prestroke_rankin=2,
            age_years=80,
            glucose_mmol_l=8.1,
            onset_to_treatment_min=91,
            nihss=16,
        ),
        published_scores.DRAGON_SOURCE,
        Mark.VERIFIED,
    ),
    _vector(
        "sedan_highest",
        "SEDAN gives its most, 6, to a patient of 76 with a glucose over 12 mmol/L, both signs on the scan and 10 points.",
        6,
        published_scores.sedan(
            glucose_mmol_l=12.1, early_infarct=True, dense_artery=True, age_years=76, nihss=10
        ),
        published_scores.SEDAN_SOURCE,
        Mark.VERIFIED,
    ),
    _vector(
        "ich_highest",
        "The ICH score gives its most, 6, to a comatose patient of 80 with a large infratentorial haemorrhage in the ventricles.",
        6,
        published_scores.ich(
            glasgow_coma_scale=4, volume_ml=30, intraventricular=True, infratentorial=True, age_years=80
        ),
        published_scores.ICH_SOURCE,
        Mark.VERIFIED,
    ),
    _vector(
        "astral_even",
        "ASTRAL gives 31, even odds, to a patient of 75 with 9 points who arrives late, drowsy, with half a visual field.",
        31,
        published_scores.astral(
            age_years=75, nihss=9, onset_hours=3.5, visual_defect=True, glucose_mmol_l=5.0, drowsy=True
        ),
        published_scores.ASTRAL_SOURCE,
        Mark.SECOND_HAND,
    ),
)


def _quantity(
    name: str,
    statement: str,
    value: float,
    low: float,
    high: float,
    unit: str,
    source: str,
    compute: Callable[[], float],
    *,
    mark: Mark = Mark.VERIFIED,
) -> Claim:
    return Claim(
        name=name,
        statement=statement,
        gate=Gate.G0,
        value=value,
        low=low,
        high=high,
        unit=unit,
        source=source,
        mark=mark,
        compute=lambda data: compute(),
    )


TISSUE = (
    _quantity(
        "core_growth_median",
        "Half of the cores of large-vessel occlusion grow by less than 2.6 mL an hour in the first eight hours.",
        2.6,
        2.1,
        3.1,
        "mL/h",
        tissue.GROWTH_SOURCE,
        lambda: _growth(0.5),
    ),
    _quantity(
        "core_growth_third_quartile",
        "A quarter of them grow by more than 14.6 mL an hour.",
        14.6,
        12.4,
        16.8,
        "mL/h",
        tissue.GROWTH_SOURCE,
        lambda: _growth(0.75),
    ),
    _quantity(
        "fast_progressors",
        "A quarter (17 to 37 %) have a core over 70 mL within six hours. The twin was not fitted to this.",
        0.25,
        0.17,
        0.37,
        "1",
        _ROCHA,
        lambda: _share(1.0, 6.0, above=70.0),
    ),
    _quantity(
        "slow_progressors",
        "Half (46 to 64 %) have a core of at most 30 mL between 6 and 24 hours. The twin was not fitted to this.",
        0.55,
        0.46,
        0.64,
        "1",
        _ROCHA,
        lambda: 1 - _share(6.0, 24.0, above=30.0),
    ),
    _quantity(
        "haematoma_growth_1_h",
        "A quarter of haematomas grow by more than a third within an hour of the first scan.",
        0.26,
        0.22,
        0.30,
        "1",
        haematoma.GROWTH_SOURCE,
        lambda: _haematoma_growth(1.0),
    ),
    _quantity(
        "haematoma_growth_20_h",
        "38 % of them do so within 20 hours.",
        0.38,
        0.34,
        0.42,
        "1",
        haematoma.GROWTH_SOURCE,
        lambda: _haematoma_growth(20.0),
    ),
    _quantity(
        "proportional_recovery",
        "A mild stroke loses about 0.7 of its impairment.",
        0.7,
        0.65,
        0.75,
        "1",
        "Kundert et al., Neurorehabil Neural Repair 2019;33:876, by the research note",
        _recovered_mildly,
        mark=Mark.SECOND_HAND,
    ),
)

# On whatever hospitals of the trial are at hand: three standard errors around the whole trial's difference.
TRIAL = (
    Claim(
        name="aspirin_by_lot",
        statement=(
            "The converted trial shows aspirin's difference in dead or dependent at six months: -1.25 points in the whole trial."
        ),
        gate=Gate.G1,
        value=-1.25,
        low=-3.7,
        high=1.2,
        unit="%",
        source="International Stroke Trial, 19,285 people with known status; computed by the research note",
        mark=Mark.COMPUTED,
        compute=_trial_share("aspirin", "RXASP", lambda given: given == "Y"),
        needs=open_data.FILE,
    ),
    Claim(
        name="heparin_by_lot",
        statement="And heparin's: none, +0.03 points in the whole trial.",
        gate=Gate.G1,
        value=0.03,
        low=-2.4,
        high=2.4,
        unit="%",
        source="International Stroke Trial, 19,285 people with known status; computed by the research note",
        mark=Mark.COMPUTED,
        compute=_trial_share("heparin", "RXHEP", lambda given: given in ("L", "M", "H")),
        needs=open_data.FILE,
    ),
)

CLAIMS = (*SCORES, *TISSUE, *TRIAL)
