"""For comparison only: the same twin trained without privacy. Nothing trained here may be released."""

from __future__ import annotations

import torch
from torch import Tensor

from gemel.core.dataset import Dataset
from gemel.core.programme import Programme
from gemel.twins.hazard import HazardTwin

# Keeps the parameters of columns that hardly vary from running away; of no weight for the others.
RIDGE = 1e-4


def train_without_privacy(programme: Programme, dataset: Dataset, *, steps: int = 60) -> HazardTwin:
    """A twin fitted by full-batch L-BFGS for at most `steps` iterations, without clipping and without noise.

    COMPARISON ONLY: it shows what privacy costs (pooled data) and what federation gains (one hospital alone). It
    is charged to no ledger, so its parameters must not leave the place where the patients are.
    """
    twin = HazardTwin(programme)
    batch = twin.tensors(dataset)
    penalised = [parameter for name, parameter in twin.named_parameters() if name != "level"]
    optimiser = torch.optim.LBFGS(
        twin.parameters(), max_iter=steps, history_size=30, line_search_fn="strong_wolfe"
    )

    def loss() -> float:
        optimiser.zero_grad()
        total: Tensor = twin(batch).mean()
        for parameter in penalised:
            total = total + RIDGE * parameter.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return float(total.detach())

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return twin
