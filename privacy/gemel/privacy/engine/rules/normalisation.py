"""Normalisation within one patient: gradients of its scale and shift are sums over the patient's own places."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from gemel.core.errors import GemelError
from gemel.privacy.engine.rules.base import (
    LayerRule,
    Materialised,
    Prepared,
    Tap,
    TapFunction,
    register_rule,
)


class _ScaleAndShift(LayerRule):
    """y = scale · normalised(x) + shift, with scale and shift of one shape, where they are there."""

    def forward(self, module: nn.Module, tap: TapFunction, *args: Any, **kwargs: Any) -> Any:
        """See `LayerRule`. Raises GEM306 when the layer would normalise over patients."""
        if not self._keeps_patients_apart(module, args[0]):
            raise GemelError("GEM306", f"{module} on {args[0].dim()} dimensions couples patients.")
        return super().forward(module, tap, *args, **kwargs)

    def prepare(self, module: nn.Module, taps: Sequence[Tap]) -> Prepared:
        """See `LayerRule`."""
        (tap,) = taps
        names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        # Computed once more: keeping it from the forward pass would take a kernel of our own.
        parts = {"weight": lambda: tap.gradient * self._normalised(module, tap.saved[0])}
        parts["bias"] = lambda: tap.gradient
        return Materialised([self._over_places(module, parts[name]()) for name in names])

    def _keeps_patients_apart(self, module: nn.Module, activation: Tensor) -> bool:
        return activation.dim() >= 2

    @abstractmethod
    def _normalised(self, module: nn.Module, activation: Tensor) -> Tensor:
        """The input before scale and shift."""

    def _over_places(self, module: nn.Module, values: Tensor) -> Tensor:
        """(B, channels, …) summed to (B, channels)."""
        return values if values.dim() == 2 else values.flatten(2).sum(2)


class _OverLastDimensions(_ScaleAndShift):
    """Layers whose scale has the shape of the last dimensions of their input, over which they normalise."""

    def _keeps_patients_apart(self, module: nn.Module, activation: Tensor) -> bool:
        return activation.dim() > len(cast(nn.LayerNorm, module).normalized_shape)

    def _over_places(self, module: nn.Module, values: Tensor) -> Tensor:
        shape = cast(nn.LayerNorm, module).normalized_shape
        if values.dim() == len(shape) + 1:
            return values
        return values.flatten(1, -len(shape) - 1).sum(1)


@register_rule(nn.LayerNorm)
class LayerNormRule(_OverLastDimensions):
    """Layer normalisation over the last dimensions, any number of places before them."""

    def _normalised(self, module: nn.Module, activation: Tensor) -> Tensor:
        layer = cast(nn.LayerNorm, module)
        return F.layer_norm(activation, layer.normalized_shape, eps=layer.eps)


@register_rule(nn.RMSNorm)
class RmsNormRule(_OverLastDimensions):
    """Root-mean-square normalisation over the last dimensions; it has no shift."""

    def _normalised(self, module: nn.Module, activation: Tensor) -> Tensor:
        layer = cast(nn.RMSNorm, module)
        return F.rms_norm(activation, layer.normalized_shape, eps=layer.eps)


@register_rule(nn.GroupNorm)
class GroupNormRule(_ScaleAndShift):
    """Group normalisation of (B, channels, …): within one patient by its definition."""

    def _normalised(self, module: nn.Module, activation: Tensor) -> Tensor:
        layer = cast(nn.GroupNorm, module)
        return F.group_norm(activation, layer.num_groups, eps=layer.eps)


_INSTANCE_NORM_DIMENSIONS: dict[type[nn.Module], int] = {
    nn.InstanceNorm1d: 3,
    nn.InstanceNorm2d: 4,
    nn.InstanceNorm3d: 5,
}


@register_rule(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
class InstanceNormRule(_ScaleAndShift):
    """Instance normalisation without running statistics: those would couple patients."""

    def covers(self, module: nn.Module) -> bool:
        """See `LayerRule`."""
        return not cast(_InstanceNorm, module).track_running_stats

    def _keeps_patients_apart(self, module: nn.Module, activation: Tensor) -> bool:
        # With one dimension fewer torch takes the first for channels: those would be patients.
        return activation.dim() == _INSTANCE_NORM_DIMENSIONS[type(module)]

    def _normalised(self, module: nn.Module, activation: Tensor) -> Tensor:
        return F.instance_norm(activation, eps=cast(_InstanceNorm, module).eps)
