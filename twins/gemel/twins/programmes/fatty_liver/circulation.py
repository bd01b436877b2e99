"""The circulation: a three-element windkessel beat by beat, how weight moves it over months, and the portal gradient.

    C dP/dt = Q(t) - (P - Pv) / R,   Pao = P + Zc Q

for pressure P (mm Hg) behind the aorta's characteristic impedance Zc, flow Q (mL/s), systemic vascular resistance R
(mm Hg s/mL) and arterial compliance C (mL/mm Hg); Westerhof N et al., Med Biol Eng Comput 2009;47:131. A heart beat is a
million times faster than weight or arteries change, so a beat is in its periodic state at once, and that has a closed form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gemel.core.programme import DAYS_PER_YEAR
from gemel.twins.parameters import Mark, Parameter, StateVariable

_AUTHORS = "textbook order of magnitude, chosen by the programme's authors"
NETER_2003 = (
    "Neter JE et al., Hypertension 2003;42:878, abstract: -1.05 (-1.43 to -0.66) systolic and -0.92 diastolic "
    "mm Hg for a kilogram (25 randomised trials)"
)
# Mean pressure = diastolic + a third of the pulse: what a kilogram less does to it.
PRESSURE_PER_KILOGRAM = (1.05 + 2 * 0.92) / 3


def _chosen(
    name: str, title: str, value: float, unit: str, low: float, high: float, spread: float = 0.0
) -> Parameter:
    return Parameter(
        name=name,
        title=title,
        value=value,
        unit=unit,
        source=_AUTHORS,
        mark=Mark.UNVERIFIED,
        low=low,
        high=high,
        spread=spread,
    )


CARDIAC_OUTPUT = _chosen("cardiac_output", "Cardiac output", 83.3, "mL/s", 30.0, 250.0)
HEART_RATE = _chosen("heart_rate", "Heart rate", 70.0, "/min", 40.0, 140.0)
EJECTION = _chosen("ejection", "Share of a beat in which the heart ejects", 0.35, "1", 0.2, 0.6)
VENOUS_PRESSURE = _chosen("venous_pressure", "Central venous pressure", 5.0, "mm[Hg]", 1.0, 25.0)
IMPEDANCE = _chosen("impedance", "Characteristic impedance of the aorta", 0.05, "mm[Hg].s/mL", 0.005, 0.3)
RESISTANCE = _chosen(
    "resistance", "Systemic vascular resistance at the index date", 1.05, "mm[Hg].s/mL", 0.2, 4.0
)
COMPLIANCE = _chosen("compliance", "Arterial compliance at the index date", 1.5, "mL/mm[Hg]", 0.3, 4.0)
STIFFENING = _chosen("stiffening", "Share of compliance that is lost in a year", 0.01, "/a", 1e-4, 0.05)
WEIGHT = _chosen("weight", "Weight at the index date", 81.0, "kg", 30.0, 250.0)
WEIGHT_DAYS = _chosen("weight_days", "Time constant of a change of weight", 120.0, "d", 40.0, 400.0)
RESISTANCE_DAYS = _chosen(
    "resistance_days", "Time constant with which resistance follows weight", 120.0, "d", 40.0, 400.0
)
PRESSURE_DRIFT = _chosen(
    "pressure_drift",
    "How far people's pressures drift apart in the first year; with its root after",
    4.0,
    "mm[Hg]",
    1.0,
    10.0,
)
PRESSURE_SLOPE = Parameter(
    name="pressure_per_kilogram",
    title="Mean pressure that goes with a kilogram",
    value=PRESSURE_PER_KILOGRAM,
    unit="mm[Hg]/kg",
    source=NETER_2003,
    mark=Mark.COMPUTED,
    low=0.1,
    high=3.0,
)


class Circulation:
    """`gemel.twins.physiology.OdePhysiology`: weight, resistance and compliance over months and years.

    Weight follows its plan, resistance follows weight so that mean pressure falls as in randomised trials of weight loss, and
    arteries stiffen. Pressures are those of the periodic beat.
    """

    states: tuple[StateVariable, ...] = (
        StateVariable("weight", "Weight over that of the index date", "1", 0.7, 1.3),
        StateVariable("resistance", "Systemic vascular resistance", "mm[Hg].s/mL", 0.05, 4.0),
        StateVariable("compliance", "Arterial compliance", "mL/mm[Hg]", 0.05, 4.0),
    )
    parameters: tuple[Parameter, ...] = (
        CARDIAC_OUTPUT,
        HEART_RATE,
        EJECTION,
        VENOUS_PRESSURE,
        IMPEDANCE,
        RESISTANCE,
        COMPLIANCE,
        STIFFENING,
        WEIGHT,
        WEIGHT_DAYS,
        RESISTANCE_DAYS,
        PRESSURE_SLOPE,
    )
    inputs: tuple[str, ...] = ("weight_loss",)
    step_days = 61.0  # three to half a year

    def start(self, theta: Mapping[str, Tensor]) -> Tensor:
        """(B, 3)."""
        resistance = theta["resistance"]
        return torch.stack([torch.ones_like(resistance), resistance, theta["compliance"]], dim=1)

    def derivative(
        self, state: Tensor, inputs: Mapping[str, Tensor], theta: Mapping[str, Tensor], day: float
    ) -> Tensor:
        """(B, 3) per day."""
        weight, resistance, compliance = state.unbind(1)
        lost = inputs["weight_loss"] * 0.01 if "weight_loss" in inputs else torch.zeros_like(weight)
        # Above its plan by this share; above the weight of the index date by so many kilograms.
        above, kilograms = weight + lost - 1, theta["weight"] * (weight - 1)
        aimed = theta["resistance"] + kilograms * theta["pressure_per_kilogram"] / theta["cardiac_output"]
        return torch.stack(
            [
                above / -theta["weight_days"],
                (aimed.clamp(min=0.1) - resistance) / theta["resistance_days"],
                compliance * (theta["stiffening"] * (-1 / DAYS_PER_YEAR)),
            ],
            dim=1,
        )

    def undisturbed(self, theta: Mapping[str, Tensor], days: Sequence[float]) -> Tensor:
        """(B, T, 3): the exact course under no plan, in which weight and resistance stay."""
        years = torch.tensor(days, dtype=theta["resistance"].dtype) / DAYS_PER_YEAR
        compliance = theta["compliance"][:, None] * torch.exp(-theta["stiffening"][:, None] * years)
        weight = torch.ones_like(compliance)
        return torch.stack([weight, theta["resistance"][:, None] * weight, compliance], dim=2)

    def observe(self, state: Tensor, theta: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Pressures of a beat in mm[Hg]; weight as a share of that at the index date."""
        weight, resistance, compliance = state.unbind(1)
        return {"weight": weight, **beat(resistance, compliance, theta)}


def beat(resistance: Tensor, compliance: Tensor, theta: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Systolic, diastolic and mean aortic pressure (B,) of the periodic beat, mm[Hg]: exact but for the peak's place.

    The heart ejects half a sine. Of the pressure above the venous one, p(t) is the sum of what was there at the beat's start,
    which decays with R C, and of what the sine adds.
    """
    period = 60 / theta["heart_rate"]
    ejected = theta["ejection"] * period
    frequency = math.pi / ejected
    peak_flow = theta["cardiac_output"] * period * math.pi / (2 * ejected)
    decay = 1 / (resistance * compliance)
    gain = peak_flow / compliance / (decay**2 + frequency**2)
    end_of_ejection = gain * frequency * (1 + torch.exp(-ejected * decay))
    in_diastole = torch.exp(-(period - ejected) * decay)
    # p(0) = p(period) gives where the beat starts.
    lowest = end_of_ejection * in_diastole / (1 - in_diastole * torch.exp(-ejected * decay))
    part = torch.linspace(
        0.0, 1.0, 33, dtype=lowest.dtype
    )  # (33,) of the ejection, against (B, 1) of everything else
    sine, cosine = torch.sin(math.pi * part), torch.cos(math.pi * part)
    fading = torch.exp(-(ejected * decay)[:, None] * part)
    pressure = (
        (lowest + gain * frequency)[:, None] * fading
        - (gain * frequency)[:, None] * cosine
        + (gain * decay + theta["impedance"] * peak_flow)[:, None] * sine
    )
    highest = pressure.amax(dim=1)
    venous = theta["venous_pressure"]
    mean = venous + (resistance + theta["impedance"]) * theta["cardiac_output"]
    return {
        "systolic_pressure": venous + highest,
        "diastolic_pressure": venous + lowest,
        "mean_pressure": mean,
    }


def resistance_for(systolic: Tensor, compliance: Tensor, theta: Mapping[str, Tensor]) -> Tensor:
    """The resistance (B,) at which the beat has a systolic pressure, within the parameter's bounds.

    The mean pressure, and so nearly the systolic, rises by the cardiac output for each unit: a few steps of that slope suffice.
    """
    resistance = torch.full_like(systolic, RESISTANCE.value)
    for _ in range(8):
        short = systolic - beat(resistance, compliance, theta)["systolic_pressure"]
        resistance = (resistance + short / theta["cardiac_output"]).clamp(RESISTANCE.low, RESISTANCE.high)
    return resistance


# The portal gradient is flow times the liver's resistance. Of five numbers none was verified; the normal range (1 to 5 mm Hg)
# and the threshold of clinical significance (10 mm Hg) lie on the right sides of F2 and F4, and that is all.
PORTAL_FLOW = _chosen("portal_flow", "Portal venous flow", 1.0, "L/min", 0.3, 3.0)
PORTAL_RESISTANCE = tuple(
    _chosen(f"portal_resistance_{stage}", f"Portal resistance in {stage}", value, "mm[Hg].min/L", 0.5, 50.0)
    for stage, value in (("F0", 3.0), ("F1", 4.0), ("F2", 5.0), ("F3", 7.0), ("F4", 13.0))
)
# Carvedilol lowered the hepatic venous pressure gradient by 16 % (PREDESCI, Lancet 2019;393:1597, as summarised by others).
BETA_BLOCKER_SHARE = 0.16


def portal_gradients() -> tuple[float, ...]:
    """Portal pressure gradient by stage F0 to F4, mm[Hg]."""
    return tuple(PORTAL_FLOW.value * resistance.value for resistance in PORTAL_RESISTANCE)
