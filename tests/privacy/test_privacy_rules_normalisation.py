from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_by_one import OneLayer, assert_rule_can_be_traced, assert_rule_is_exact
from torch import Tensor, nn

from gemel.core.errors import GemelError
from gemel.privacy.engine.rules.base import rule_of
from gemel.privacy.engine.taps import prepared_gradients, tapped_layers

INSTANCE_NORMS = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


def values(*shape: int, seed: int = 0) -> dict[str, Tensor]:
    # Off centre: a formula that subtracts large sums from each other would show.
    return {"x": 5.0 + torch.randn(*shape, generator=torch.Generator().manual_seed(seed))}


def drawn_parameters(layer: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return layer


@given(
    count=st.integers(1, 4),
    before=st.lists(st.integers(1, 4), max_size=2),
    normalised=st.lists(st.integers(2, 5), min_size=1, max_size=2),
    bias=st.booleans(),
)
@settings(max_examples=40)
def test_a_layer_norms_norms_and_sums_are_those_of_the_loop(
    count: int, before: list[int], normalised: list[int], bias: bool
) -> None:
    layer = drawn_parameters(nn.LayerNorm(normalised, bias=bias))
    assert_rule_is_exact(layer, values(count, *before, *normalised))


@given(
    count=st.integers(1, 4),
    before=st.lists(st.integers(1, 4), max_size=2),
    width=st.integers(1, 6),
    epsilon=st.sampled_from([None, 1e-3]),
)
@settings(max_examples=25)
def test_an_rms_norms_norms_and_sums_are_those_of_the_loop(
    count: int, before: list[int], width: int, epsilon: float | None
) -> None:
    # eps=None is the float type's own: the oracle computes in float64, and so does the rule here.
    layer = drawn_parameters(nn.RMSNorm(width, eps=epsilon))
    assert_rule_is_exact(layer, values(count, *before, width))


@given(
    count=st.integers(1, 4),
    groups=st.integers(1, 3),
    in_each=st.integers(2, 3),
    places=st.lists(st.integers(1, 4), max_size=3),
)
@settings(max_examples=40)
def test_a_group_norms_norms_and_sums_are_those_of_the_loop(
    count: int, groups: int, in_each: int, places: list[int]
) -> None:
    layer = drawn_parameters(nn.GroupNorm(groups, groups * in_each))
    assert_rule_is_exact(layer, values(count, groups * in_each, *places))


@pytest.mark.parametrize("places", [(5,), (3, 4), (3, 2, 2)])
def test_an_instance_norms_norms_and_sums_are_those_of_the_loop(places: tuple[int, ...]) -> None:
    layer = drawn_parameters(INSTANCE_NORMS[len(places)](3, affine=True))
    assert_rule_is_exact(layer, values(4, 3, *places))


@pytest.mark.parametrize("frozen", ["weight", "bias"])
@pytest.mark.parametrize("kind", ["layer", "group", "instance"])
def test_a_frozen_scale_or_shift_has_no_gradient(kind: str, frozen: str) -> None:
    layer = {
        "layer": nn.LayerNorm(4),
        "group": nn.GroupNorm(3, 6),
        "instance": nn.InstanceNorm1d(6, affine=True),
    }[kind]
    getattr(layer, frozen).requires_grad_(False)
    assert_rule_is_exact(layer, values(3, 6, 4))


@pytest.mark.parametrize(
    "layer", [nn.LayerNorm(4), nn.RMSNorm(4), nn.GroupNorm(2, 6), nn.InstanceNorm1d(6, affine=True)]
)
def test_a_normalisation_can_be_traced(layer: nn.Module) -> None:
    assert_rule_can_be_traced(layer, values(5, 6, 4))


@pytest.mark.parametrize("layer", [nn.LayerNorm(4), nn.RMSNorm(4), nn.GroupNorm(2, 6)])
def test_nobody_in_the_batch_gives_zero_sums(layer: nn.Module) -> None:
    model = OneLayer(layer)
    layers = tapped_layers(model)
    assert layers is not None
    _, (prepared,) = prepared_gradients(model, layers, {"x": torch.zeros(0, 6, 4)})
    assert prepared is not None
    assert all(norm.shape == (0,) for norm in prepared.squared_norms())
    assert not any(total.any() for total in prepared.weighted_sum(torch.zeros(0)))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.LayerNorm((3, 4)), (3, 4)),
        (nn.RMSNorm((3, 4)), (3, 4)),
        (nn.InstanceNorm1d(3, affine=True), (3, 4)),
        (nn.InstanceNorm2d(3, affine=True), (3, 4, 4)),
    ],
)
@pytest.mark.filterwarnings("ignore:input's size at dim=0 does not match num_features")
def test_normalising_over_patients_is_refused(layer: nn.Module, shape: tuple[int, ...]) -> None:
    model = OneLayer(layer)
    layers = tapped_layers(model)
    assert layers is not None
    with pytest.raises(GemelError, match="GEM306"):
        prepared_gradients(model, layers, values(*shape))


def test_an_instance_norm_with_running_statistics_has_no_rule() -> None:
    assert rule_of(nn.InstanceNorm1d(3, affine=True)) is not None
    assert rule_of(nn.InstanceNorm1d(3, affine=True, track_running_stats=True)) is None


def test_float32_sums_far_from_zero_are_the_loops_up_to_float32_rounding() -> None:
    far = {"x": 1000.0 + torch.randn(6, 12, 16, generator=torch.Generator().manual_seed(2))}
    # float32 itself holds 1000 + x to 6e-5: that is the input's rounding, not the rule's.
    assert_rule_is_exact(nn.GroupNorm(3, 12), far, tolerance=1e-3, dtype=torch.float32)
    assert_rule_is_exact(nn.LayerNorm(16), far, tolerance=1e-3, dtype=torch.float32)
