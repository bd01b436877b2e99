"""From the deficit on the first day to what is left of it: impairment in points of the NIH Stroke Scale.

dI/dt = -(I - I_end) / τ, so that I(t) = I_0 (1 - ρ (1 - exp(-t / τ))): who recovers, recovers a share ρ of the initial impairment.
ρ is the proportional-recovery rule for those who fit it (0.7) times the chance to fit, which falls with severity.
That rule's fit to individuals is inflated by mathematical coupling (Hope et al., Brain 2019;142:15): it is a prior
of the population here, and no evidence about a person.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from gemel.twins.parameters import Mark, Parameter, Scale, StateVariable

MOST_POINTS = 42.0

_PROPORTIONAL = "proportional recovery of about 0.7 of the initial impairment in those who fit"
PARAMETERS = (
    Parameter(
        name="impairment_0",
        title="Impairment on the first day",
        value=9.0,
        unit="{score}",
        source="a moderate stroke; chosen by the programme's authors",
        mark=Mark.UNVERIFIED,
        low=0.2,
        high=41.8,
        spread=1.0,
        scale=Scale.LOGIT,
    ),
    Parameter(
        name="recovered_share",
        title="Share of the impairment that who recovers loses in the end",
        value=0.7,
        unit="1",
        source=f"{_PROPORTIONAL}: Kundert et al., Neurorehabil Neural Repair 2019;33:876, by the research note",
        mark=Mark.SECOND_HAND,
        low=0.3,
        high=0.95,
        scale=Scale.LOGIT,
    ),
    Parameter(
        name="non_fitting_share",
        title="Share of severe strokes that do not recover so",
        value=0.3,
        unit="1",
        source="about 30 % of severe pareses: Kundert et al. 2019, by the research note",
        mark=Mark.SECOND_HAND,
        low=0.0,
        high=0.9,
        scale=Scale.NATURAL,
    ),
    Parameter(
        name="recovery_days",
        title="Time constant of recovery",
        value=50.0,
        unit="d",
        source="5 to 10 weeks, from memory; chosen within it",
        mark=Mark.UNVERIFIED,
        low=10.0,
        high=150.0,
        spread=0.3,
    ),
)
# Where a stroke counts as severe, and how sharply: chosen.
_SEVERE_POINTS, _SEVERE_WIDTH = 15.0, 4.0


class Recovery:
    """The recovery of function: an `OdePhysiology` of one state. No treatment moves it: see `twin`."""

    states: tuple[StateVariable, ...] = (
        StateVariable("impairment", "Impairment (NIH Stroke Scale)", "{score}", 0.0, MOST_POINTS),
    )
    parameters: tuple[Parameter, ...] = PARAMETERS
    inputs: tuple[str, ...] = ()
    step_days = 10.0

    def start(self, theta: Mapping[str, Tensor]) -> Tensor:
        """See `gemel.twins.physiology.OdePhysiology`."""
        return theta["impairment_0"][:, None]

    def derivative(
        self, state: Tensor, inputs: Mapping[str, Tensor], theta: Mapping[str, Tensor], day: float
    ) -> Tensor:
        """See `gemel.twins.physiology.OdePhysiology`."""
        end = theta["impairment_0"] * (1 - lost_share(theta))
        return (end[:, None] - state) / theta["recovery_days"][:, None]

    def observe(self, state: Tensor, theta: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """See `gemel.twins.physiology.OdePhysiology`."""
        return {"nihss": state[:, 0]}


def lost_share(theta: Mapping[str, Tensor]) -> Tensor:
    """ρ (B,): what part of the initial impairment is gone in the end."""
    severe = torch.sigmoid((theta["impairment_0"] - _SEVERE_POINTS) / _SEVERE_WIDTH)
    return theta["recovered_share"] * (1 - theta["non_fitting_share"] * severe)


def impairment(theta: Mapping[str, Tensor], days: Tensor) -> Tensor:
    """(B, T) on each of `days` (T,): the equation's solution."""
    gone = 1 - torch.exp(-days[None, :] / theta["recovery_days"][:, None])
    return theta["impairment_0"][:, None] * (1 - lost_share(theta)[:, None] * gone)


def place_on_logit_scale(points: Tensor) -> Tensor:
    """Where an impairment lies on the scale on which an encoder moves it."""
    share = (points / MOST_POINTS).clamp(1e-3, 1 - 1e-3)
    return torch.log(share / (1 - share))


def logit(points: float) -> float:
    """`place_on_logit_scale` of one number."""
    return math.log(points / (MOST_POINTS - points))


def typical(name: str) -> float:
    """The typical person's value of a parameter."""
    return next(parameter.value for parameter in PARAMETERS if parameter.name == name)


def spread(name: str) -> float:
    """How far people differ in a parameter, on its scale."""
    return next(parameter.spread for parameter in PARAMETERS if parameter.name == name)


def person_at(place: Tensor) -> dict[str, Tensor]:
    """The parameters of people (B,) whose first day's impairment lies at these places of its logit scale."""
    theta = {parameter.name: torch.full_like(place, parameter.value) for parameter in PARAMETERS}
    return {**theta, "impairment_0": MOST_POINTS * torch.sigmoid(place)}


def typical_person() -> dict[str, Tensor]:
    """The parameters of one typical person, (1,) each."""
    return {parameter.name: torch.tensor([parameter.value]) for parameter in PARAMETERS}
