"""One round at one hospital under a strategy: which parameters start where, what pulls them, what leaves and what stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from gemel.core.arrays import Arrays
from gemel.core.strategy_plan import Personalisation, StrategyPlan
from gemel.privacy.engine.pull import Pull
from gemel.privacy.engine.trainer import DpTrainer

Trained = dict[str, NDArray[np.generic]]


def train_round(
    plan: StrategyPlan,
    trainer: DpTrainer,
    model_with: Callable[[Arrays], nn.Module],
    patients: Mapping[str, Tensor],
    *,
    shared: Arrays,
    kept: Arrays,
    correction: Arrays,
) -> tuple[Trained, Trained]:
    """Take a round's noisy steps; for Ditto as many again on the personal model, which the study charges too.

    Args:
        plan: The study's strategy.
        trainer: With the study's training plan.
        model_with: A model with these parameters, the others at their public start values. It may be the same one again.
        patients: As for `DpTrainer.train`.
        shared: What came: the global model's parameters that travel.
        kept: What this hospital kept of its last round: local parameters, or a personal model. Nothing in its first.
        correction: SCAFFOLD's, by parameter; else nothing.

    Returns:
        The trained parameters that travel, and those that stay.
    """
    personal: Trained = {}
    if plan.personalisation is Personalisation.DITTO:
        model = model_with(kept or shared)
        trainer.train(model, patients, pull=Pull(plan.ditto_lambda, centre=shared))
        personal = _arrays(model)
    model = model_with({**kept, **shared})
    trainer.train(model, patients, pull=Pull(plan.proximal_mu, centre=shared, offset=correction))
    trained = _arrays(model)
    leaves = {name: trained[name] for name in shared}
    return leaves, personal or {name: trained[name] for name in trained if name not in shared}


def _arrays(model: nn.Module) -> Trained:
    return {name: p.detach().cpu().numpy().copy() for name, p in model.named_parameters()}
