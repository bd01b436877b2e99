"""The rhythm of the heart and what it leaves behind: a chain between sinus rhythm and fibrillation, and clots that come and go.

The chain gives a person's burden B, the share of time in fibrillation. The propensity to form clots, T between 0 and 1,
follows dT/dt = (S(B) - T) / τ with S(B) = B² / (B² + B₅₀²), and multiplies the hazard of stroke by
(1 + a T) / (1 + a T_ref).

**The equation of T is our closure, not a published model.** a is set so that the highest third of burdens has the hazard
ratio that KP-RHYTHM measured; ASSERT, which was not used for it, is the check (`claims.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gemel.core.programme import DAYS_PER_YEAR
from gemel.twins.parameters import Mark, Parameter, Scale, StateVariable

_KP_RHYTHM = "Go AS et al., JAMA Cardiol 2018;3:601 (KP-RHYTHM; PMC6145663)"

# Median burden on 14 days of monitoring, and the cut of its highest third, in paroxysmal fibrillation; hazard ratio of that
# third for thromboembolism without anticoagulation, adjusted for the ATRIA score.
MEDIAN_BURDEN, HIGHEST_THIRD, RATIO_OF_HIGHEST_THIRD = 0.044, 0.114, 3.13
_Z_OF_TWO_THIRDS = 0.4307

BURDEN = Parameter(
    name="burden",
    title="Share of time in atrial fibrillation",
    value=MEDIAN_BURDEN,
    unit="1",
    low=1e-4,
    high=0.9999,
    spread=float(
        (np.log(HIGHEST_THIRD / (1 - HIGHEST_THIRD)) - np.log(MEDIAN_BURDEN / (1 - MEDIAN_BURDEN)))
        / _Z_OF_TWO_THIRDS
    ),
    scale=Scale.LOGIT,
    source=f"{_KP_RHYTHM}: median 4.4 %, highest third from 11.4 % on; the spread follows from the two",
    mark=Mark.VERIFIED,
)
EPISODE = Parameter(
    name="episode_days",
    title="Mean length of an episode of atrial fibrillation",
    value=1.0,
    unit="d",
    low=0.02,
    high=400.0,
    spread=1.0,
    source="chosen: between minutes and the seven days that end what is called paroxysmal",
    mark=Mark.UNVERIFIED,
)
HALF_BURDEN = Parameter(
    name="half_burden",
    title="Burden at which clots form half as readily as they can",
    value=HIGHEST_THIRD,
    unit="1",
    low=0.01,
    high=0.5,
    source=f"our closure: the cut of {_KP_RHYTHM}",
    mark=Mark.COMPUTED,
)
CLOT_DAYS = Parameter(
    name="clot_days",
    title="Time in which the propensity to form clots follows the burden",
    value=20.0,
    unit="d",
    low=5.0,
    high=60.0,
    source="chosen: of the order of the three to four weeks of anticoagulation around a cardioversion",
    mark=Mark.UNVERIFIED,
)


def propensity(burden: Tensor, half_burden: Tensor) -> Tensor:
    """S(B): where T settles, between 0 and 1; the shape of `burden`."""
    return burden.square() / (burden.square() + half_burden.square())


class RhythmChain:
    """Sinus rhythm and atrial fibrillation, with rates that give the person's burden and episodes; in equilibrium at the start."""

    states: tuple[StateVariable, ...] = (
        StateVariable("sinus_rhythm", "Sinus rhythm", "1", 0.0, 1.0),
        StateVariable("atrial_fibrillation", "Atrial fibrillation", "1", 0.0, 1.0),
    )
    parameters: tuple[Parameter, ...] = (BURDEN, EPISODE)
    inputs: tuple[str, ...] = ("rhythm_control",)

    def start(self, theta: Mapping[str, Tensor]) -> Tensor:
        """(B, 2): the person's burden."""
        return torch.stack([1 - theta["burden"], theta["burden"]], dim=1)

    def rates(self, inputs: Mapping[str, Tensor], theta: Mapping[str, Tensor]) -> Tensor:
        """(B, 2, 2) per year. Episodes keep their length; rhythm control makes them rarer."""
        off = DAYS_PER_YEAR / theta["episode_days"]
        left = theta["burden"] * (1 - inputs["rhythm_control"])
        on = off * left / (1 - left)
        return torch.stack([torch.stack([-on, on], dim=1), torch.stack([off, -off], dim=1)], dim=1)


class ClotPropensity:
    """dT/dt = (S(B) - T) / τ; see the module."""

    states: tuple[StateVariable, ...] = (
        StateVariable("clot_propensity", "Propensity to form clots", "1", 0.0, 1.0),
    )
    parameters: tuple[Parameter, ...] = (BURDEN, HALF_BURDEN, CLOT_DAYS)
    inputs: tuple[str, ...] = ("rhythm_control",)
    step_days: float = 10.0

    def start(self, theta: Mapping[str, Tensor]) -> Tensor:
        """(B, 1): settled at the person's burden."""
        return propensity(theta["burden"], theta["half_burden"])[:, None]

    def derivative(
        self, state: Tensor, inputs: Mapping[str, Tensor], theta: Mapping[str, Tensor], day: float
    ) -> Tensor:
        """(B, 1) per day."""
        burden = theta["burden"] * (1 - inputs["rhythm_control"])
        return (propensity(burden, theta["half_burden"])[:, None] - state) / theta["clot_days"][:, None]

    def observe(self, state: Tensor, theta: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The propensity itself; nothing measures it."""
        return {"clot_propensity": state[:, 0]}


def burdens(quantiles: int = 2001) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Burdens of paroxysmal atrial fibrillation and how likely each is (they sum to 1), both (quantiles,)."""
    z = np.linspace(-5, 5, quantiles)
    weight = np.exp(-(z**2) / 2)
    logit = np.log(BURDEN.value / (1 - BURDEN.value)) + BURDEN.spread * z
    return 1 / (1 + np.exp(-logit)), weight / weight.sum()


def mean_propensity(*, low: float = 0.0, high: float = 1.0) -> float:
    """The mean of S(B) over people whose burden lies from `low` to `high`."""
    burden, weight = burdens()
    mine = (burden >= low) & (burden < high)
    s = burden**2 / (burden**2 + HALF_BURDEN.value**2)
    return float((s * weight)[mine].sum() / weight[mine].sum())


def _strength() -> float:
    """a, from RATIO = (1 + a · mean of the highest third) / (1 + a · mean of the others)."""
    above, below = mean_propensity(low=HIGHEST_THIRD), mean_propensity(high=HIGHEST_THIRD)
    return (RATIO_OF_HIGHEST_THIRD - 1) / (above - RATIO_OF_HIGHEST_THIRD * below)


STRENGTH = _strength()
REFERENCE = mean_propensity()


def stroke_ratio(clot_propensity: Tensor) -> Tensor:
    """The hazard of stroke at a propensity T over that of people whose burden is not known; any shape."""
    return (1 + STRENGTH * clot_propensity) / (1 + STRENGTH * REFERENCE)
