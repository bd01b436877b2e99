"""Three published models of type 2 diabetes, with their numbers as they were printed: WHIG, Riggs 2014, Topp 2000."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gemel.twins.parameters import Mark, Parameter, Scale, StateVariable

CHOY_2016 = (
    "Choy S et al., CPT Pharmacometrics Syst Pharmacol 2016;5:11, table 1 (as in nlmixr2lib, line by line)"
)
RIGGS_2014 = "Riggs MM et al., Br J Clin Pharmacol 2014;78:1407, table 2 (as in nlmixr2lib, line by line)"
TOPP_2000 = "Topp B et al., J Theor Biol 2000;206:605 (BioModels BIOMD0000000341)"


def _whig(
    name: str,
    title: str,
    value: float,
    unit: str,
    low: float,
    high: float,
    *,
    spread: float = 0.0,
    scale: Scale = Scale.LOG,
) -> Parameter:
    return Parameter(name, title, value, unit, CHOY_2016, Mark.VERIFIED, low, high, spread, scale)


# Fasting glucose below which the liver no longer makes cells secrete, and the steady states of a healthy person (HOMA2).
FLOOR_MMOL_L, INSULIN_PER_GLUCOSE, GLUCOSE_TIMES_INSULIN = 3.5, 7.8, 35.1

# Sensitivity and function are shares of a healthy person's, on the logit scale: 1 / (1 + exp(1.1)) and 1 / (1 + exp(-0.446)).
INSULIN_SENSITIVITY = _whig(
    "insulin_sensitivity",
    "Insulin sensitivity",
    1 / (1 + math.exp(1.1)),
    "1",
    0.0,
    1.0,
    spread=0.305,
    scale=Scale.LOGIT,
)
BETA_CELL_FUNCTION = _whig(
    "beta_cell_function",
    "Beta-cell function",
    1 / (1 + math.exp(-0.446)),
    "1",
    0.0,
    1.0,
    spread=1.4,
    scale=Scale.LOGIT,
)
BETA_CELL_DECLINE = _whig(
    "beta_cell_decline",
    "Decline of beta-cell function, in logits",
    0.209,
    "/a",
    -1.0,
    2.0,
    spread=0.21,
    scale=Scale.NATURAL,
)
BODY_WEIGHT = _whig("body_weight", "Body weight at the start", 104.0, "kg", 30.0, 300.0, spread=0.1452)
SENSITIVITY_PER_KG = _whig(
    "sensitivity_per_kg", "Sensitivity gained for each kg lost", 0.0514, "/kg", 1e-4, 0.5
)
WEIGHT_HALF_LIFE = _whig("weight_half_life", "Half-life of weight", 96.9, "d", 1.0, 1000.0)
GLYCATION = _whig("glycation", "HbA1c made by fasting glucose", 0.0129, "%/d/(mmol/L)", 1e-4, 1.0)
POSTPRANDIAL = _whig("postprandial", "HbA1c made by all other glucose", 0.0709, "%/d", 1e-3, 1.0)
HBA1C_TRANSIT = _whig("hba1c_transit", "Mean transit time of HbA1c", 38.9, "d", 1.0, 365.0)
DIET_LOSS, DIET_LATER_LOSS, WEIGHT_REGAIN_PER_YEAR = 0.0408, 0.0228, 0.0299
DIET_LATER_FROM_DAY = 42.0

WHIG_PARAMETERS = (
    INSULIN_SENSITIVITY,
    BETA_CELL_FUNCTION,
    BETA_CELL_DECLINE,
    BODY_WEIGHT,
    SENSITIVITY_PER_KG,
    WEIGHT_HALF_LIFE,
    GLYCATION,
    POSTPRANDIAL,
    HBA1C_TRANSIT,
)


def fasting_glucose(sensitivity: Tensor, function: Tensor) -> Tensor:
    """WHIG's quasi-steady fasting glucose (mmol/L) of sensitivity and beta-cell function, any equal shapes."""
    needed = GLUCOSE_TIMES_INSULIN / (INSULIN_PER_GLUCOSE * sensitivity * function)
    return (FLOOR_MMOL_L + (FLOOR_MMOL_L**2 + 4 * needed).sqrt()) / 2


def fasting_insulin(function: Tensor, glucose: Tensor) -> Tensor:
    """WHIG's fasting insulin (m[IU]/L)."""
    return INSULIN_PER_GLUCOSE * function * (glucose - FLOOR_MMOL_L)


def sensitivity_times_function(glucose: Tensor) -> Tensor:
    """The inverse of `fasting_glucose`: the product that makes a fasting glucose (mmol/L, above 3.5)."""
    return GLUCOSE_TIMES_INSULIN / (INSULIN_PER_GLUCOSE * glucose * (glucose - FLOOR_MMOL_L))


def steady_hba1c(glucose: Tensor, postprandial: Tensor | float = POSTPRANDIAL.value) -> Tensor:
    """WHIG's HbA1c (%) under a fasting glucose (mmol/L) that stays."""
    return HBA1C_TRANSIT.value * (GLYCATION.value * glucose + postprandial)


def _riggs(name: str, title: str, value: float, unit: str) -> Parameter:
    return Parameter(name, title, value, unit, RIGGS_2014, Mark.VERIFIED, value / 100, value * 100)


RIGGS_PARAMETERS = (
    _riggs("fasting_glucose_at_start", "Fasting glucose at the start (study B)", 8.50, "mmol/L"),
    _riggs("glucose_removal", "Removal of glucose", 0.0407 * 24, "/d"),
    _riggs("exposure", "Exposure over a day: 10 mg empagliflozin once daily", 2250.0, "nmol.h/L"),
    _riggs("half_exposure", "Exposure at half of the greatest effect", 626.0, "nmol.h/L"),
    _riggs("greatest_effect", "Greatest fall of fasting glucose, as a part, at 8 mmol/L", 0.158, "1"),
    _riggs("effect_exponent", "Power of fasting glucose over 8 mmol/L in the effect", 1.47, "1"),
    _riggs("hba1c_made", "HbA1c made by glucose", 0.078 / 7, "%/d/(mmol/L)"),
    _riggs("hba1c_removal", "Removal of HbA1c", 0.167 / 7, "/d"),
    _riggs("hba1c_floor", "HbA1c without glucose", 3.34, "%"),
)
_RIGGS = {parameter.name: parameter.value for parameter in RIGGS_PARAMETERS}


def glucose_lost_part(glucose_at_start: Tensor, exposure: Tensor | float = _RIGGS["exposure"]) -> Tensor:
    """Riggs' STIM: by what part an exposure (nmol.h/L) to empagliflozin lowers fasting glucose (mmol/L at the start)."""
    taken = _RIGGS["greatest_effect"] * exposure / (_RIGGS["half_exposure"] + exposure)
    return taken * (glucose_at_start / 8) ** _RIGGS["effect_exponent"]


class RiggsPhysiology:
    """Fasting glucose and HbA1c under empagliflozin (974 people, up to 12 weeks)."""

    states: tuple[StateVariable, ...] = (
        StateVariable("fasting_glucose", "Fasting glucose", "mmol/L", 2.0, 30.0),
        StateVariable("hba1c", "HbA1c", "%", 3.0, 20.0),
    )
    parameters: tuple[Parameter, ...] = RIGGS_PARAMETERS
    inputs: tuple[str, ...] = ("sglt2_inhibitor",)
    step_days: float = 0.5

    def start(self, theta: Mapping[str, Tensor]) -> Tensor:
        """At rest without the drug."""
        glucose = theta["fasting_glucose_at_start"]
        return torch.stack([glucose, self._resting_hba1c(glucose, theta)], dim=-1)

    def derivative(
        self, state: Tensor, inputs: Mapping[str, Tensor], theta: Mapping[str, Tensor], day: float
    ) -> Tensor:
        """The drug removes more; its sign is that of the repository's note: the printed equation has it wrong."""
        glucose, hba1c = state[..., 0], state[..., 1]
        at_start = theta["fasting_glucose_at_start"]
        saturated = theta["exposure"] / (theta["half_exposure"] + theta["exposure"])
        power = (theta["effect_exponent"] * (at_start / 8).log()).exp()
        lost = inputs["sglt2_inhibitor"] * theta["greatest_effect"] * saturated * power
        made, removed = theta["hba1c_made"], theta["hba1c_removal"]
        return torch.stack(
            [
                theta["glucose_removal"] * (at_start - glucose / (1 - lost)),
                made * glucose - removed * (hba1c - theta["hba1c_floor"]),
            ],
            dim=-1,
        )

    def observe(self, state: Tensor, theta: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """HbA1c in %, fasting glucose in mg/dL."""
        return {"hba1c": state[..., 1], "fasting_glucose": state[..., 0] * MG_DL_PER_MMOL_L}

    @staticmethod
    def _resting_hba1c(glucose: Tensor, theta: Mapping[str, Tensor]) -> Tensor:
        return theta["hba1c_floor"] + theta["hba1c_made"] * glucose / theta["hba1c_removal"]


MG_DL_PER_MMOL_L = 18.0156


def topp_derivative(state: NDArray[np.float64]) -> NDArray[np.float64]:
    """Topp's three equations: change a day of glucose (mg/dL), insulin (uU/mL) and beta-cell mass (mg)."""
    glucose, insulin, mass = state
    return np.array(
        [
            864.0 - (1.44 + 0.72 * insulin) * glucose,
            43.2 * mass * glucose**2 / (20_000.0 + glucose**2) - 432.0 * insulin,
            (-0.06 + 0.84e-3 * glucose - 2.4e-6 * glucose**2) * mass,
        ]
    )


def topp_fixed_point(glucose_near: float) -> NDArray[np.float64]:
    """The point at rest whose glucose is the root near `glucose_near`, by Newton's method on all three equations."""
    insulin = (864.0 / glucose_near - 1.44) / 0.72
    mass = 10 * insulin * (20_000.0 + glucose_near**2) / glucose_near**2
    state = np.array([glucose_near, insulin, mass])
    for _ in range(50):
        state = state - np.linalg.solve(topp_jacobian(state), topp_derivative(state))
    return state


def topp_jacobian(state: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, 3): its eigenvalues tell a stable point from a saddle."""
    glucose, insulin, mass = state
    saturation = glucose**2 / (20_000.0 + glucose**2)
    return np.array(
        [
            [-(1.44 + 0.72 * insulin), -0.72 * glucose, 0.0],
            [43.2 * mass * 40_000.0 * glucose / (20_000.0 + glucose**2) ** 2, -432.0, 43.2 * saturation],
            [
                (0.84e-3 - 4.8e-6 * glucose) * mass,
                0.0,
                -0.06 + 0.84e-3 * glucose - 2.4e-6 * glucose**2,
            ],
        ]
    )
