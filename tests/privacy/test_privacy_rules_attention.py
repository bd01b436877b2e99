from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_by_one import OneLayer, assert_rule_can_be_traced, assert_rule_is_exact
from opacus.layers import DPMultiheadAttention
from torch import Tensor, nn

from gemel.core.errors import GemelError
from gemel.privacy.engine.rules.base import rule_of
from gemel.privacy.engine.taps import prepared_gradients, tapped_layers


class Attending(nn.Module):
    """An attention layer as a model uses it: self-attention, or cross-attention to `memory`."""

    def __init__(self, attention: nn.Module, **settings: Any) -> None:
        super().__init__()
        self.attention = attention
        self.settings = settings

    def forward(self, x: Tensor, memory: Tensor | None = None, padded: Tensor | None = None) -> Tensor:
        memory = x if memory is None else memory
        output, weights = self.attention(x, memory, memory, key_padding_mask=padded, **self.settings)
        # What the weights say counts too, where they are asked for.
        return output if weights is None else output + weights.square().flatten(1).sum(1)[:, None, None]


def sequences(count: int, places: int, width: int, *, seed: int = 0) -> Tensor:
    return torch.randn(count, places, width, generator=torch.Generator().manual_seed(seed))


def attention(kind: str, width: int, heads: int, **settings: Any) -> nn.Module:
    torch.manual_seed(7)
    settings = {"batch_first": True, **settings}
    layer: nn.Module = {"torch": nn.MultiheadAttention, "opacus": DPMultiheadAttention}[kind](
        width, heads, **settings
    )
    for parameter in layer.parameters():  # torch starts its biases at 0
        parameter.data += 0.1 * torch.randn(parameter.shape)
    if kind == "opacus" and layer.klinear.bias is not None:
        # It shifts all scores of a query alike: its gradient is 0, in both ways but for rounding.
        layer.klinear.bias.requires_grad_(False)
    return layer


@pytest.mark.parametrize("kind", ["torch", "opacus"])
@given(
    count=st.integers(1, 3),
    places=st.integers(1, 6),
    heads=st.integers(1, 3),
    in_each=st.integers(1, 3),
    bias=st.booleans(),
    need_weights=st.booleans(),
)
@settings(max_examples=25)
def test_self_attentions_norms_and_sums_are_those_of_the_loop(
    kind: str, count: int, places: int, heads: int, in_each: int, bias: bool, need_weights: bool
) -> None:
    layer = Attending(attention(kind, heads * in_each, heads, bias=bias), need_weights=need_weights)
    assert_rule_is_exact(layer, {"x": sequences(count, places, heads * in_each)})


@pytest.mark.parametrize("kind", ["torch", "opacus"])
@pytest.mark.parametrize("own_width", [False, True])
def test_cross_attentions_norms_and_sums_are_those_of_the_loop(kind: str, own_width: bool) -> None:
    width = 5 if own_width else 4
    settings = {"kdim": 5, "vdim": 5} if own_width else {}
    layer = Attending(attention(kind, 4, 2, **settings))
    assert_rule_is_exact(layer, {"x": sequences(3, 4, 4), "memory": sequences(3, 6, width, seed=1)})


@pytest.mark.parametrize("kind", ["torch", "opacus"])
@pytest.mark.parametrize("need_weights", [False, True])
def test_masks_are_followed(kind: str, need_weights: bool) -> None:
    causal = torch.ones(4, 4, dtype=torch.bool).triu(1)
    padded = torch.tensor([[False, False, True, True], [False] * 4, [False, True, False, True]])
    settings = {"attn_mask": causal} if kind == "torch" else {}  # Opacus' own takes none with batch_first
    layer = Attending(attention(kind, 4, 2), need_weights=need_weights, **settings)
    assert_rule_is_exact(layer, {"x": sequences(3, 4, 4), "padded": padded})


@pytest.mark.parametrize("average", [False, True])
def test_the_rules_forward_pass_is_torchs(average: bool) -> None:
    layer = attention("torch", 6, 3)
    rule = rule_of(layer)
    assert rule is not None
    x, memory = sequences(2, 4, 6), sequences(2, 5, 6, seed=1)
    mask = torch.randn(2 * 3, 4, 5)
    for arguments in ((x, x, x, None, True, None), (x, memory, memory, None, True, mask)):
        expected = layer(*arguments, average)
        actual = rule.forward(layer, lambda value, *_: value, *arguments, average)
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one, other)


def test_the_rules_forward_pass_is_that_of_opacus_heads_and_places_exchanged_included() -> None:
    layer = attention("opacus", 6, 3)
    rule = rule_of(layer)
    assert rule is not None
    x, padded = sequences(2, 4, 6), torch.tensor([[False] * 4, [False, False, False, True]])
    expected, actual = layer(x, x, x, padded), rule.forward(layer, lambda value, *_: value, x, x, x, padded)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(GemelError, match="GEM306"):
        rule.forward(layer, lambda value, *_: value, x, x, x, None, True, torch.zeros(4, 4))


@pytest.mark.parametrize("frozen", ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"])
def test_a_frozen_part_of_attention_has_no_gradient(frozen: str) -> None:
    layer = attention("torch", 4, 2)
    layer.get_parameter(frozen).requires_grad_(False)
    assert_rule_is_exact(Attending(layer), {"x": sequences(3, 4, 4)})


def test_a_transformer_layer_of_torch_is_covered_by_rules() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=12, dropout=0.0, batch_first=True)
    assert_rule_is_exact(layer, {"x": sequences(3, 5, 8)})


@pytest.mark.parametrize("kind", ["torch", "opacus"])
def test_attention_can_be_traced(kind: str) -> None:
    assert_rule_can_be_traced(Attending(attention(kind, 4, 2)), {"x": sequences(3, 4, 4)})


def test_nobody_in_the_batch_gives_zero_sums() -> None:
    model = OneLayer(Attending(attention("torch", 4, 2)))
    layers = tapped_layers(model)
    assert layers is not None
    _, (prepared,) = prepared_gradients(model, layers, {"x": torch.zeros(0, 3, 4)})
    assert prepared is not None
    assert not any(total.any() for total in prepared.weighted_sum(torch.zeros(0)))


def test_one_sequence_without_patients_is_refused() -> None:
    layer = attention("torch", 4, 2)
    rule = rule_of(layer)
    assert rule is not None
    x = torch.zeros(3, 4)
    with pytest.raises(GemelError, match="GEM306"):
        rule.forward(layer, lambda value, *_: value, x, x, x)


@pytest.mark.parametrize("kind", ["torch", "opacus"])
@pytest.mark.parametrize(
    "settings", [{"batch_first": False}, {"dropout": 0.1}, {"add_bias_kv": True}, {"add_zero_attn": True}]
)
def test_forms_that_the_rule_is_not_exact_for_have_no_rule(kind: str, settings: dict[str, Any]) -> None:
    assert rule_of(attention(kind, 4, 2)) is not None
    assert rule_of(attention(kind, 4, 2, **settings)) is None


def test_float32_sums_are_the_loops_up_to_float32_rounding() -> None:
    layer = Attending(attention("torch", 16, 4))
    assert_rule_is_exact(layer, {"x": sequences(4, 12, 16)}, tolerance=1e-5, dtype=torch.float32)
