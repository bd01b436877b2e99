"""The bounded sum of patients' gradients as one pure function of tensors, for either way of getting the gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from gemel.core.errors import GemelError
from gemel.core.study import Clipping
from gemel.privacy.engine.clipping import centred_count, clip_factors
from gemel.privacy.engine.rules.base import Materialised, Prepared, has_rule
from gemel.privacy.engine.taps import TappedLayer, prepared_gradients


class BoundedSum(NamedTuple):
    """What a chunk of patients gives.

    Attributes:
        total: (p,) the sum of the bounded gradients, in the order of the trained parameters.
        finite: (B,) bool; False for whoever has no finite gradient or loss. Where one is, the total is not to be used.
        centred: () float64, Σ (b_i - ½) for adaptive clipping, else 0.
    """

    total: Tensor
    finite: Tensor
    centred: Tensor


@dataclass(frozen=True)
class Parameters:
    """A model's tensors by name: those that are trained, in order, and all others (buffers too)."""

    trained: dict[str, Tensor]
    fixed: dict[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module) -> Parameters:
        """Detached; a parameter under two names appears once."""
        trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        fixed = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
        fixed.update({name: b.detach() for name, b in model.named_buffers()})
        return cls(trained, fixed)


def parameter_groups(model: nn.Module) -> tuple[tuple[str, ...], ...]:
    """The layers of clipping layer by layer: the parameters of each layer that has a rule, every other one alone."""
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    groups: list[tuple[str, ...]] = []
    taken: set[str] = set()
    owners = [name for name, module in model.named_modules() if has_rule(module)]
    for name in trained:
        if name in taken:
            continue
        # The outermost of the layers that the parameter is in: `named_modules` names it first.
        owner = next((owner for owner in owners if not owner or name.startswith(f"{owner}.")), None)
        prefix = "" if not owner else f"{owner}."
        group = (
            (name,) if owner is None else tuple(t for t in trained if t.startswith(prefix) and t not in taken)
        )
        groups.append(group)
        taken.update(group)
    return tuple(groups)


class GradientSource(ABC):
    """A way of getting all patients' gradients of one model. Pure: parameters come in as tensors."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    @abstractmethod
    def gradients(
        self, parameters: Parameters, batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, list[tuple[tuple[str, ...], Prepared]]]:
        """Losses (B,), and the gradients of the named parameters; parameters that are not named have none."""


class Tapped(GradientSource):
    """One forward and one backward pass for the batch; every layer by its rule. For models that couple nobody."""

    def __init__(self, model: nn.Module, layers: tuple[TappedLayer, ...]) -> None:
        super().__init__(model)
        self._layers = layers
        self._whole = _Whole(model, layers)

    def gradients(
        self, parameters: Parameters, batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, list[tuple[tuple[str, ...], Prepared]]]:
        """See `GradientSource`."""
        # The rules ask their modules what is trained.
        with torch.enable_grad():
            trained = {name: p.detach().requires_grad_(True) for name, p in parameters.trained.items()}
        tensors = {f"model.{name}": t for name, t in {**trained, **parameters.fixed}.items()}
        losses, prepared = functional_call(self._whole, tensors, (batch,))
        named = [
            (layer.parameters, one)
            for layer, one in zip(self._layers, prepared, strict=True)
            if one is not None
        ]
        return losses, named


class _Whole(nn.Module):
    """`prepared_gradients` as a module, so that rules see the swapped parameters too."""

    def __init__(self, model: nn.Module, layers: tuple[TappedLayer, ...]) -> None:
        super().__init__()
        self.model = model
        self._layers = layers

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, tuple[Prepared | None, ...]]:
        return prepared_gradients(self.model, self._layers, batch)


class OneByOne(GradientSource):
    """torch.func's vmap over grad of a batch of one: exact for any model, whatever it does with its batch."""

    def gradients(
        self, parameters: Parameters, batch: Mapping[str, Tensor]
    ) -> tuple[Tensor, list[tuple[tuple[str, ...], Prepared]]]:
        """See `GradientSource`."""

        def loss(trained: dict[str, Tensor], patient: dict[str, Tensor]) -> Tensor:
            alone = {name: tensor.unsqueeze(0) for name, tensor in patient.items()}
            losses: Tensor = functional_call(self._model, {**trained, **parameters.fixed}, (alone,))
            if losses.shape != (1,):
                raise GemelError("GEM306", f"The loss of one patient has shape {tuple(losses.shape)}.")
            return losses[0]

        # Each patient draws random numbers (dropout) of its own.
        each = vmap(grad_and_value(loss), in_dims=(None, 0), randomness="different")
        gradients, losses = each(parameters.trained, dict(batch))
        names = tuple(parameters.trained)
        return losses, [((name,), Materialised([gradients[name]])) for name in names]


def bounded_sum(
    source: GradientSource,
    groups: Sequence[Sequence[str]],
    parameters: Parameters,
    batch: Mapping[str, Tensor],
    *,
    valid: Tensor,
    bound: Tensor,
    clipping: Clipping | None,
) -> BoundedSum:
    """The sum over patients of their gradients, bounded as the plan says. Traceable.

    Args:
        source: How gradients are got.
        groups: The layers of clipping layer by layer.
        parameters: The model's tensors.
        batch: One row for each patient, B of them.
        valid: (B,) float64, 1, and 0 for padding.
        bound: () float64.
        clipping: The kind; None for the plain sum of an ordinary training step (benchmarks only).
    """
    losses, gradients = source.gradients(parameters, batch)
    with torch.no_grad():
        centred = torch.zeros((), dtype=torch.float64, device=losses.device)
        if clipping is None:
            weights = [valid.to(losses.dtype)] * len(gradients)
            finite = torch.isfinite(losses)
        else:
            group_of = _group_numbers(groups, flat=clipping is not Clipping.PER_LAYER)
            squared = _squared_norms(gradients, group_of, losses)
            factors, whole = clip_factors(squared, losses, bound=bound, valid=valid)
            finite = whole < torch.inf
            if clipping is Clipping.ADAPTIVE:
                centred = centred_count(whole, bound=bound, valid=valid)
            scaled = [factor.to(losses.dtype) for factor in factors]
            weights = [scaled[group_of[names[0]]] for names, _ in gradients]
        sums: dict[str, Tensor] = {}
        for (names, prepared), weight in zip(gradients, weights, strict=True):
            sums.update(zip(names, prepared.weighted_sum(weight), strict=True))
        parts = [
            sums[name].reshape(-1) if name in sums else torch.zeros_like(tensor).reshape(-1)
            for name, tensor in parameters.trained.items()
        ]
        return BoundedSum(torch.cat(parts), finite, centred)


def _group_numbers(groups: Sequence[Sequence[str]], *, flat: bool) -> dict[str, int]:
    return {name: 0 if flat else number for number, group in enumerate(groups) for name in group}


def _squared_norms(
    gradients: list[tuple[tuple[str, ...], Prepared]], group_of: Mapping[str, int], losses: Tensor
) -> list[Tensor]:
    squared: dict[int, Tensor] = {}
    for names, prepared in gradients:
        # All parameters of a layer are in one group.
        number, part = group_of[names[0]], prepared.whole_squared_norms()
        squared[number] = squared[number] + part if number in squared else part
    nothing = torch.zeros_like(losses, dtype=torch.float64)
    return [squared.get(number, nothing).double() for number in range(max(group_of.values()) + 1)]
