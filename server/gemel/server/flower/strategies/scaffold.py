"""SCAFFOLD: each hospital's steps are corrected for where its own patients would drift. Source: Karimireddy et al., ICML 2020.

The control variates are the coordinator's: it works them out from what hospitals release anyway, and sends each its
correction, so hospitals keep nothing and release nothing more. With x what a hospital started from, y_i what it released,
K its steps and η its learning rate, the sum of its corrected gradients is (x - y_i)/η, so (the paper's option II)

    c_i⁺ = (x - y_i)/(K·η) - (c - c_i),        c = Σ w_i c_i / Σ w_i,        correction_i = c - c_i.

With momentum β a gradient of step k counts (1 - β^(K-k+1))/(1 - β) times, so K is the sum of these (as in FedNova, Wang
et al., NeurIPS 2020).

Privacy: nothing is added to what a training task costs. Let M(D; x, g) be the noised sum of bounded gradients at the
public parameters x: one Gaussian mechanism, whatever x is. A step here is w ← w - η·(M(D; w)/N + g) with g a constant of
the request: a function of M's output and of public numbers. So a task stays what it was, K Gaussian mechanisms composed
adaptively, the parameters of each chosen from the outputs of those before, and g, being computed from earlier
releases alone, is one more such choice. c_i and c are functions of releases: post-processing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gemel.core.arrays import Arrays
from gemel.core.study import TrainingPlan
from gemel.server.flower.strategies.buffered import mean_target
from gemel.server.strategy import Strategy, Update
from gemel.synthetic.releases import CORRECTION


class Scaffold(Strategy):
    """Remembers for each site its variate c_i (`SITE/NAME` float32), and for all their weights ((sites,) float64).

    A site that has not been heard from has weight 0 and no correction: for it c_i is c.
    """

    def start(self, model: Arrays) -> Arrays:
        """Nobody was heard from."""
        variates = {
            f"{site}/{name}": np.zeros(model[name].shape, np.float32)
            for site in self._sites
            for name in sorted(model)
        }
        return {**variates, "weights": np.zeros(len(self._sites), np.float64)}

    def inputs(self, model: Arrays, state: Arrays, site: str) -> Arrays:
        """The model, and the site's correction c - c_i under `correction.NAME`."""
        corrections = self._corrections(model, state, site)
        return {**model, **{f"{CORRECTION}{name}": c.astype(np.float32) for name, c in corrections.items()}}

    def aggregate(self, model: Arrays, updates: Sequence[Update], state: Arrays) -> tuple[Arrays, Arrays]:
        """See `Strategy.aggregate`."""
        plan = self.study.training
        length = effective_steps(plan) * plan.learning_rate
        mean = mean_target(model, updates, exponent=self.study.pace.staleness_exponent)
        # Exactly the mean where the rate is 1, so that a run without drift gives the bits of FedAvg.
        rate = self.study.strategy.server_learning_rate
        moved = mean if rate == 1 else {name: _towards(model[name], mean[name], rate) for name in model}
        weights = state["weights"].astype(np.float64).copy()
        variates = dict(state)
        for update in updates:
            sent = self._corrections(model, state, update.site)
            weights[self._sites.index(update.site)] = update.weight
            for name in model:
                started = update.started_from[name].astype(np.float64)
                mean_gradient = (started - update.arrays[name].astype(np.float64)) / length
                variates[f"{update.site}/{name}"] = (mean_gradient - sent[name]).astype(np.float32)
        return moved, {**variates, "weights": weights}

    @property
    def _sites(self) -> list[str]:
        return sorted(self.study.sites)

    def _corrections(self, model: Arrays, state: Arrays, site: str) -> dict[str, NDArray[np.float64]]:
        weights, at = state["weights"].astype(np.float64), self._sites.index(site)
        if weights[at] == 0:
            return {name: np.zeros(model[name].shape) for name in sorted(model)}
        shares = weights / weights.sum()
        return {
            name: np.sum(
                [share * state[f"{other}/{name}"] for share, other in zip(shares, self._sites, strict=True)],
                axis=0,
            )
            - state[f"{site}/{name}"]
            for name in sorted(model)
        }


def effective_steps(plan: TrainingPlan) -> float:
    """By how many times the learning rate a constant gradient moves the parameters in one round.

    >>> from gemel.core.study import TrainingPlan
    >>> effective_steps(TrainingPlan(rounds=1, local_steps=2, learning_rate=0.1, momentum=0.5, max_grad_norm=1.0,
    ...                              sample_rate=1.0, noise_multiplier=1.0))
    2.5
    """
    beta = plan.momentum
    return float(sum((1 - beta**k) / (1 - beta) for k in range(1, plan.local_steps + 1)))


def _towards(model: NDArray[np.generic], mean: NDArray[np.float32], rate: float) -> NDArray[np.float32]:
    start = model.astype(np.float64)
    return (start + rate * (mean.astype(np.float64) - start)).astype(np.float32)


STRATEGY = Scaffold
