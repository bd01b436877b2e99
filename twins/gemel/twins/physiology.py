"""The mechanism of a twin: what evolves, by which equations, moved by which treatments, seen through what.

Two kinds: an ordinary differential equation with a fixed step, and a continuous-time Markov chain by the matrix
exponential. Both work on whole batches of persons, in torch, and are differentiable; `gemel.twins.solvers` moves them.

Two attributes may be there beside: `covariates`, what theta has beside the parameters, by name its lowest and highest value;
and `horizon_days`, of a mechanism that acts for a shorter time than its programme's grid. The contract tests read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor

from gemel.twins.parameters import Parameter, StateVariable


@runtime_checkable
class OdePhysiology(Protocol):
    """dx/dt = f(x, u, θ, t), in days."""

    states: tuple[StateVariable, ...]
    parameters: tuple[Parameter, ...]
    inputs: tuple[str, ...]  # the treatments that move it, by name
    step_days: float  # the longest step whose error does not matter; what is faster must be quasi-steady

    def start(self, theta: Mapping[str, Tensor]) -> Tensor:
        """The state at the index date (B, states) of persons with these parameters, each (B,)."""

    def derivative(
        self, state: Tensor, inputs: Mapping[str, Tensor], theta: Mapping[str, Tensor], day: float
    ) -> Tensor:
        """Change per day (B, states) at a state, under treatments at these amounts (B,)."""

    def observe(self, state: Tensor, theta: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What can be measured in a state, by name: (B,) each, in the unit that the twin's `observables` give."""


@runtime_checkable
class ChainPhysiology(Protocol):
    """A person is in one of several states and moves between them at rates per year."""

    states: tuple[StateVariable, ...]
    parameters: tuple[Parameter, ...]
    inputs: tuple[str, ...]

    def start(self, theta: Mapping[str, Tensor]) -> Tensor:
        """The probability of each state at the index date (B, states)."""

    def rates(self, inputs: Mapping[str, Tensor], theta: Mapping[str, Tensor]) -> Tensor:
        """The generator (B, states, states) per year: rows sum to 0, what lies off the diagonal is not negative."""


Physiology = OdePhysiology | ChainPhysiology
