from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_by_one import (
    OneLayer,
    assert_rule_can_be_traced,
    assert_rule_is_exact,
    clipped_one_by_one,
    gradients_one_by_one,
    relative,
)
from torch import Tensor, nn

from gemel.core.errors import GemelError
from gemel.privacy.engine.rules import convolution
from gemel.privacy.engine.rules.convolution import Window, patient_weight_gradients
from gemel.privacy.engine.taps import prepared_gradients, tapped_layers

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
LARGEST_SIDE = {1: 12, 2: 8, 3: 5}


def volumes(count: int, channels: int, places: tuple[int, ...], *, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(count, channels, *places, generator=generator)}


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, dict[str, Tensor]]:
    dimensions = draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(dimensions))

    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = groups * draw(st.integers(1, 4)), groups * draw(st.integers(1, 4))
    kernel, dilation = each(1, 3), each(1, 2)
    padding = draw(st.sampled_from(["numbers", "same", "valid"]))
    stride = (1,) * dimensions if padding == "same" else each(1, 3)
    spread = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    torch.manual_seed(draw(st.integers(0, 99)))
    layer = CONVOLUTIONS[dimensions](
        inputs,
        outputs,
        kernel,
        stride=stride,
        dilation=dilation,
        groups=groups,
        padding=each(0, 2) if padding == "numbers" else padding,
        bias=draw(st.booleans()),
    )
    places = tuple(draw(st.integers(side, max(side, LARGEST_SIDE[dimensions]))) for side in spread)
    return layer, volumes(draw(st.integers(1, 4)), inputs, places)


@given(convolutions())
@settings(max_examples=60)
def test_a_convolutions_norms_and_sums_are_those_of_the_loop(
    drawn: tuple[nn.Module, dict[str, Tensor]],
) -> None:
    assert_rule_is_exact(*drawn)


@given(
    dimensions=st.integers(1, 3),
    stride=st.integers(1, 3),
    further=st.integers(0, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
    bias=st.booleans(),
)
@settings(max_examples=25)
def test_a_transposed_convolutions_norms_and_sums_are_those_of_the_loop(
    dimensions: int, stride: int, further: int, dilation: int, groups: int, bias: bool
) -> None:
    torch.manual_seed(0)
    layer = TRANSPOSED[dimensions](
        2 * groups,
        3 * groups,
        3,
        stride=stride,
        padding=1,
        dilation=dilation,
        output_padding=min(further, max(stride, dilation) - 1),
        groups=groups,
        bias=bias,
    )
    assert_rule_is_exact(layer, volumes(3, 2 * groups, (4,) * dimensions))


@given(
    batch=st.integers(1, 3),
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 5),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    dimensions=st.integers(1, 3),
)
@settings(max_examples=40)
def test_all_three_ways_to_a_weight_gradient_agree(
    batch: int,
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    dimensions: int,
) -> None:
    window = Window(*((number,) * dimensions for number in (kernel, stride, padding, dilation)))
    x = volumes(batch, inputs, (7,) * dimensions)["x"].double()
    weight = torch.zeros(outputs, inputs, *window.kernel, dtype=torch.float64)
    convolve = {1: nn.functional.conv1d, 2: nn.functional.conv2d, 3: nn.functional.conv3d}[dimensions]
    y = convolve(x, weight, stride=stride, padding=padding, dilation=dilation)
    gradient = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ways = [
        way(x, gradient, window).reshape(batch, *weight.shape)
        for way in (
            convolution._by_neighbourhoods,
            convolution._by_exchanged_roles,
            convolution._by_grouped_gradient,
        )
    ]
    assert relative(ways[1], ways[0]) < 1e-12
    assert relative(ways[2], ways[0]) < 1e-12


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes_are_followed(mode: str) -> None:
    torch.manual_seed(0)
    assert_rule_is_exact(nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode), volumes(3, 2, (5, 6)))


def test_many_channels_on_few_places_never_store_a_patients_weight_gradient() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 48, 3, padding=1)
    model, batch = OneLayer(layer), volumes(3, 64, (4, 4))
    layers = tapped_layers(model)
    assert layers is not None
    _, (prepared,) = prepared_gradients(model, layers, batch)
    assert isinstance(prepared, convolution._GramConvolution)
    assert_rule_is_exact(layer, batch)


@pytest.mark.parametrize("frozen", ["weight", "bias"])
@pytest.mark.parametrize("places", [(4,), (4, 4), (4, 4, 4)])
def test_a_frozen_parameter_of_a_convolution_has_no_gradient(frozen: str, places: tuple[int, ...]) -> None:
    layer = CONVOLUTIONS[len(places)](3, 4, 3, padding=1)
    getattr(layer, frozen).requires_grad_(False)
    assert_rule_is_exact(layer, volumes(3, 3, places))


@pytest.mark.parametrize("places", [(6,), (6, 6), (6, 6, 6)])
@pytest.mark.parametrize("channels", [3, 40])
def test_nobody_in_the_batch_gives_zero_sums(places: tuple[int, ...], channels: int) -> None:
    layer = CONVOLUTIONS[len(places)](channels, 4, 3, padding=1)
    model, batch = OneLayer(layer), volumes(0, channels, places)
    layers = tapped_layers(model)
    assert layers is not None
    _, (prepared,) = prepared_gradients(model, layers, batch)
    assert prepared is not None
    assert [norm.shape for norm in prepared.squared_norms()] == [(0,), (0,)]
    for total, parameter in zip(prepared.weighted_sum(torch.zeros(0)), layer.parameters(), strict=True):
        assert total.shape == parameter.shape
        assert not total.any()


@pytest.mark.parametrize("places", [(16,), (9, 9), (6, 6, 6)])
def test_float32_sums_are_the_loops_up_to_float32_rounding(places: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = CONVOLUTIONS[len(places)](8, 8, 3, padding=1)
    assert_rule_is_exact(layer, volumes(5, 8, places), tolerance=1e-5, dtype=torch.float32)


@pytest.mark.parametrize("places", [(16,), (9, 9), (6, 6, 6)])
def test_a_convolution_can_be_traced(places: tuple[int, ...]) -> None:
    assert_rule_can_be_traced(CONVOLUTIONS[len(places)](8, 8, 3, padding=1), volumes(4, 8, places))


@pytest.mark.parametrize("layer", [nn.Conv1d(3, 2, 1), nn.ConvTranspose1d(3, 2, 1)])
def test_an_input_whose_patients_torch_would_take_for_channels_is_refused(layer: nn.Module) -> None:
    model = OneLayer(layer)
    layers = tapped_layers(model)
    assert layers is not None
    with pytest.raises(GemelError, match="GEM306"):
        prepared_gradients(model, layers, {"x": torch.zeros(3, 5)})


def test_a_patients_gradient_does_not_change_with_who_else_is_there() -> None:
    torch.manual_seed(0)
    window = Window((3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1))
    x, gradient = torch.randn(4, 12, 5, 5, 5), torch.randn(4, 6, 5, 5, 5)
    together = patient_weight_gradients(x, gradient, window)
    alone = patient_weight_gradients(x[2:3], gradient[2:3], window)
    assert relative(together[2:3], alone) < 1e-6


def test_clipped_sums_of_a_network_of_convolutions_are_those_of_the_loop() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=2, dilation=2), nn.Tanh(), nn.Conv1d(4, 3, 2, stride=2)
    )
    model, batch = OneLayer(network).double(), {"x": volumes(5, 2, (9,))["x"].double()}
    layers = tapped_layers(model)
    assert layers is not None
    _, prepared = prepared_gradients(model, layers, batch)
    clip = float(gradients_one_by_one(model, batch)["layer.0.weight"].flatten(1).norm(dim=1).median())
    squared = torch.stack([norm for one in prepared if one is not None for norm in one.squared_norms()]).sum(
        0
    )
    weights = clip / squared.sqrt().clamp(min=clip)
    total = torch.cat(
        [part.flatten() for one in prepared if one is not None for part in one.weighted_sum(weights)]
    )
    assert (weights < 1).any()
    assert relative(total, clipped_one_by_one(model, batch, clip)) < 1e-9
