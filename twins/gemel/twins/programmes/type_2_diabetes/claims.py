"""What the twin of type 2 diabetes is held to: three published models reproduced, and the published effect of each class.

All are of gate G0. There is none of G1 on treatment response: no open data hold it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gemel.core.concepts import load_concepts
from gemel.twins.claims import Claim, Gate
from gemel.twins.parameters import Mark
from gemel.twins.programmes.type_2_diabetes import published_models as published
from gemel.twins.programmes.type_2_diabetes.drug_classes import (
    CLASSES,
    REFERENCE_HBA1C,
    REFERENCE_WEIGHT_KG,
    DrugClass,
)
from gemel.twins.programmes.type_2_diabetes.physiology import (
    DiabetesPhysiology,
    resting_product,
    typical,
)
from gemel.twins.solvers import Inputs, observed_course, solve_ode

# An exposure beyond which nothing more can be had.
_ENDLESS = 1e12


def _typical_fasting() -> tuple[Tensor, Tensor]:
    theta = typical()
    function = theta["beta_cell_function"]
    return published.fasting_glucose(theta["insulin_sensitivity"], function), function


def _fasting_glucose(data: Path) -> float:
    return float(_typical_fasting()[0])


def _fasting_insulin(data: Path) -> float:
    glucose, function = _typical_fasting()
    return float(published.fasting_insulin(function, glucose))


def _hba1c(data: Path) -> float:
    physiology, theta = DiabetesPhysiology(), typical()
    return float(physiology.observe(physiology.start(theta), theta)["hba1c"])


def _riggs(name: str) -> float:
    return next(p.value for p in published.RIGGS_PARAMETERS if p.name == name)


def _riggs_half_life_weeks(data: Path) -> float:
    return math.log(2) / (_riggs("hba1c_removal") * 7)


def _riggs_steady_hba1c(data: Path) -> float:
    physiology = published.RiggsPhysiology()
    theta = {p.name: torch.tensor([p.value], dtype=torch.float64) for p in physiology.parameters}
    return float(physiology.observe(physiology.start(theta), theta)["hba1c"])


def _riggs_greatest_fall(data: Path) -> float:
    """By the ODE itself: fasting glucose of 8 mmol/L after a year of endless exposure."""
    physiology = published.RiggsPhysiology()
    theta = {p.name: torch.tensor([p.value], dtype=torch.float64) for p in physiology.parameters}
    theta |= {
        "exposure": torch.tensor([_ENDLESS]).double(),
        "fasting_glucose_at_start": torch.tensor([8.0]).double(),
    }
    inputs = Inputs(amounts={"sglt2_inhibitor": torch.ones(1, 1, dtype=torch.float64)})
    states = solve_ode(physiology, theta, (0.0, 365.0), inputs=inputs)
    return 1 - float(states[0, 1, 0] / states[0, 0, 0])


def _topp(near: float, of: Callable[[NDArray[np.float64]], float]) -> Callable[[Path], float]:
    return lambda data: of(published.topp_fixed_point(near))


def _growing_directions(state: NDArray[np.float64]) -> float:
    return float((np.linalg.eigvals(published.topp_jacobian(state)).real > 0).sum())


def _effect(one: DrugClass) -> Callable[[Path], float]:
    """HbA1c after half a year with the class minus without, of the person that published means are set at."""

    def compute(data: Path) -> float:
        physiology, theta = DiabetesPhysiology(), typical()
        product = resting_product(torch.tensor([REFERENCE_HBA1C], dtype=torch.float64))
        theta |= {
            "beta_cell_function": product / theta["insulin_sensitivity"],
            "body_weight": torch.tensor([REFERENCE_WEIGHT_KG], dtype=torch.float64),
        }
        found = []
        for amount in (1.0, 0.0):
            given = {name: torch.zeros(1, 1, dtype=torch.float64) for name in physiology.inputs}
            given[one.name] = torch.full((1, 1), amount, dtype=torch.float64)
            states = solve_ode(physiology, theta, (0.0, 182.0), inputs=Inputs(amounts=given))
            found.append(float(observed_course(physiology, theta, states)["hba1c"][0, 1]))
        return found[0] - found[1]

    return compute


def _ifcc(data: Path) -> float:
    (equation,) = load_concepts()["hba1c"].equations
    return equation.factor * 48 + equation.offset


def _claim(
    name: str,
    statement: str,
    value: float,
    within: float,
    unit: str,
    source: str,
    compute: Callable[[Path], float],
    mark: Mark = Mark.VERIFIED,
) -> Claim:
    return Claim(name, statement, Gate.G0, value, value - within, value + within, unit, source, mark, compute)


_WHIG = "research note of 2026 on Choy 2016, computed from table 1 of: " + published.CHOY_2016
_TOPP = (
    ("stable", 105.0, (100.0, 10.0, 300.0), 0.0, (0.5, 0.05, 0.5)),
    ("saddle", 245.0, (250.0, 2.8, 37.0), 1.0, (0.5, 0.05, 0.5)),
)

CLAIMS = (
    _claim(
        "whig_fasting_glucose",
        "Untreated, the typical person of WHIG has a fasting glucose of 7.46 mmol/L (its trial's median: 7.6).",
        7.46,
        0.005,
        "mmol/L",
        _WHIG,
        _fasting_glucose,
    ),
    _claim(
        "whig_fasting_insulin",
        "Untreated, the typical person of WHIG has a fasting insulin of 18.8 mIU/L (its trial's median: 17.8).",
        18.8,
        0.05,
        "m[IU]/L",
        _WHIG,
        _fasting_insulin,
    ),
    _claim(
        "whig_hba1c",
        "Untreated, the typical person of WHIG has an HbA1c of 6.50 % (its trial's median: 6.7).",
        6.50,
        0.005,
        "%",
        _WHIG,
        _hba1c,
    ),
    _claim(
        "riggs_half_life",
        "HbA1c follows glucose with a half-life of 4.15 weeks.",
        4.15,
        0.005,
        "wk",
        published.RIGGS_2014,
        _riggs_half_life_weeks,
    ),
    _claim(
        "riggs_steady_hba1c",
        "A fasting glucose of 8.5 mmol/L that stays makes an HbA1c of 7.31 % (the study's baseline: 7.18).",
        7.31,
        0.005,
        "%",
        published.RIGGS_2014,
        _riggs_steady_hba1c,
    ),
    _claim(
        "riggs_greatest_fall",
        "However much empagliflozin there is, a fasting glucose of 8 mmol/L falls by a part of 0.158 at most.",
        0.158,
        0.0005,
        "1",
        published.RIGGS_2014,
        _riggs_greatest_fall,
    ),
    *(
        _claim(
            f"topp_{name}_{quantity}",
            f"Topp's {name} point has {quantity} {point[i]:g}.",
            point[i],
            within[i],
            unit,
            published.TOPP_2000,
            _topp(near, lambda state, i=i: float(state[i])),  # type: ignore[misc]
        )
        for name, near, point, _, within in _TOPP
        for i, (quantity, unit) in enumerate((("glucose", "mg/dL"), ("insulin", "u[IU]/mL"), ("mass", "mg")))
    ),
    *(
        _claim(
            f"topp_{name}",
            f"Of the directions away from Topp's {name} point, {growing:g} grow.",
            growing,
            0.0,
            "1",
            published.TOPP_2000,
            _topp(near, _growing_directions),
        )
        for name, near, _, growing, _ in _TOPP
    ),
    *(
        Claim(
            f"effect_{one.name}",
            f"Untrained, the twin lowers HbA1c by {-one.hba1c_percent:g} % in half a year with this class alone.",
            Gate.G0,
            one.hba1c_percent,
            one.low,
            one.high,
            "%",
            one.source,
            one.mark,
            _effect(one),
        )
        for one in CLASSES
    ),
    _claim(
        "ifcc",
        "48 mmol/mol by IFCC is 6.5 % by NGSP.",
        6.5,
        0.05,
        "%",
        "master equation of NGSP and IFCC (ngsp.org/ifcc.asp), as the concept library has it",
        _ifcc,
        Mark.SECOND_HAND,
    ),
)
