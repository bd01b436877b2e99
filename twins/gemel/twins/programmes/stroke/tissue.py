"""The first day in the brain: dead core and penumbra that can be saved, and what reperfusion does.

    dC/dt = k(t) · P · (1 - r(t)),   dP/dt = -dC/dt,   k(t) = k0 · exp(-g · collateral) · w(t)

C core, P penumbra (mL), H = C + P what is hypoperfused; r is 0 before recanalisation and near 1 after it. How k changes with time is
disputed, so there are three shapes, alike at four hours, when growth rates are published, and averaged: `w` constant (near-linear,
then saturating), falling (logarithmic growth: González et al., Sci Rep 2020;10:6765, abstract read: serial MRI of 38 untreated
occlusions), and rising (exponential growth, by the research note).

Checked against published quantiles of populations only (`claims`): no open data have serial images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum

import torch
from torch import Tensor

from gemel.twins.parameters import Mark, Parameter, Scale, StateVariable

HOURS = 24.0
# Where growth is measured by: the shapes agree there.
_ANCHOR_HOURS = 4.0
# Time constants of the falling and the rising shape; the pace cannot quicken for ever. Chosen.
_SLOWING_HOURS, _QUICKENING_HOURS, _QUICKENS_FOR = 4.0, 8.0, 12.0

GROWTH_SOURCE = (
    "value and spread chosen so that the core grows by 2.6 (0 to 14.6) mL/h before 8 h: Rocha et al., abstract TP12 "
    "(read; taken as median and quartiles), in large-vessel occlusion"
)


class Shape(StrEnum):
    """How the growth rate changes with time."""

    SATURATING = "saturating"
    LOGARITHMIC = "logarithmic"
    EXPONENTIAL = "exponential"


PARAMETERS = (
    Parameter(
        name="hypoperfused_ml",
        title="Hypoperfused volume, core and penumbra",
        value=150.0,
        unit="mL",
        source="the range of hypoperfused volumes in large-vessel occlusion; chosen by the programme's authors",
        mark=Mark.UNVERIFIED,
        low=5.0,
        high=450.0,
        spread=0.5,
    ),
    Parameter(
        name="growth_per_h",
        title="Share of the penumbra that dies in an hour, at first",
        value=0.019,
        unit="/h",
        source=GROWTH_SOURCE,
        mark=Mark.COMPUTED,
        low=1e-5,
        high=1.0,
        spread=3.05,
    ),
    Parameter(
        name="collateral",
        title="Collateral flow: 0 none, 1 good",
        value=0.0,
        unit="1",
        source="0: the published growth rates are over all grades; chosen",
        mark=Mark.UNVERIFIED,
        low=0.0,
        high=1.0,
        scale=Scale.NATURAL,
    ),
    Parameter(
        name="collateral_effect",
        title="Log of how much slower the core grows with good collaterals",
        value=1.2,
        unit="1",
        source="4.6 against 14.1 mL/h between good and poor outcome, which collaterals set apart: log of the ratio; chosen",
        mark=Mark.UNVERIFIED,
        low=0.0,
        high=3.0,
        scale=Scale.NATURAL,
    ),
    Parameter(
        name="onset_hours",
        title="Time from onset to the index date",
        value=4.0,
        unit="h",
        source="an early arrival; chosen",
        mark=Mark.UNVERIFIED,
        low=0.1,
        high=24.0,
        scale=Scale.NATURAL,
    ),
    Parameter(
        name="reperfused",
        title="How far recanalisation stops the growth",
        value=0.9,
        unit="1",
        source="successful reperfusion (mTICI 2b or better); chosen",
        mark=Mark.UNVERIFIED,
        low=0.0,
        high=1.0,
        scale=Scale.NATURAL,
    ),
)
# How much of reperfusion each treatment brings: thrombectomy succeeds in most, lysis of a large vessel in some. Chosen.
RECANALISED: Mapping[str, float] = {"thrombectomy": 1.0, "thrombolysis": 0.3}


class Tissue:
    """Core and penumbra under treatment: an `OdePhysiology`; its day 0 is the index date, `onset_hours` after onset."""

    states: tuple[StateVariable, ...] = (
        StateVariable("core_ml", "Infarct core", "mL", 0.0, 450.0),
        StateVariable("penumbra_ml", "Penumbra", "mL", 0.0, 450.0),
    )
    parameters: tuple[Parameter, ...] = PARAMETERS
    inputs: tuple[str, ...] = ("thrombolysis", "thrombectomy")
    step_days = 0.25 / HOURS
    horizon_days = 3.0  # what grows does so within hours; later there is nothing to follow

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def start(self, theta: Mapping[str, Tensor]) -> Tensor:
        """See `gemel.twins.physiology.OdePhysiology`: the core that grew since the onset, untreated."""
        core = core_volume(self.shape, theta, theta["onset_hours"])
        return torch.stack([core, theta["hypoperfused_ml"] - core], dim=1)

    def derivative(
        self, state: Tensor, inputs: Mapping[str, Tensor], theta: Mapping[str, Tensor], day: float
    ) -> Tensor:
        """See `gemel.twins.physiology.OdePhysiology`."""
        rate = _rate_per_hour(theta) * _pace(self.shape, theta["onset_hours"] + day * HOURS)
        saved = _flow(theta, inputs)
        grown = HOURS * rate * (1 - saved) * state[:, 1]
        return torch.stack([grown, -grown], dim=1)

    def observe(self, state: Tensor, theta: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """See `gemel.twins.physiology.OdePhysiology`."""
        return {"core_ml": state[:, 0], "penumbra_ml": state[:, 1]}


def core_volume(
    shape: Shape, theta: Mapping[str, Tensor], hours: Tensor, flow: Tensor | float = 0.0
) -> Tensor:
    """The core (mL) `hours` after onset, the equation's solution; from the index date on growth is held up by `flow`."""
    before = torch.minimum(hours, theta["onset_hours"])
    untreated = _elapsed(shape, before)
    treated = _elapsed(shape, hours) - untreated
    grown = _rate_per_hour(theta) * (untreated + (1 - flow) * treated)
    return theta["hypoperfused_ml"] * (1 - torch.exp(-grown))


def flow_under(theta: Mapping[str, Tensor], treated: Mapping[str, Tensor]) -> Tensor:
    """How far growth is held up (B,), by treatments given at the index date (amounts 0 or 1)."""
    return _flow(theta, treated)


def _flow(theta: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
    closed = torch.ones_like(theta["reperfused"])
    for name, share in RECANALISED.items():
        closed = closed * (1 - share * inputs.get(name, torch.zeros(1)))
    return theta["reperfused"] * (1 - closed)


def _rate_per_hour(theta: Mapping[str, Tensor]) -> Tensor:
    slowed = torch.exp(-theta["collateral_effect"] * theta["collateral"])
    return theta["growth_per_h"] * slowed


def _pace(shape: Shape, hours: Tensor) -> Tensor:
    """w, at a time since onset: its integral to the anchor is the anchor for every shape."""
    if shape is Shape.LOGARITHMIC:
        whole = _SLOWING_HOURS * math.log1p(_ANCHOR_HOURS / _SLOWING_HOURS)
        return _ANCHOR_HOURS / whole / (1 + hours / _SLOWING_HOURS)
    if shape is Shape.EXPONENTIAL:
        whole = _QUICKENING_HOURS * math.expm1(_ANCHOR_HOURS / _QUICKENING_HOURS)
        return _ANCHOR_HOURS / whole * torch.exp(hours.clamp(max=_QUICKENS_FOR) / _QUICKENING_HOURS)
    return torch.ones_like(hours)


def _elapsed(shape: Shape, hours: Tensor) -> Tensor:
    """The integral of w since onset, in hours."""
    if shape is Shape.LOGARITHMIC:
        whole = math.log1p(_ANCHOR_HOURS / _SLOWING_HOURS)
        return _ANCHOR_HOURS * torch.log1p(hours / _SLOWING_HOURS) / whole
    if shape is Shape.EXPONENTIAL:
        whole = math.expm1(_ANCHOR_HOURS / _QUICKENING_HOURS)
        within = torch.expm1(hours.clamp(max=_QUICKENS_FOR) / _QUICKENING_HOURS)
        pace = math.exp(_QUICKENS_FOR / _QUICKENING_HOURS)
        later = (hours - _QUICKENS_FOR).clamp(min=0) / _QUICKENING_HOURS * pace
        return _ANCHOR_HOURS * (within + later) / whole
    return hours
