"""Private-PGM on the programme's fixed graph: from noisy tables to conditional tables that can be sampled.

The estimator of McKenna, Sheldon, Miklau, "Graphical-model based estimation and inference for differential
privacy" (2019), with exact inference written for our graph: given age, the features form a forest. It takes a
second of numpy, where mbi 2.0 spends twenty on compiling; mbi is the oracle in the tests. (Never mbi 1.1: its
default sampler makes sibling columns move together.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pair = tuple[str, str]

_MOST_ITERATIONS = 1_000
_CHECKED_EVERY = 100
# Relative; the loss is a sum of squared shares, and noise alone leaves far more than this.
_LEAST_GAIN = 1e-3


@dataclass(frozen=True)
class Graph:
    """The structure: age (the anchor), the other features with parents before children, and who is whose parent."""

    anchor: str
    order: tuple[str, ...]
    parent: Mapping[str, str]
    sizes: Mapping[str, int]

    @property
    def cliques(self) -> tuple[Pair, ...]:
        """(anchor, feature) for every feature, then (parent, feature) along the trees."""
        star = [(self.anchor, name) for name in self.order]
        return (*star, *((self.parent[name], name) for name in self.order if name in self.parent))


@dataclass(frozen=True)
class Inference:
    """What a set of potentials means, exactly.

    `anchor` (A,) is P(anchor). `conditionals` are P(feature | anchor), (A, L), or P(feature | anchor, parent),
    (A, L of the parent, L). `marginals` are the joint probabilities of the cliques.
    """

    anchor: Floats
    conditionals: dict[str, Floats]
    marginals: dict[Pair, Floats]


def total_of(tables: Mapping[Pair, NDArray[np.integer]]) -> float:
    """The number of patients that noisy tables speak of: the minimum-variance unbiased mean of their sums.

    All cells carry the same noise, so a table's sum has a variance in proportion to its number of cells.
    """
    weights = np.array([1.0 / table.size for table in tables.values()])
    sums = np.array([float(table.sum()) for table in tables.values()])
    return max(1.0, float((weights * sums).sum() / weights.sum()))


def estimate(graph: Graph, tables: Mapping[Pair, NDArray[np.integer]]) -> tuple[Inference, float]:
    """The maximum-entropy model nearest to the noisy tables (equal noise on every cell), and its total.

    Mirror descent with a backtracking step on the sum of squared differences of shares, from the uniform
    distribution. It minimises the loss over all joint distributions with these cliques, so tables that noise
    made inconsistent or negative are reconciled.
    """
    total = total_of(tables)
    target = {clique: tables[clique].astype(np.float64) / total for clique in graph.cliques}
    potentials = {clique: np.zeros(table.shape) for clique, table in target.items()}
    now = infer(graph, potentials)
    loss, gradient = _loss(now, target)
    step, checked = 1.0, loss
    for iteration in range(1, _MOST_ITERATIONS + 1):
        tried = {c: potentials[c] - step * gradient[c] for c in potentials}
        then = infer(graph, tried)
        next_loss, next_gradient = _loss(then, target)
        decrease = sum(float((gradient[c] * (now.marginals[c] - then.marginals[c])).sum()) for c in gradient)
        if loss - next_loss >= 0.5 * decrease > 0:
            potentials, now, loss, gradient, step = tried, then, next_loss, next_gradient, step * 1.1
        else:
            step *= 0.5
        if iteration % _CHECKED_EVERY == 0:
            if checked - loss <= _LEAST_GAIN * loss:
                break
            checked = loss
    return now, total


def infer(graph: Graph, potentials: Mapping[Pair, Floats]) -> Inference:
    """Exact marginals and conditionals of exp(sum of potentials): up the trees, then down, for each age."""
    age = graph.anchor
    # Up: what each feature, with all below it, says to its parent (A, L of the parent) or, a root, to age (A,).
    score: dict[str, Floats] = {name: potentials[age, name] for name in graph.order}
    conditionals: dict[str, Floats] = {}
    log_anchor = np.zeros(graph.sizes[age])
    for name in reversed(graph.order):
        if name in graph.parent:
            joint = score[name][:, None, :] + potentials[graph.parent[name], name][None, :, :]
            message = _log_sum(joint)
            score[graph.parent[name]] = score[graph.parent[name]] + message
        else:
            joint = score[name]
            message = _log_sum(joint)
            log_anchor = log_anchor + message
        conditionals[name] = np.exp(joint - message[..., None])
    anchor = np.exp(log_anchor - _log_sum(log_anchor[None, :])[0])
    # Down: the joint with age, and with the parent.
    with_age: dict[str, Floats] = {}
    marginals: dict[Pair, Floats] = {}
    for name in graph.order:
        if name in graph.parent:
            triple = with_age[graph.parent[name]][:, :, None] * conditionals[name]
            with_age[name] = triple.sum(axis=1)
            marginals[graph.parent[name], name] = triple.sum(axis=0)
        else:
            with_age[name] = anchor[:, None] * conditionals[name]
        marginals[age, name] = with_age[name]
    return Inference(anchor, conditionals, marginals)


def _loss(model: Inference, target: Mapping[Pair, Floats]) -> tuple[float, dict[Pair, Floats]]:
    """Half the squared differences of shares, and its gradient in the marginals."""
    residual = {clique: model.marginals[clique] - wanted for clique, wanted in target.items()}
    return 0.5 * sum(float((r**2).sum()) for r in residual.values()), residual


def _log_sum(scores: Floats) -> Floats:
    """Log of the sum of exponentials over the last axis, without overflow."""
    largest = scores.max(axis=-1, keepdims=True)
    result: Floats = np.log(np.exp(scores - largest).sum(axis=-1)) + largest[..., 0]
    return result
