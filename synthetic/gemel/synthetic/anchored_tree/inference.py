"""Private-PGM on an anchored tree: the distribution of greatest entropy that explains noisy tables.

The estimator of McKenna, Sheldon & Miklau, "Graphical-model based estimation and inference for differential privacy"
(ICML 2019), with exact inference for one kind of graph: given the state of the anchors, the other columns (members)
form a forest. Its largest clique is (state, parent, member). mbi 2.0 is the oracle in the tests. (Never mbi 1.1: its
default sampler makes sibling columns move together.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# What a level pair that cannot be gets: beyond what any table of few noisy patients can outweigh, and finite.
IMPOSSIBLE = -400.0
_TINY = 1e-300


@dataclass(frozen=True)
class Forest:
    """Members given the anchors' joint state.

    Attributes:
        states: How many states the anchors have together.
        members: Sizes by name, parents before children.
        parent: The members that have one, and whom.
        allowed: For members that some states rule levels out of: 0 or `IMPOSSIBLE`, (states, levels).
        possible: 0 or `IMPOSSIBLE` for each state (states,).
    """

    states: int
    members: Mapping[str, int]
    parent: Mapping[str, str]
    allowed: Mapping[str, Floats]
    possible: Floats

    @property
    def roots_last(self) -> tuple[str, ...]:
        """Members with children before parents."""
        return tuple(self.members)[::-1]


class Beliefs(NamedTuple):
    """Exact marginals of a set of potentials.

    `log_total` is the log of their sum. `state` (S,); `with_state[x]` (S, X); `with_parent[x]` (P, X) over all states.
    `upward[x]` (S, X) is what x and all below it weigh, to its largest 1: P(x | state, parent) is in proportion to it
    times the exponential of the potential with the parent, P(x | state) of a root to it alone.
    """

    log_total: float
    state: Floats
    with_state: dict[str, Floats]
    with_parent: dict[str, Floats]
    upward: dict[str, Floats]


def infer(
    forest: Forest, state: Floats, with_state: Mapping[str, Floats], with_parent: Mapping[str, Floats]
) -> Beliefs:
    """Marginals of exp(sum of potentials): up the forest and down again, all states at a time.

    Potentials tie a member to the state and to its parent apart, so that the clique (S, P, X) is only ever a matrix
    product, and many states cost little.

    Args:
        forest: The graph.
        state: (S,).
        with_state: (S, X) of every member.
        with_parent: (P, X) of every member with a parent.
    """
    belief = {
        x: with_state[x] + forest.allowed[x] if x in forest.allowed else with_state[x] for x in forest.members
    }
    log_state = state + forest.possible
    upward: dict[str, Floats] = {}
    pair: dict[str, Floats] = {}
    weight: dict[str, Floats] = {}
    for x in forest.roots_last:
        peak = belief[x].max(axis=1, keepdims=True)
        upward[x] = np.exp(belief[x] - peak)
        if x in forest.parent:
            highest = with_parent[x].max()
            pair[x] = np.exp(with_parent[x] - highest)
            weight[x] = np.maximum(upward[x] @ pair[x].T, _TINY)
            message = np.log(weight[x]) + (peak + highest)
            belief[forest.parent[x]] = belief[forest.parent[x]] + message
        else:
            weight[x] = upward[x].sum(axis=1, keepdims=True)
            log_state = log_state + (np.log(weight[x]) + peak)[:, 0]
    top = log_state.max()
    shares = np.exp(log_state - top)
    total = float(shares.sum())
    joint: dict[str, Floats] = {}
    pairs: dict[str, Floats] = {}
    for x in forest.members:
        if x in forest.parent:
            above = joint[forest.parent[x]] / weight[x]
            joint[x] = upward[x] * (above @ pair[x])
            pairs[x] = pair[x] * (above.T @ upward[x])
        else:
            joint[x] = upward[x] * (shares[:, None] / total / weight[x])
    return Beliefs(float(np.log(total) + top), shares / total, joint, pairs, upward)


def minimise(
    value_and_gradient: Callable[[Floats], tuple[float, Floats]],
    start: Floats,
    *,
    most_steps: int,
    tolerance: float,
    memory: int = 20,
) -> tuple[Floats, int]:
    """L-BFGS (Nocedal & Wright 2006, algorithm 7.5) of a smooth convex function, with a backtracking step.

    Stops when the gradient's norm is below `tolerance`, or after `most_steps`. Returns the point and the steps taken.
    """
    point, (value, gradient) = start, value_and_gradient(start)
    history: list[tuple[Floats, Floats, float]] = []
    for step in range(most_steps):
        if np.linalg.norm(gradient) <= tolerance:
            return point, step
        direction = -_inverse_hessian(history, gradient)
        slope = float(direction @ gradient)
        if slope >= 0:
            history, direction, slope = [], -gradient, -float(gradient @ gradient)
        length = 1.0 if history else min(1.0, 1.0 / float(np.linalg.norm(gradient)))
        for _ in range(30):
            trial = point + length * direction
            next_value, next_gradient = value_and_gradient(trial)
            if next_value <= value + 1e-4 * length * slope:
                break
            length *= 0.5
        else:
            return point, step
        moved, turned = trial - point, next_gradient - gradient
        curvature = float(moved @ turned)
        if curvature > 1e-12 * float(turned @ turned):
            history = [*history[-(memory - 1) :], (moved, turned, 1.0 / curvature)]
        point, value, gradient = trial, next_value, next_gradient
    return point, most_steps


def _inverse_hessian(history: list[tuple[Floats, Floats, float]], gradient: Floats) -> Floats:
    """The two-loop recursion: what the history knows of the inverse Hessian, applied to a gradient."""
    found = gradient.copy()
    weights = []
    for moved, turned, inverse in reversed(history):
        weight = inverse * float(moved @ found)
        weights.append(weight)
        found -= weight * turned
    if history:
        moved, turned, inverse = history[-1]
        found *= 1.0 / (inverse * float(turned @ turned))
    for (moved, turned, inverse), weight in zip(history, reversed(weights), strict=True):
        found += (weight - inverse * float(turned @ found)) * moved
    return found
