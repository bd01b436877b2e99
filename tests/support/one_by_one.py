"""The oracle of every layer rule and of the engine: a loop over patients, one backward pass each, in float64."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gemel.privacy.engine.taps import prepared_gradients, tapped_layers, uses_are_tapped


class OneLayer(nn.Module):
    """A model around a layer: its loss weighs every output, unequally and not linearly, so that no gradient is plain.

    `batch["x"]` is the layer's (float or integer) input; further tensors of the batch are keyword arguments.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        given = {name: tensor for name, tensor in batch.items() if name != "x"}
        output = self.layer(batch["x"], **given)
        output = output[0] if isinstance(output, tuple) else output
        flat = output.flatten(1)
        weights = torch.linspace(-1.0, 2.0, flat.shape[1], dtype=flat.dtype, device=flat.device)
        return (flat * weights + 0.1 * flat.square()).sum(1)


def gradients_one_by_one(model: nn.Module, patients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each trainable parameter's gradient for each patient, (n, *shape) float64: a loop, batches of one."""
    model = copy.deepcopy(model).double()
    patients = {
        name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in patients.items()
    }
    count = len(next(iter(patients.values())))
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    for i in range(count):
        model.zero_grad()
        model({name: tensor[i : i + 1] for name, tensor in patients.items()}).sum().backward()
        for name, p in model.named_parameters():
            if p.requires_grad:
                rows[name].append(torch.zeros_like(p) if p.grad is None else p.grad.clone())
    return {name: torch.stack(parts) for name, parts in rows.items()}


def clipped_one_by_one(model: nn.Module, patients: Mapping[str, Tensor], clip: float) -> Tensor:
    """(p,) float64: the sum over patients of their whole gradients, each scaled to a 2-norm of at most `clip`."""
    rows = torch.cat([g.reshape(len(g), -1) for g in gradients_one_by_one(model, patients).values()], dim=1)
    norms = rows.norm(dim=1)
    return (clip / norms.clamp(min=clip)) @ rows


def relative(actual: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what was expected (over 1 where that is 0)."""
    actual, expected = actual.detach().double(), expected.detach().double()
    scale = float(expected.norm())
    return float((actual - expected).norm()) / (scale if scale > 0 else 1.0)


def assert_rule_is_exact(
    layer: nn.Module,
    patients: Mapping[str, Tensor],
    *,
    tolerance: float = 1e-6,
    dtype: torch.dtype = torch.float64,
) -> None:
    """The rule's norms and weighted sums of one layer are those of the loop, to `tolerance` relative.

    `dtype` is what the rule computes in. float32 itself cannot tell 1e-6 apart on sums of many terms; state a wider
    tolerance with it.
    """
    model = OneLayer(copy.deepcopy(layer)).to(dtype)
    batch = {name: t.to(dtype) if t.is_floating_point() else t for name, t in patients.items()}
    layers = tapped_layers(model)
    assert layers is not None, f"no rule covers {layer}"
    assert uses_are_tapped(model, layers, batch), "a parameter is used beside the taps"
    _, prepared = prepared_gradients(model, layers, batch)
    expected = gradients_one_by_one(model, batch)
    count = len(next(iter(batch.values())))
    weights = torch.linspace(0.5, 1.5, count, dtype=dtype)
    assert {name for tapped in layers for name in tapped.parameters} == set(expected)
    for tapped, one in zip(layers, prepared, strict=True):
        assert one is not None
        norms, sums = one.squared_norms(), one.weighted_sum(weights)
        assert len(norms) == len(sums) == len(tapped.parameters)
        for name, norm, total in zip(tapped.parameters, norms, sums, strict=True):
            rows = expected[name].reshape(count, -1)
            assert norm.shape == (count,), name
            assert total.shape == expected[name].shape[1:], name
            assert relative(norm.sqrt(), rows.norm(dim=1)) < tolerance, name
            assert relative(total, torch.tensordot(weights.double(), expected[name], 1)) < tolerance, name


def assert_rule_can_be_traced(layer: nn.Module, patients: Mapping[str, Tensor]) -> None:
    """make_fx records norms and sums of the layer; the graph then gives the same numbers on other patients."""
    from torch.fx.experimental.proxy_tensor import make_fx

    model = OneLayer(copy.deepcopy(layer))
    layers = tapped_layers(model)
    assert layers is not None

    def step(batch: dict[str, Tensor], weights: Tensor) -> list[Tensor]:
        _, prepared = prepared_gradients(model, layers, batch)
        return [
            t
            for one in prepared
            if one is not None
            for t in (*one.squared_norms(), *one.weighted_sum(weights))
        ]

    count = len(next(iter(patients.values())))
    weights = torch.linspace(0.5, 1.5, count)
    graph = make_fx(step)(dict(patients), weights)
    others = {name: tensor.flip(0) for name, tensor in patients.items()}
    for traced, direct in zip(graph(others, weights), step(others, weights), strict=True):
        assert relative(traced, direct) < 1e-5
