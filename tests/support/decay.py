"""The smallest ODE that assimilators are tried on: one quantity that decays, with a start and a rate of one's own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gemel.core.series import Series
from gemel.twins.parameters import Mark, Parameter, Scale, StateVariable


def parameter(name, value, spread, scale=Scale.NATURAL, low=-1e6, high=1e6):
    """A parameter without a title, of a made-up source."""
    return Parameter(
        name, name, value, "1", "chosen for a test", Mark.UNVERIFIED, low, high, spread=spread, scale=scale
    )


@dataclass(frozen=True)
class Decay:
    """dx/dt = -rate x, from a start; seen as `x`. Linear where people do not differ in the rate."""

    start_spread: float = 2.0
    rate_spread: float = 0.0
    step_days: float = 0.5
    inputs: tuple[str, ...] = ()

    @property
    def states(self):
        return (StateVariable("x", "x", "1", -1e6, 1e6),)

    @property
    def parameters(self):
        return (
            parameter("start", 10.0, self.start_spread),
            parameter("rate", 0.1, self.rate_spread, Scale.LOG, 1e-4, 10.0),
        )

    def start(self, theta):
        return theta["start"][:, None]

    def derivative(self, state, inputs, theta, day):
        return -theta["rate"][:, None] * state

    def observe(self, state, theta):
        return {"x": state[:, 0]}


def series(*runs):
    """Series of patients from runs of (day, value) pairs."""
    pairs = [pair for run in runs for pair in run]
    offsets = np.cumsum([0, *(len(run) for run in runs)])
    days, values = (np.array([pair[i] for pair in pairs], np.float32) for i in (0, 1))
    return Series(offsets.astype(np.int64), days, values)


def doubles(**values):
    """Parameters by name, float64."""
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
