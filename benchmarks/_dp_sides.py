"""The sides of dp_step.py: each trains one case for an epoch, and says how many of its steps it did."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from _dp_gemel import CLIP, LEARNING_RATE, NOISE, gemel, gemel_without_privacy
from _dp_models import Case, Epoch, Loss
from opacus import PrivacyEngine
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils.data import DataLoader, TensorDataset

OPACUS_MODES = {
    "Opacus hooks": "hooks",
    "Opacus ghost": "ghost",
    "Opacus ew": "ew",
    "Opacus functorch": "functorch",
}
# Not on the package index under a name of its own; its own repository is no package that can be pinned here.
NOT_INSTALLED = {"fastDP": "not on the package index"}


def plain(case: Case) -> Epoch:
    """The usual loop: a shuffling loader, eager forward and backward, SGD."""
    model, loss = case.network(False), Loss()
    optimiser = torch.optim.SGD(model.parameters(), LEARNING_RATE)
    loader = DataLoader(TensorDataset(*case.data()), batch_size=case.batch, shuffle=True)
    return lambda steps: _loop(model, loss, optimiser, loader, steps)


def opacus(case: Case, mode: str) -> Epoch:
    """The same loop as `PrivacyEngine.make_private` leaves it: its Poisson loader, optimiser and accountant."""
    warnings.filterwarnings("ignore")
    model, loss = case.network(True), Loss()
    optimiser = torch.optim.SGD(model.parameters(), LEARNING_RATE)
    made = PrivacyEngine().make_private(
        module=model,
        optimizer=optimiser,
        data_loader=DataLoader(TensorDataset(*case.data()), batch_size=case.batch),
        noise_multiplier=NOISE,
        max_grad_norm=CLIP,
        poisson_sampling=True,
        grad_sample_mode=mode,
        criterion=loss,
    )
    private, private_optimiser, *rest = made
    criterion, loader = rest if len(rest) == 2 else (loss, rest[0])
    return lambda steps: _loop(private, criterion, private_optimiser, loader, steps)


def _loop(model: nn.Module, loss: Any, optimiser: Any, loader: Any, steps: int | None) -> None:
    for x, y in islice(loader, steps):
        if len(x) == 0:
            continue  # some of Opacus' modes fail on an empty batch: in its favour
        optimiser.zero_grad()
        loss(model(x), y).backward()
        optimiser.step()


def vmap_grad(case: Case) -> Epoch:
    """torch.func as its tutorial has it, with an in-memory Poisson sample and torch's own noise."""
    model = case.network(True)
    loss = Loss()
    x, y = case.data()
    parameters = dict(model.named_parameters())

    def loss_of_one(values: dict[str, Tensor], one: Tensor, target: Tensor) -> Tensor:
        return loss(functional_call(model, values, (one[None],)), target[None])

    gradients_of = vmap(grad(loss_of_one), in_dims=(None, 0, 0), randomness="different")

    @torch.no_grad()
    def epoch(steps: int | None) -> None:
        for _ in range(case.steps if steps is None else steps):
            taken = (torch.rand(case.patients) < case.batch / case.patients).nonzero().squeeze(1)
            if len(taken) == 0:
                continue
            found = gradients_of(dict(parameters), x[taken], y[taken])
            squared = sum(part.flatten(1).square().sum(1) for part in found.values())
            factors = CLIP / squared.sqrt().clamp(min=CLIP)
            for name, parameter in parameters.items():
                total = torch.tensordot(factors, found[name], 1)
                total += NOISE * CLIP * torch.randn_like(total)
                parameter -= LEARNING_RATE / case.batch * total

    return epoch


def sides() -> dict[str, Callable[[Case], Epoch]]:
    """Every side by name; the first is what the others are measured against."""
    made: dict[str, Callable[[Case], Epoch]] = {
        "plain": plain,
        "gemel": gemel,
        "gemel without privacy": gemel_without_privacy,
    }
    for name, mode in OPACUS_MODES.items():
        made[name] = lambda case, mode=mode: opacus(case, mode)
    made["vmap and grad"] = vmap_grad
    return made
