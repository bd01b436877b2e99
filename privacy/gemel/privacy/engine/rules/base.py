"""What a layer must say so that its patients' gradients can be bounded without ever being computed one by one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

# Below this part of its bound, a norm that was computed from sums of signed float32 products is mostly rounding error.
CANCELLATION_LIMIT = 1e-3

# `tap(value, *saved)` gives back what the forward pass goes on with.
TapFunction = Callable[..., Tensor]
_Rule = TypeVar("_Rule", bound="type[LayerRule]")


@dataclass(frozen=True)
class Tap:
    """One tapped tensor of one layer: the gradient of the summed losses there, and what was saved with it.

    Dimension 0 of the gradient and of each saved tensor is the patient.
    """

    gradient: Tensor
    saved: tuple[Tensor, ...]


class Prepared(ABC):
    """One layer's patients' gradients, in whatever form; B patients, P trainable parameters.

    P counts the module's parameters (its children's included) that require gradients, in the order of
    `module.named_parameters()`.
    """

    @abstractmethod
    def squared_norms(self) -> tuple[Tensor, ...]:
        """P tensors (B,): the squared 2-norm of each patient's gradient of each parameter.

        Never below the true one by more than rounding: see `at_least`. Any float dtype.
        """

    def whole_squared_norms(self) -> Tensor:
        """(B,) the sum of `squared_norms`; for a rule that has it in fewer operations."""
        whole, *others = self.squared_norms()
        for part in others:
            whole = whole + part
        return whole

    @abstractmethod
    def weighted_sum(self, weights: Tensor) -> tuple[Tensor, ...]:
        """P tensors of the parameters' shapes: Σ_i weights_i · gradient_i; weights (B,) in the layer's dtype.

        Finite wherever every activation and gradient is: a patient with weight 0 then adds exactly 0.
        """

    def each(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """P tensors (B, *shape): every patient's own gradient. For tests, and for layers that nobody has a kernel for."""
        like = self.squared_norms()[0]
        rows = [self.weighted_sum(row) for row in torch.eye(len(like), dtype=dtype, device=like.device)]
        return tuple(torch.stack(parts) for parts in zip(*rows, strict=True))


class LayerRule(ABC):
    """How one type of layer gives its patients' gradients. Stateless; registered by `register_rule`.

    All methods are pure tensor functions that make_fx can trace: no value of a tensor decides what is done, no random
    numbers, nothing in place. While they run, the module's parameters are those that are trained (maybe traced).
    """

    def covers(self, module: nn.Module) -> bool:
        """False for a setting of the layer that the rule is not exact for: it then takes the exact, slow way."""
        return True

    def forward(self, module: nn.Module, tap: TapFunction, *args: Any, **kwargs: Any) -> Any:
        """What the module returns for these arguments, with its inner values tapped.

        `tap(value, *saved)` marks a tensor (patient in dimension 0) through which *all* use of the layer's parameters
        reaches the loss, and returns the tensor to go on with. The default taps the output and saves the first input.
        """
        return tap(type(module).forward(module, *args, **kwargs), args[0])

    @abstractmethod
    def prepare(self, module: nn.Module, taps: Sequence[Tap]) -> Prepared:
        """The patients' gradients from the taps, in the order in which `forward` made them."""


_RULES: dict[type[nn.Module], LayerRule] = {}


def register_rule(*module_types: type[nn.Module]) -> Callable[[_Rule], _Rule]:
    """Class decorator: this rule is that of exactly these types (a subclass may compute something else)."""

    def register(rule: _Rule) -> _Rule:
        for module_type in module_types:
            _RULES[module_type] = rule()
        return rule

    return register


def registered_rules() -> dict[type[nn.Module], LayerRule]:
    """Every type that has a rule."""
    return dict(_RULES)


def rule_of(module: nn.Module) -> LayerRule | None:
    """The rule that covers this module, or None."""
    rule = _RULES.get(type(module))
    return rule if rule is not None and rule.covers(module) else None


def has_rule(module: nn.Module) -> bool:
    """True when the module's type has a rule, whether or not it covers this module."""
    return type(module) in _RULES


def trainable(module: nn.Module) -> tuple[bool, ...]:
    """Which of the module's parameters (in the order of `named_parameters`) require gradients."""
    return tuple(parameter.requires_grad for parameter in module.parameters())


def patient_norms_squared(values: Tensor) -> Tensor:
    """(B,) float64: each patient's sum of squares, to 3e-7 for float32; never below the true one by more than that.

    Squares that underflow are made up for by the smallest normal number for each value. One that overflows (a value
    beyond 1.8e19 in float32) may give infinity: that patient then counts for nothing.
    """
    flat = values.reshape(values.shape[0], values.shape[1:].numel())
    norms: Tensor = torch.linalg.vector_norm(flat, dim=1)
    return norms.double().square() + flat.shape[1] * torch.finfo(values.dtype).tiny


def at_least(squared: Tensor, activation: Tensor, gradient: Tensor) -> Tensor:
    """A squared norm that was computed by a Gram matrix, never below what rounding could have hidden.

    The gradient is a sum of products g_t a_tᵀ over places t. Where they nearly cancel, the computed norm may be far too
    small (weights can be chosen to that end), and so would be the clipping. ‖a‖·‖g‖ bounds the sum of the products'
    norms; a norm under a thousandth of it is taken to be that thousandth, and the patient is scaled down more.
    """
    bound = patient_norms_squared(activation) * patient_norms_squared(gradient)
    return torch.maximum(squared.double(), bound * CANCELLATION_LIMIT**2)


class Materialised(Prepared):
    """Gradients that were computed for each patient: (B, *shape) for each trainable parameter."""

    def __init__(self, gradients: Sequence[Tensor]) -> None:
        self._gradients = tuple(gradients)

    def squared_norms(self) -> tuple[Tensor, ...]:
        """See `Prepared`."""
        return tuple(patient_norms_squared(gradient) for gradient in self._gradients)

    def weighted_sum(self, weights: Tensor) -> tuple[Tensor, ...]:
        """See `Prepared`."""
        return tuple(
            (weights @ gradient.reshape(gradient.shape[0], gradient.shape[1:].numel())).reshape(
                gradient.shape[1:]
            )
            for gradient in self._gradients
        )

    def each(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """See `Prepared`."""
        return self._gradients
