"""The mechanism of the twin: WHIG (Choy 2016), moved by five drug classes and a diet.

Four of the classes raise the product of insulin sensitivity and secretion, each by the factor that gives its published mean
effect on HbA1c in the person of `drug_classes`; SGLT2 inhibitors take a part of fasting glucose away, in the form of Riggs
2014. All move weight, and weight moves sensitivity. Left out of WHIG are the effects of its trial's placebo on beta cells
and meals.

The same equations twice: as an ODE, and as `courses`, closed forms over pieces of time that cost a hundredth. A test holds
them together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gemel.core.programme import DAYS_PER_YEAR
from gemel.twins.parameters import Mark, Parameter, Scale, StateVariable
from gemel.twins.programmes.type_2_diabetes.drug_classes import (
    CLASSES,
    REFERENCE_HBA1C,
    REFERENCE_WEIGHT_KG,
)
from gemel.twins.programmes.type_2_diabetes.published_models import (
    DIET_LATER_FROM_DAY,
    DIET_LATER_LOSS,
    DIET_LOSS,
    GLYCATION,
    HBA1C_TRANSIT,
    POSTPRANDIAL,
    SENSITIVITY_PER_KG,
    WEIGHT_HALF_LIFE,
    WEIGHT_REGAIN_PER_YEAR,
    WHIG_PARAMETERS,
    fasting_glucose,
    glucose_lost_part,
    sensitivity_times_function,
)

_OURS = "chosen by the programme's authors: no published number of how people differ in it was found"
_STRENGTHS = tuple(
    Parameter(
        f"strength_{one.name}",
        f"Effect of {one.name}, over the published mean",
        1.0,
        "1",
        one.source,
        one.mark,
        0.05,
        8.0,
    )
    for one in CLASSES
)
RESPONSE = Parameter(
    "response",
    "This person's response, over that of their like",
    1.0,
    "1",
    _OURS,
    Mark.UNVERIFIED,
    0.02,
    10.0,
    0.4,
)
LIFESTYLE = Parameter(
    "lifestyle",
    "Lasting change of sensitivity after the start, in logarithms",
    0.0,
    "1",
    _OURS,
    Mark.UNVERIFIED,
    -2.0,
    2.0,
    0.15,
    Scale.NATURAL,
)
FADE = Parameter(
    "fade_per_year",
    "How the effect on secretion wears off",
    0.0,
    "/a",
    _OURS,
    Mark.UNVERIFIED,
    -2.0,
    4.0,
    0.0,
    Scale.NATURAL,
)
DRIFT = Parameter(
    "weight_drift",
    "Change of weight anyway",
    0.0,
    "kg/a",
    _OURS,
    Mark.UNVERIFIED,
    -30.0,
    30.0,
    4.0,
    Scale.NATURAL,
)
FILTRATION = Parameter(
    "filtration",
    "Glomerular filtration, over what an SGLT2 inhibitor needs",
    1.0,
    "1",
    "Riggs 2014: no influence of creatinine clearance down to about 50 mL/min",
    Mark.SECOND_HAND,
    0.0,
    1.0,
    0.0,
    Scale.NATURAL,
)
LIFESTYLE_DAYS = 60.0
# WHIG was seen for 67 weeks: beyond that nothing is known of how glucose and weight go on, and the person stays as they are.
SEEN_DAYS = 67 * 7.0
FULL_FILTRATION_ML_MIN = 50.0
MOST_LOST_PART = 0.6

_REFERENCE_GLUCOSE = (REFERENCE_HBA1C / HBA1C_TRANSIT.value - POSTPRANDIAL.value) / GLYCATION.value


@cache
def log_factors() -> tuple[float, ...]:
    """By class, the logarithm of the factor on sensitivity times function that gives its published mean effect; renal: 0.

    In steady state at the reference person, with what its change of weight does by itself taken off.
    """
    factors = []
    for one in CLASSES:
        after = _REFERENCE_GLUCOSE + one.hba1c_percent / (HBA1C_TRANSIT.value * GLYCATION.value)
        both = torch.tensor([after, _REFERENCE_GLUCOSE], dtype=torch.float64)
        needed, there = sensitivity_times_function(both).log().tolist()
        by_weight = math.log1p(-SENSITIVITY_PER_KG.value * one.weight_kg)
        factors.append(0.0 if one.renal else needed - there - by_weight)
    return tuple(factors)


@cache
def renal_scale() -> float:
    """What Riggs' part is multiplied by so that the class has its published mean effect at the reference person."""
    (one,) = (one for one in CLASSES if one.renal)
    start = torch.tensor([_REFERENCE_GLUCOSE], dtype=torch.float64)
    product = sensitivity_times_function(start) * (1 - SENSITIVITY_PER_KG.value * one.weight_kg)
    after = _REFERENCE_GLUCOSE + one.hba1c_percent / (HBA1C_TRANSIT.value * GLYCATION.value)
    wanted = 1 - after / float(fasting_glucose(product, torch.ones_like(product)))
    return wanted / float(glucose_lost_part(start))


def weight_parts() -> tuple[float, ...]:
    """By class, the part of weight that it adds in the end."""
    return tuple(one.weight_kg / REFERENCE_WEIGHT_KG for one in CLASSES)


Theta = Mapping[str, Tensor]
_RENAL = tuple(float(one.renal) for one in CLASSES)
_K_WEIGHT = math.log(2) / WEIGHT_HALF_LIFE.value
_K_HBA1C = 3 / HBA1C_TRANSIT.value
_DAYS_A_YEAR = 365.0  # as WHIG counts


class DiabetesPhysiology:
    """Weight, and HbA1c in three compartments; glucose and insulin are at rest within the day."""

    states: tuple[StateVariable, ...] = (
        StateVariable("weight", "Body weight", "kg", 20.0, 400.0),
        *(StateVariable(f"hba1c_{i}", f"HbA1c, compartment {i} of 3", "%", 0.0, 12.0) for i in (1, 2, 3)),
    )
    parameters: tuple[Parameter, ...] = (
        *WHIG_PARAMETERS,
        *_STRENGTHS,
        RESPONSE,
        LIFESTYLE,
        FADE,
        DRIFT,
        FILTRATION,
    )
    inputs: tuple[str, ...] = (*(one.name for one in CLASSES), "diet")
    step_days: float = 7.0

    def start(self, theta: Theta) -> Tensor:
        """At rest under what the person takes already."""
        part = self._resting_glucose(theta) * theta["glycation"] + theta["postprandial"]
        part = part * theta["hba1c_transit"] / 3
        return torch.stack([theta["body_weight"], part, part, part], dim=-1)

    def derivative(self, state: Tensor, inputs: Theta, theta: Theta, day: float) -> Tensor:
        """See the module."""
        weight, first, second, third = state.unbind(-1)
        k_weight = math.log(2) / theta["weight_half_life"]
        k_hba1c = 3 / theta["hba1c_transit"]
        years = min(day, SEEN_DAYS) / _DAYS_A_YEAR
        diet = inputs["diet"]
        lost = DIET_LOSS + (DIET_LATER_LOSS if day >= DIET_LATER_FROM_DAY else 0.0)
        fed = (1 + diet * WEIGHT_REGAIN_PER_YEAR * years) * (1 - diet * lost)
        for one, part in zip(CLASSES, weight_parts(), strict=True):
            fed = fed + inputs[one.name] * part
        target = theta["body_weight"] * fed + theta["weight_drift"] * years
        made = theta["glycation"] * self._glucose(weight, inputs, theta, day) + theta["postprandial"]
        return torch.stack(
            [
                k_weight * (target - weight),
                made - k_hba1c * first,
                k_hba1c * (first - second),
                k_hba1c * (second - third),
            ],
            dim=-1,
        )

    def observe(self, state: Tensor, theta: Theta) -> Mapping[str, Tensor]:
        """HbA1c in %, weight in kg."""
        return {"hba1c": state[..., 1:].sum(-1), "body_weight": state[..., 0]}

    def _resting_glucose(self, theta: Theta) -> Tensor:
        return fasting_glucose(theta["insulin_sensitivity"], theta["beta_cell_function"])

    def _glucose(self, weight: Tensor, inputs: Theta, theta: Theta, day: float) -> Tensor:
        given = torch.stack([inputs[one.name].expand_as(weight) for one in CLASSES], dim=-1)
        days = torch.full_like(weight, day)
        columns = {name: value[..., None] for name, value in theta.items()}
        return glucose_at(columns, given, days[..., None], weight[..., None])[..., 0]


def glucose_at(theta: Theta, given: Tensor, days: Tensor, weight: Tensor) -> Tensor:
    """Fasting glucose (B, T) in mmol/L of people, each parameter (B, 1), given classes (B, 5), on days at weights (B, T)."""
    years = days.clamp(max=SEEN_DAYS) / _DAYS_A_YEAR
    response = theta["response"]
    strengths = torch.cat([theta[f"strength_{one.name}"] for one in CLASSES], dim=-1)
    factors = (given * strengths) @ given.new_tensor(log_factors())[:, None]
    renal = (given * strengths) @ given.new_tensor(_RENAL)[:, None]
    lighter = (1 - theta["sensitivity_per_kg"] * (weight - theta["body_weight"])).clamp(min=0.1)
    function = torch.special.logit(theta["beta_cell_function"]) - theta["beta_cell_decline"] * years
    settled = 1 - (-days / LIFESTYLE_DAYS).exp()
    raised = response * factors * (-theta["fade_per_year"] * years).exp() + theta["lifestyle"] * settled
    product = theta["insulin_sensitivity"] * lighter * torch.sigmoid(function) * raised.clamp(-4, 4).exp()
    at_start = fasting_glucose(theta["insulin_sensitivity"], theta["beta_cell_function"])
    lost = renal_scale() * glucose_lost_part(at_start) * theta["filtration"] * response * renal
    return fasting_glucose(product, torch.ones_like(product)) * (1 - lost.clamp(0, MOST_LOST_PART))


@dataclass(frozen=True)
class Pieces:
    """Pieces of time over which glucose counts as constant: four weeks in the first year, a quarter after it.

    Attributes:
        edges: (pieces + 1,) days. middles: (pieces,).
    """

    edges: NDArray[np.float64]

    @classmethod
    def to(cls, day: float) -> Pieces:
        """Those that are needed up to a day."""
        first = np.linspace(0, DAYS_PER_YEAR, 14)
        later = np.linspace(DAYS_PER_YEAR, 10 * DAYS_PER_YEAR + 90, 38)[1:]
        edges = np.concatenate([first, later])
        return cls(edges[: int(np.searchsorted(edges, day, side="left")) + 1])

    @property
    def middles(self) -> NDArray[np.float64]:
        """(pieces,) days."""
        return (self.edges[1:] + self.edges[:-1]) / 2

    def memory(self, days: NDArray[np.float64]) -> NDArray[np.float64]:
        """(T, 1 + pieces): days of glucose that HbA1c on each of `days` remembers: before the start, then of each piece."""
        reached = np.minimum(self.edges[None, :], days[:, None])
        remembered = _remembered(days[:, None] - reached)
        return np.concatenate(
            [HBA1C_TRANSIT.value - remembered[:, :1], remembered[:, :-1] - remembered[:, 1:]], axis=1
        )


def _remembered(days: NDArray[np.float64]) -> NDArray[np.float64]:
    """What HbA1c holds of the glucose of the last `days` days: the integral of three compartments in a row."""
    x = _K_HBA1C * days
    # Gamma distributions of 1, 2 and 3 steps.
    return (3 - np.exp(-x) * (3 + 2 * x + x**2 / 2)) / _K_HBA1C


@dataclass(frozen=True)
class Courses:
    """What `courses` follows, (B, T) each, on the days that were asked for."""

    hba1c_percent: Tensor
    fasting_mmol_l: Tensor
    weight_kg: Tensor


def days_needed(days: NDArray[np.float64]) -> NDArray[np.float64]:
    """The days on which `courses` looks at glucose and weight, to tell HbA1c on `days`: middles of pieces, then `days`."""
    return np.concatenate([Pieces.to(float(days.max(initial=1.0))).middles, days])


def courses(theta: Theta, given: Tensor, days: NDArray[np.float64], *, diet: Tensor | None = None) -> Courses:
    """HbA1c, fasting glucose and weight of people (each parameter (B,)) who are given classes (B, 5) all the time.

    `diet` is what a diet does to weight, as a part of it, on `days_needed` (B or 1, ...): see `diet_part`. WHIG's constants
    are one for all here.
    """
    pieces = Pieces.to(float(days.max(initial=1.0)))
    columns = {name: value[:, None] for name, value in theta.items()}
    when = given.new_tensor(days_needed(days)).expand(len(given), -1)
    weight = _weights(columns, given, when, torch.zeros_like(when) if diet is None else diet)
    glucose = glucose_at(columns, given, when, weight)
    count = len(pieces.middles)
    at_start = fasting_glucose(columns["insulin_sensitivity"], columns["beta_cell_function"])
    seen = torch.cat([at_start, glucose[:, :count]], dim=1)
    remembered = seen @ given.new_tensor(pieces.memory(days)).T
    hba1c = columns["glycation"] * remembered + columns["postprandial"] * HBA1C_TRANSIT.value
    return Courses(hba1c, glucose[:, count:], weight[:, count:])


def _weights(theta: Theta, given: Tensor, days: Tensor, diet: Tensor) -> Tensor:
    """Weight (B, T): a first-order lag behind what is fed, in closed form."""
    near = 1 - (-_K_WEIGHT * days).exp()
    part = given @ given.new_tensor(weight_parts())[:, None]
    seen = days.clamp(max=SEEN_DAYS)
    behind = (1 - (-_K_WEIGHT * seen).exp()) / _K_WEIGHT
    caught_up = 1 - (-_K_WEIGHT * (days - seen)).exp()
    drift = theta["weight_drift"] / _DAYS_A_YEAR * (seen - behind + behind * caught_up)
    return theta["body_weight"] * (1 + part * near + diet) + drift


def diet_part(diet: NDArray[np.float64], days: NDArray[np.float64]) -> NDArray[np.float64]:
    """The part of weight that a diet takes by each of `days`: the lag of WHIG behind its food, day by day.

    `diet` holds its amount, 0 or 1, on each whole day from 0 on.
    """
    day = np.arange(len(diet))
    lost = DIET_LOSS + DIET_LATER_LOSS * (day >= DIET_LATER_FROM_DAY)
    years = np.minimum(day, SEEN_DAYS) / _DAYS_A_YEAR
    wanted = (1 + diet * WEIGHT_REGAIN_PER_YEAR * years) * (1 - diet * lost) - 1
    reached = np.zeros(len(diet) + 1)
    kept = math.exp(-_K_WEIGHT)
    for i, target in enumerate(wanted):
        reached[i + 1] = kept * reached[i] + (1 - kept) * target
    return np.interp(days, np.arange(len(reached)), reached)


def resting_product(hba1c_percent: Tensor, postprandial: Tensor | float = POSTPRANDIAL.value) -> Tensor:
    """Sensitivity times function of a person whose HbA1c (%) is at rest."""
    glucose = (hba1c_percent / HBA1C_TRANSIT.value - postprandial) / GLYCATION.value
    return sensitivity_times_function(glucose.clamp(min=4.0))


def typical(*, persons: int = 1) -> dict[str, Tensor]:
    """The typical person's parameters, (persons,) each in float64."""
    return {
        parameter.name: torch.full((persons,), parameter.value, dtype=torch.float64)
        for parameter in DiabetesPhysiology.parameters
    }
