"""Intracerebral haemorrhage: the haematoma grows in the first hours, and then stops.

dV/dt = k (V_end - V), V_end = V_0 (1 + e): expansion e differs between people, most of it within an hour or two. What the volume
means for life is left to the ICH score (`published_scores.ich`): no open data of haemorrhages were found.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gemel.twins.parameters import Mark, Parameter, Scale, StateVariable

_HOURS = 24.0
GROWTH_SOURCE = (
    "chosen so that 26 % grow substantially within an hour of the first scan and 12 % more within 20 h: Brott et al., Stroke "
    "1997;28:1 (abstract read); substantial is more than 33 %"
)
PARAMETERS = (
    Parameter(
        name="volume_0_ml",
        title="Volume on the first scan",
        value=15.0,
        unit="mL",
        source="a moderate haemorrhage; chosen by the programme's authors",
        mark=Mark.UNVERIFIED,
        low=0.1,
        high=150.0,
        spread=1.0,
    ),
    Parameter(
        name="expansion",
        title="How much it still grows, as a share of the first volume",
        value=0.21,
        unit="1",
        source=GROWTH_SOURCE,
        mark=Mark.COMPUTED,
        low=1e-4,
        high=20.0,
        spread=1.5,
    ),
    Parameter(
        name="growth_per_h",
        title="How quickly it grows to its end",
        value=0.92,
        unit="/h",
        source=GROWTH_SOURCE,
        mark=Mark.COMPUTED,
        low=0.2,
        high=3.0,
        scale=Scale.LOG,
    ),
)


class Haematoma:
    """The volume of a haematoma: an `OdePhysiology` of one state. No treatment of this programme moves it."""

    states: tuple[StateVariable, ...] = (
        StateVariable("volume_ml", "Volume of the haematoma", "mL", 0.0, 3150.0),
    )
    parameters: tuple[Parameter, ...] = PARAMETERS
    inputs: tuple[str, ...] = ()
    step_days = 0.1 / _HOURS
    horizon_days = 2.0  # it has stopped growing by then

    def start(self, theta: Mapping[str, Tensor]) -> Tensor:
        """See `gemel.twins.physiology.OdePhysiology`."""
        return theta["volume_0_ml"][:, None]

    def derivative(
        self, state: Tensor, inputs: Mapping[str, Tensor], theta: Mapping[str, Tensor], day: float
    ) -> Tensor:
        """See `gemel.twins.physiology.OdePhysiology`."""
        end = theta["volume_0_ml"] * (1 + theta["expansion"])
        return _HOURS * theta["growth_per_h"][:, None] * (end[:, None] - state)

    def observe(self, state: Tensor, theta: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """See `gemel.twins.physiology.OdePhysiology`."""
        return {"haematoma_ml": state[:, 0]}


def grown_share(theta: Mapping[str, Tensor], hours: float) -> Tensor:
    """By what share of its first volume it has grown after so many hours: the equation's solution."""
    return theta["expansion"] * (1 - torch.exp(-theta["growth_per_h"] * hours))
