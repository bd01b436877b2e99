"""For comparison only: the same twin trained without privacy. Nothing trained here may be released."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from gemel.core.dataset import Dataset
from gemel.core.programme import Programme
from gemel.twins.installed import make_twin
from gemel.twins.twin import Twin

# Keeps the parameters of columns that hardly vary from running away; of no weight for the others.
RIDGE = 1e-4

AnyTwin = TypeVar("AnyTwin", bound=Twin)


def train_without_privacy(programme: Programme, dataset: Dataset, *, steps: int = 60) -> Twin:
    """The programme's twin, fitted as `fit_without_privacy` does. COMPARISON ONLY. Raises GEM104."""
    return fit_without_privacy(make_twin(programme), dataset, steps=steps)


def fit_without_privacy(twin: AnyTwin, dataset: Dataset, *, steps: int = 60) -> AnyTwin:
    """Fit a twin where it is, by full-batch L-BFGS for at most `steps` iterations, without clipping and without noise.

    COMPARISON ONLY: it shows what privacy costs (pooled data) and what federation gains (one hospital alone). It
    is charged to no ledger, so its parameters must not leave the place where the patients are.
    """
    batch = twin.tensors(dataset)
    # Held to the public start, but for the level of the hazards, which nobody knows beforehand.
    held = [(p, p.detach().clone()) for name, p in twin.named_parameters() if name != "level"]
    optimiser = torch.optim.LBFGS(
        twin.parameters(), max_iter=steps, history_size=30, line_search_fn="strong_wolfe"
    )

    def loss() -> float:
        optimiser.zero_grad()
        total: Tensor = twin(batch).mean()
        for parameter, start in held:
            total = total + RIDGE * (parameter - start).square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return float(total.detach())

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return twin
