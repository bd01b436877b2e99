"""Our rules as kernels of Opacus: its own modes then compute norms and patients' gradients by them."""

from __future__ import annotations

from collections.abc import Callable

from opacus.grad_sample.grad_sample_module import GradSampleHooks
from opacus.grad_sample.utils import register_grad_sampler, register_norm_sampler
from opacus.layers import DPGRU, DPMultiheadAttention
from torch import Tensor, nn

from gemel.privacy.engine.rules.base import LayerRule, Prepared, Tap, registered_rules

# A hook sees a layer's first output and its gradient; these layers have more to say than that.
_NOT_BY_HOOKS = (nn.GRU, DPGRU, nn.MultiheadAttention, DPMultiheadAttention)
_Sampler = Callable[[nn.Module, list[Tensor], Tensor], dict[nn.Parameter, Tensor]]


def register_with_opacus() -> tuple[type[nn.Module], ...]:
    """Give Opacus our kernels for every layer whose rule needs its input and its output's gradient only.

    All get norms (`grad_sample_mode="ghost"`), for inputs of any number of dimensions; those for which Opacus has no kernel
    get patients' gradients too (`"hooks"`). Recurrent and attention layers stay Opacus' own (`DPGRU`,
    `DPMultiheadAttention`). Process-wide; calling it again changes nothing.

    Returns:
        The types of layers that were registered.
    """
    registered = []
    for module_type, rule in registered_rules().items():
        if module_type in _NOT_BY_HOOKS:
            continue
        register_norm_sampler(module_type)(_norm_sampler(rule))
        if module_type not in GradSampleHooks.GRAD_SAMPLERS:
            register_grad_sampler(module_type)(_gradient_sampler(rule))
        registered.append(module_type)
    return tuple(registered)


def _prepared(
    rule: LayerRule, layer: nn.Module, activations: list[Tensor], backprops: Tensor
) -> tuple[list[nn.Parameter], Prepared]:
    activation = activations[0]
    if activation.is_floating_point():
        activation = activation.to(backprops.dtype)
    trained = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    return trained, rule.prepare(layer, [Tap(backprops.detach(), (activation.detach(),))])


def _norm_sampler(rule: LayerRule) -> _Sampler:
    def norms(layer: nn.Module, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
        trained, prepared = _prepared(rule, layer, activations, backprops)
        values = [squared.sqrt().to(backprops.dtype) for squared in prepared.squared_norms()]
        return dict(zip(trained, values, strict=True))

    return norms


def _gradient_sampler(rule: LayerRule) -> _Sampler:
    def gradients(
        layer: nn.Module, activations: list[Tensor], backprops: Tensor
    ) -> dict[nn.Parameter, Tensor]:
        trained, prepared = _prepared(rule, layer, activations, backprops)
        return dict(zip(trained, prepared.each(backprops.dtype), strict=True))

    return gradients
