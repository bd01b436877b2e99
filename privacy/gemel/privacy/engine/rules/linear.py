"""The linear layer: with one place a patient its gradient is an outer product, whose norm is a product of norms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gemel.privacy.engine.rules.base import (
    LayerRule,
    Materialised,
    Prepared,
    Tap,
    at_least,
    patient_norms_squared,
    register_rule,
)


@register_rule(nn.Linear)
class LinearRule(LayerRule):
    """y = W x + b on any number of places: x (B, …, in), y (B, …, out).

    Sources: Goodfellow, arXiv:1510.01799 (one place); Li et al., ICLR 2022, and Bu et al., ICML 2023 (Gram matrices,
    and not recomputing the sum).
    """

    def prepare(self, module: nn.Module, taps: Sequence[Tap]) -> Prepared:
        """See `LayerRule`."""
        (tap,) = taps
        (activation,) = tap.saved
        names = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
        return linear_gradients(activation, tap.gradient, weight="weight" in names, bias="bias" in names)


def linear_gradients(activation: Tensor, gradient: Tensor, *, weight: bool, bias: bool) -> Prepared:
    """Gradients of a weight and a bias, those of the two that are asked: x (B, …, in), gradient (B, …, out)."""
    if activation.dim() == 2:
        return OuterProducts(activation, gradient, weight=weight, bias=bias)
    activation, gradient = activation.flatten(1, -2), gradient.flatten(1, -2)
    places = activation.shape[1]
    if 2 * places * places < activation.shape[2] * gradient.shape[2]:
        return GramProducts(activation, gradient, weight=weight, bias=bias)
    return Materialised([*([gradient.transpose(1, 2) @ activation] * weight), *([gradient.sum(1)] * bias)])


class OuterProducts(Prepared):
    """Gradients g aᵀ (and g for the bias) of patients with one place each: a (B, in), g (B, out)."""

    def __init__(self, activation: Tensor, gradient: Tensor, *, weight: bool, bias: bool) -> None:
        self._activation, self._gradient = activation, gradient
        self._weight, self._bias = weight, bias

    def squared_norms(self) -> tuple[Tensor, ...]:
        """See `Prepared`."""
        gradient = patient_norms_squared(self._gradient)
        weight = [gradient * patient_norms_squared(self._activation)] if self._weight else []
        return (*weight, *([gradient] * self._bias))

    def whole_squared_norms(self) -> Tensor:
        """See `Prepared`: ‖g‖² (‖a‖² + 1) where both are trained."""
        if not (self._weight and self._bias):
            return super().whole_squared_norms()
        gradient = patient_norms_squared(self._gradient)
        return torch.addcmul(gradient, gradient, patient_norms_squared(self._activation))

    def weighted_sum(self, weights: Tensor) -> tuple[Tensor, ...]:
        """See `Prepared`."""
        scaled = self._gradient * weights.unsqueeze(1)
        return (*([scaled.T @ self._activation] * self._weight), *([scaled.sum(0)] * self._bias))


class GramProducts(Prepared):
    """Gradients Σ_t g_t a_tᵀ of patients with T places each: a (B, T, in), g (B, T, out), T small."""

    def __init__(self, activation: Tensor, gradient: Tensor, *, weight: bool, bias: bool) -> None:
        self._activation, self._gradient = activation, gradient
        self._weight = weight
        # Computed for each patient: what is bounded is then, to the bit, what is summed.
        self._bias = Materialised([gradient.sum(1)] * bias)

    def squared_norms(self) -> tuple[Tensor, ...]:
        """See `Prepared`: ‖Σ_t g_t a_tᵀ‖² = Σ_ts (a_t·a_s)(g_t·g_s)."""
        grams = [values @ values.transpose(1, 2) for values in (self._activation, self._gradient)]
        squared = (grams[0] * grams[1]).sum((1, 2), dtype=torch.float64)
        weight = [at_least(squared, self._activation, self._gradient)] if self._weight else []
        return (*weight, *self._bias.squared_norms())

    def weighted_sum(self, weights: Tensor) -> tuple[Tensor, ...]:
        """See `Prepared`."""
        if not self._weight:
            return self._bias.weighted_sum(weights)
        scaled = (self._gradient * weights[:, None, None]).flatten(0, 1)
        return (scaled.T @ self._activation.flatten(0, 1), *self._bias.weighted_sum(weights))
