from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_by_one import assert_rule_is_exact, relative
from torch import Tensor, nn

from gemel.privacy.engine.rules import gated_pass
from gemel.privacy.native import is_built

needs_native = pytest.mark.skipif(not is_built(), reason="no C compiler was there")


def unit(batch: int, steps: int, size: int, *, scale: float = 1.0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(batch + 10 * steps + 100 * size)
    shapes = ((batch, steps, 3 * size), (batch, size), (3 * size, size), (3 * size,))
    return tuple(scale * torch.randn(shape, generator=generator) for shape in shapes)


@needs_native
@given(
    batch=st.integers(0, 11),
    steps=st.integers(1, 6),
    size=st.integers(1, 19),
    scale=st.sampled_from([0.01, 0.5, 1.0]),
)
@settings(max_examples=60)
def test_the_native_pass_gives_the_loops_numbers(batch: int, steps: int, size: int, scale: float) -> None:
    given_tensors = unit(batch, steps, size, scale=scale)
    native = gated_pass._native_forward(*given_tensors)
    exact = gated_pass._forward(*(tensor.double() for tensor in given_tensors))
    for one, other in zip(native, exact, strict=True):
        assert one.shape == other.shape
        assert float((one - other).abs().max() if one.numel() else 0.0) <= 2e-5
    gradient = torch.randn(batch, steps, size, generator=torch.Generator().manual_seed(1))
    backward = (gradient, *(tensor.float() for tensor in exact), given_tensors[1], given_tensors[2])
    expected = gated_pass._backward(*(tensor.double() for tensor in backward))
    for one, other in zip(gated_pass._native_backward(*backward), expected, strict=True):
        assert relative(one, other) < 2e-5


@needs_native
def test_native_gates_are_exact_to_float32_rounding_over_their_whole_range() -> None:
    inputs = torch.linspace(-100.0, 100.0, 20_001).reshape(-1, 1, 1)
    nothing = torch.zeros(len(inputs), 1), torch.zeros(3, 1), torch.zeros(3)
    gates, candidates, _, _ = gated_pass._native_forward(inputs.expand(-1, 1, 3).contiguous(), *nothing)
    x = inputs.double().flatten()
    assert float((gates[:, 0, 0] - torch.sigmoid(x)).abs().max()) < 2e-7
    assert float((candidates[:, 0, 0] - torch.tanh(x)).abs().max()) < 2e-7
    near = x.abs() < 0.5
    off = (candidates[:, 0, 0].double() - torch.tanh(x)).abs()[near]
    assert float((off / x[near].abs().clamp(min=1e-12)).max()) < 5e-7


@needs_native
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_one_patients_bad_numbers_stay_with_that_patient(bad: float) -> None:
    from_input, *others = unit(6, 3, 5)
    expected = gated_pass._native_forward(from_input, *others)[3]
    spoilt = from_input.clone()
    spoilt[2, 1] = bad
    states = gated_pass._native_forward(spoilt, *others)[3]
    kept = [0, 1, 3, 4, 5]
    assert torch.equal(states[kept], expected[kept])
    if bad != bad:
        assert states[2, 1:].isnan().all()


@needs_native
@pytest.mark.parametrize("layers", [1, 2])
def test_the_rule_on_the_native_pass_is_the_loops_up_to_float32_rounding(layers: int) -> None:
    torch.manual_seed(0)
    layer = nn.GRU(5, 12, num_layers=layers, batch_first=True, bidirectional=layers == 2)
    patients = {"x": torch.randn(7, 9, 5, generator=torch.Generator().manual_seed(3))}
    assert_rule_is_exact(layer, patients, tolerance=2e-5, dtype=torch.float32)


def test_without_a_compiler_the_loop_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gated_pass, "library", lambda: None)
    given_tensors = unit(3, 4, 5)
    for one, other in zip(
        gated_pass.gated_forward(*given_tensors), gated_pass._forward(*given_tensors), strict=True
    ):
        assert torch.equal(one, other)
