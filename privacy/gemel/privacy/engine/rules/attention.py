"""Multi-head attention: its projections are linear layers, tapped one by one; what is between them has no parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from opacus.layers import DPMultiheadAttention
from torch import Tensor, nn

from gemel.core.errors import GemelError
from gemel.privacy.engine.rules.base import LayerRule, Prepared, Tap, TapFunction, register_rule
from gemel.privacy.engine.rules.linear import linear_gradients


@register_rule(nn.MultiheadAttention)
class MultiheadAttentionRule(LayerRule):
    """torch's attention, self and cross, with masks; not the forms that `covers` names."""

    def covers(self, module: nn.Module) -> bool:
        """False when patients are not in dimension 0, for bias rows, zero attention, and dropout in training."""
        layer = cast(nn.MultiheadAttention, module)
        drops = layer.training and layer.dropout > 0
        return layer.batch_first and layer.bias_k is None and not layer.add_zero_attn and not drops

    def forward(
        self,
        module: nn.Module,
        tap: TapFunction,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`, patients first. Raises GEM306 for one unbatched sequence."""
        layer = cast(nn.MultiheadAttention, module)
        _need_sequences(layer, query)
        if is_causal and attn_mask is None:
            raise GemelError("GEM306", "The hint is_causal needs attn_mask, as torch has it.")
        queries, keys, values = _projected(layer, tap, query, key, value)
        mask = _mask(query, key, layer.num_heads, attn_mask, key_padding_mask)
        context, weights = _attention(queries, keys, values, layer.num_heads, mask, need_weights)
        context = context.transpose(1, 2).flatten(2)
        out = tap(F.linear(context, layer.out_proj.weight, layer.out_proj.bias), context)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        return out, weights

    def prepare(self, module: nn.Module, taps: Sequence[Tap]) -> Prepared:
        """See `LayerRule`."""
        trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
        packed = cast(nn.MultiheadAttention, module).in_proj_weight is not None
        weights = ("in_proj_weight",) * 3 if packed else ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        names = [(weight, "in_proj_bias") for weight in weights[: len(taps) - 1]]
        return _Projections(module, [*names, ("out_proj.weight", "out_proj.bias")], taps, trained)


@register_rule(DPMultiheadAttention)
class OpacusAttentionRule(LayerRule):
    """Opacus' attention, as Opacus 1.6 computes it; places first, its linear layers do not see patients apart."""

    def covers(self, module: nn.Module) -> bool:
        """As for torch's attention."""
        drops = module.training and cast(nn.Dropout, module.dropout).p > 0
        return bool(module.batch_first and not module.add_bias_kv and not module.add_zero_attn and not drops)

    def forward(
        self,
        module: nn.Module,
        tap: TapFunction,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `DPMultiheadAttention.forward`, patients first. Raises GEM306 for what that cannot do."""
        _need_sequences(module, query)
        if is_causal or attn_mask is not None:
            # With patients first it compares the mask's size with the number of patients.
            raise GemelError("GEM306", "DPMultiheadAttention takes no attn_mask with batch_first.")
        inner = cast(list[nn.Linear], [module.qlinear, module.klinear, module.vlinear])
        queries, keys, values = (
            tap(F.linear(given, linear.weight, linear.bias), given)
            for linear, given in zip(inner, (query, key, value), strict=True)
        )
        heads = cast(int, module.num_heads)
        mask = _mask(query, key, heads, None, key_padding_mask)
        context, weights = _attention(queries, keys, values, heads, mask, need_weights)
        # Opacus lays heads out before places here and reads them as places before heads; so do its trained models.
        context = context.reshape(query.shape)
        last = cast(nn.Linear, module.out_proj)
        out = tap(F.linear(context, last.weight, last.bias), context)
        return out, None if weights is None else weights.mean(1)

    def prepare(self, module: nn.Module, taps: Sequence[Tap]) -> Prepared:
        """See `LayerRule`."""
        trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
        names = [(f"{part}.weight", f"{part}.bias") for part in ("qlinear", "klinear", "vlinear", "out_proj")]
        return _Projections(module, names, taps, trained)


def _need_sequences(module: nn.Module, query: Tensor) -> None:
    if query.dim() != 3:
        # torch takes two dimensions for one sequence: its places would be patients.
        raise GemelError("GEM306", f"{type(module).__name__} got {query.dim()} dimensions, needs 3.")


def _projected(
    layer: nn.MultiheadAttention, tap: TapFunction, query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (B, T, embedding): one tap for self-attention, else three."""
    bias = layer.in_proj_bias
    if layer.in_proj_weight is not None and query is key is value:
        together = tap(F.linear(query, layer.in_proj_weight, bias), query)
        queries, keys, values = together.chunk(3, dim=-1)
        return queries, keys, values
    packed = layer.in_proj_weight
    separate = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
    weights = separate if packed is None else packed.chunk(3)
    biases = (None,) * 3 if bias is None else bias.chunk(3)
    queries, keys, values = (
        tap(F.linear(given, weight, own), given)
        for given, weight, own in zip((query, key, value), weights, biases, strict=True)
    )
    return queries, keys, values


def _mask(
    query: Tensor, key: Tensor, heads: int, attn_mask: Tensor | None, key_padding_mask: Tensor | None
) -> Tensor | None:
    """What is added to the scores, broadcast to (B, heads, T, S), from torch's two masks: True is left out."""
    batch, places = query.shape[:2]
    total: Tensor | None = None
    if attn_mask is not None:
        total = _added(attn_mask, query)
        if attn_mask.dim() == 3:
            total = total.reshape(batch, heads, places, key.shape[1])
    if key_padding_mask is not None:
        padding = _added(key_padding_mask, query)[:, None, None, :]
        total = padding if total is None else total + padding
    return total


def _added(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))
    return mask.to(like.dtype)


def _attention(
    queries: Tensor, keys: Tensor, values: Tensor, heads: int, mask: Tensor | None, need_weights: bool
) -> tuple[Tensor, Tensor | None]:
    """Context (B, heads, T, embedding / heads) and, where asked, the weights (B, heads, T, S)."""
    queries, keys, values = (_by_head(tensor, heads) for tensor in (queries, keys, values))
    weights: Tensor | None = None
    if need_weights:
        scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-2, -1)
        weights = (scores if mask is None else scores + mask).softmax(-1)
        context = weights @ values
    else:
        context = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    return context, weights


def _by_head(tensor: Tensor, heads: int) -> Tensor:
    """(B, T, embedding) as (B, heads, T, embedding / heads)."""
    return tensor.reshape(*tensor.shape[:2], heads, tensor.shape[2] // heads).transpose(1, 2)


class _Projections(Prepared):
    """Gradients of several linear layers; one parameter may be the rows of several, in the order of the taps."""

    def __init__(
        self,
        module: nn.Module,
        names: Sequence[tuple[str, str]],
        taps: Sequence[Tap],
        trained: set[str],
    ) -> None:
        self._order = [name for name, _ in module.named_parameters() if name in trained]
        self._parts: list[tuple[list[str], Prepared]] = []
        for (weight, bias), tap in zip(names, taps, strict=True):
            wanted = [name for name in (weight, bias) if name in trained]
            prepared = linear_gradients(
                tap.saved[0], tap.gradient, weight=weight in trained, bias=bias in trained
            )
            self._parts.append((wanted, prepared))

    def squared_norms(self) -> tuple[Tensor, ...]:
        """See `Prepared`."""
        found = self._by_name([prepared.squared_norms() for _, prepared in self._parts])
        return tuple(torch.stack(found[name]).sum(0) for name in self._order)

    def weighted_sum(self, weights: Tensor) -> tuple[Tensor, ...]:
        """See `Prepared`."""
        found = self._by_name([prepared.weighted_sum(weights) for _, prepared in self._parts])
        return tuple(torch.cat(found[name]) for name in self._order)

    def _by_name(self, values: Sequence[tuple[Tensor, ...]]) -> dict[str, list[Tensor]]:
        found: dict[str, list[Tensor]] = {}
        for (names, _), own in zip(self._parts, values, strict=True):
            for name, value in zip(names, own, strict=True):
                found.setdefault(name, []).append(value)
        return found
