"""Convolutions and transposed convolutions in one to three dimensions: each patient's own weight gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from gemel.core.errors import GemelError
from gemel.privacy.engine.rules.base import (
    LayerRule,
    Materialised,
    Prepared,
    Tap,
    TapFunction,
    at_least,
    register_rule,
)

# Gradients of this many values a patient are worth a few times as much arithmetic to avoid: see `_by_gram`.
ARITHMETIC_FOR_A_VALUE = 8
# Up to so many products an output place, copying each place's neighbourhood out costs less than a grouped convolution.
SMALL_NEIGHBOURHOOD = 32


@dataclass(frozen=True)
class Window:
    """How a convolution's kernel moves over its input: one number for each spatial dimension."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def places(self) -> int:
        """How many values of one channel the kernel sees at once."""
        return math.prod(self.kernel)


@register_rule(nn.Conv1d, nn.Conv2d, nn.Conv3d)
class ConvolutionRule(LayerRule):
    """A convolution of any stride, padding (modes and "same" included), dilation and number of groups."""

    def forward(self, module: nn.Module, tap: TapFunction, *args: Any, **kwargs: Any) -> Any:
        """See `LayerRule`. Raises GEM306 for an input without a dimension of patients."""
        _need_patients(module, args[0])
        return super().forward(module, tap, *args, **kwargs)

    def prepare(self, module: nn.Module, taps: Sequence[Tap]) -> Prepared:
        """See `LayerRule`."""
        convolution = cast(_ConvNd, module)
        (tap,) = taps
        activation, window = _padded(convolution, tap.saved[0])
        return _prepare(convolution, activation, tap.gradient, window, bias_from=tap.gradient)


@register_rule(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
class TransposedConvolutionRule(LayerRule):
    """A transposed convolution: the gradient of a convolution's input, so input and output gradient change places."""

    def forward(self, module: nn.Module, tap: TapFunction, *args: Any, **kwargs: Any) -> Any:
        """See `LayerRule`. Raises GEM306 for an input without a dimension of patients."""
        _need_patients(module, args[0])
        return super().forward(module, tap, *args, **kwargs)

    def prepare(self, module: nn.Module, taps: Sequence[Tap]) -> Prepared:
        """See `LayerRule`."""
        convolution = cast(_ConvNd, module)
        (tap,) = taps
        window = _window(convolution, cast(tuple[int, ...], convolution.padding))
        return _prepare(convolution, tap.gradient, tap.saved[0], window, bias_from=tap.gradient)


def _need_patients(module: nn.Module, activation: Tensor) -> None:
    wanted = len(cast(_ConvNd, module).kernel_size) + 2
    if activation.dim() != wanted:
        # torch takes the first dimension for channels: those would be patients.
        raise GemelError("GEM306", f"{module} got {activation.dim()} dimensions, needs {wanted}.")


def _window(module: _ConvNd, padding: tuple[int, ...]) -> Window:
    return Window(
        kernel=tuple(module.kernel_size),
        stride=tuple(module.stride),
        padding=padding,
        dilation=tuple(module.dilation),
    )


def _padded(module: _ConvNd, activation: Tensor) -> tuple[Tensor, Window]:
    """The input as the kernel sees it, and how it moves; padded here where a convolution itself cannot."""
    none = (0,) * len(module.kernel_size)
    if module.padding == "valid":
        return activation, _window(module, none)
    sides = list(module._reversed_padding_repeated_twice)
    if module.padding_mode != "zeros":
        return F.pad(activation, sides, mode=module.padding_mode), _window(module, none)
    if sides[0::2] != sides[1::2]:  # "same" with an even kernel: one side gets one more
        return F.pad(activation, sides), _window(module, none)
    return activation, _window(module, tuple(sides[0::2][::-1]))


def _prepare(
    module: _ConvNd, activation: Tensor, gradient: Tensor, window: Window, *, bias_from: Tensor
) -> Prepared:
    names = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    bias = [bias_from.flatten(2).sum(2)] * ("bias" in names)
    if "weight" not in names:
        return Materialised(bias)
    if _by_gram(activation, gradient, window, module.groups):
        return _GramConvolution(activation, gradient, window, bias)
    weight = patient_weight_gradients(activation, gradient, window, groups=module.groups)
    return Materialised([weight, *bias])


def _by_gram(activation: Tensor, gradient: Tensor, window: Window, groups: int) -> bool:
    """Many channels on few places: norms by Gram matrices, so that no patient's weight gradient is stored."""
    places = math.prod(gradient.shape[2:])
    inputs, outputs = activation.shape[1] * window.places, gradient.shape[1]
    return groups == 1 and places * places * (inputs + outputs) < ARITHMETIC_FOR_A_VALUE * inputs * outputs


def patient_weight_gradients(
    activation: Tensor, gradient: Tensor, window: Window, *, groups: int = 1
) -> Tensor:
    """Each patient's gradient of a convolution's weight.

    Args:
        activation: (B, in, *input places).
        gradient: (B, out, *output places), of the loss by the convolution's output.
        window: How the kernel moves.
        groups: Into how many groups the channels fall.

    Returns:
        (B, out, in / groups, *kernel).

    Three exact ways, of which the shape decides (measured on AVX2: `docs/performance.md`).
    """
    batch, outputs = activation.shape[0], gradient.shape[1]
    inputs = activation.shape[1] // groups
    shape = (batch, outputs, inputs, *window.kernel)
    if batch == 0:
        return activation.new_zeros(shape)
    # A group sees no other group, as a patient sees no other patient.
    activation = activation.reshape(batch * groups, inputs, *activation.shape[2:])
    gradient = gradient.reshape(batch * groups, outputs // groups, *gradient.shape[2:])
    dimensions = len(window.kernel)
    if dimensions == 1 or window.places == 1 or inputs * window.places <= SMALL_NEIGHBOURHOOD:
        return _by_neighbourhoods(activation, gradient, window).reshape(shape)
    if dimensions == 3 and set(window.stride) == {1}:
        return _by_exchanged_roles(activation, gradient, window).reshape(shape)
    return _by_grouped_gradient(activation, gradient, window).reshape(shape)


def neighbourhoods(activation: Tensor, gradient: Tensor, window: Window) -> Tensor:
    """What the kernel sees at each output place: (B, in · kernel places, output places)."""
    if any(window.padding):
        activation = F.pad(activation, [side for pad in reversed(window.padding) for side in (pad, pad)])
    seen = []
    for offsets in product(*map(range, window.kernel)):
        index: list[slice] = [slice(None), slice(None)]
        for offset, dilation, stride, places in zip(
            offsets, window.dilation, window.stride, gradient.shape[2:], strict=True
        ):
            start = offset * dilation
            index.append(slice(start, start + (places - 1) * stride + 1, stride))
        seen.append(activation[tuple(index)].flatten(2))
    if len(seen) == 1:
        return seen[0]
    return torch.stack(seen, dim=2).flatten(1, 2)


def _by_neighbourhoods(activation: Tensor, gradient: Tensor, window: Window) -> Tensor:
    return gradient.flatten(2) @ neighbourhoods(activation, gradient, window).transpose(1, 2)


def _by_exchanged_roles(activation: Tensor, gradient: Tensor, window: Window) -> Tensor:
    """A convolution of the input with the output gradient as its kernel; patients are groups, channels the batch."""
    batch, outputs = gradient.shape[:2]
    sums = torch.ops.aten.convolution(
        activation.transpose(0, 1),
        gradient.reshape(batch * outputs, 1, *gradient.shape[2:]),
        None,
        list(window.dilation),
        list(window.padding),
        list(window.stride),
        False,
        [0] * len(window.kernel),
        batch,
    )
    # (in, B · out, *kernel); a stride may leave further places, which no output saw.
    for dimension, places in enumerate(window.kernel):
        sums = sums.narrow(2 + dimension, 0, places)
    return cast(Tensor, sums.unflatten(1, (batch, outputs)).movedim(0, 2))


def _by_grouped_gradient(activation: Tensor, gradient: Tensor, window: Window) -> Tensor:
    """The weight gradient of one convolution whose groups are the patients."""
    batch, outputs = gradient.shape[:2]
    inputs = activation.shape[1]
    # Of the weight only its shape is asked.
    weight = activation.new_empty(1).expand(batch * outputs, inputs, *window.kernel)
    gradients = torch.ops.aten.convolution_backward(
        gradient.reshape(1, batch * outputs, *gradient.shape[2:]),
        activation.reshape(1, batch * inputs, *activation.shape[2:]),
        weight,
        None,
        list(window.stride),
        list(window.padding),
        list(window.dilation),
        False,
        [0] * len(window.kernel),
        batch,
        [False, True, False],
    )
    return cast(Tensor, gradients[1].unflatten(0, (batch, outputs)))


class _GramConvolution(Prepared):
    """Weight gradients in factors: what the kernel saw, and the output gradient, at each of few places."""

    def __init__(self, activation: Tensor, gradient: Tensor, window: Window, bias: list[Tensor]) -> None:
        self._seen = neighbourhoods(activation, gradient, window)
        self._gradient = gradient.flatten(2)
        self._shape = (gradient.shape[1], activation.shape[1], *window.kernel)
        self._bias = Materialised(bias)

    def squared_norms(self) -> tuple[Tensor, ...]:
        """See `Prepared`: ‖Σ_t g_t u_tᵀ‖² = Σ_ts (u_t·u_s)(g_t·g_s)."""
        grams = [values.transpose(1, 2) @ values for values in (self._seen, self._gradient)]
        squared = (grams[0] * grams[1]).sum((1, 2), dtype=torch.float64)
        return (at_least(squared, self._seen, self._gradient), *self._bias.squared_norms())

    def weighted_sum(self, weights: Tensor) -> tuple[Tensor, ...]:
        """See `Prepared`."""
        scaled = (self._gradient * weights[:, None, None]).transpose(0, 1).flatten(1)
        weight = scaled @ self._seen.transpose(1, 2).flatten(0, 1)
        return (weight.reshape(self._shape), *self._bias.weighted_sum(weights))
