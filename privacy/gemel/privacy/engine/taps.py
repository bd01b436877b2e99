"""A model seen as layers with rules: one forward pass, one backward pass to the taps, everybody's gradients in form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gemel.core.errors import GemelError
from gemel.privacy.engine.rules.base import LayerRule, Prepared, Tap, TapFunction, has_rule, rule_of


@dataclass(frozen=True)
class TappedLayer:
    """One module with a rule, and the names of its trainable parameters within the model."""

    name: str
    module: nn.Module
    rule: LayerRule
    parameters: tuple[str, ...]


@dataclass
class _Record:
    layer: TappedLayer
    values: list[Tensor]
    saved: list[tuple[Tensor, ...]]
    calls: int = 0


def tapped_layers(model: nn.Module) -> tuple[TappedLayer, ...] | None:
    """The layers that cover every trainable parameter once, or None where some parameter has no rule.

    A parameter that two layers share has none, nor has a bare `nn.Parameter`.
    """
    layers: list[TappedLayer] = []
    _collect(model, "", layers)
    owners: dict[int, set[str | None]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            owner = next(
                (own.name for own in layers if not own.name or name.startswith(f"{own.name}.")), None
            )
            owners.setdefault(id(parameter), set()).add(owner)
    if any(None in names or len(names) > 1 for names in owners.values()):
        return None
    return tuple(layers)


def _collect(module: nn.Module, name: str, layers: list[TappedLayer]) -> None:
    prefix = f"{name}." if name else ""
    names = tuple(prefix + own for own, p in module.named_parameters() if p.requires_grad)
    if not names:
        return
    rule = rule_of(module)
    if rule is not None:
        layers.append(TappedLayer(name, module, rule, names))
    elif not has_rule(module):
        for child_name, child in module.named_children():
            _collect(child, prefix + child_name, layers)


def prepared_gradients(
    model: nn.Module, layers: tuple[TappedLayer, ...], batch: Mapping[str, Tensor]
) -> tuple[Tensor, tuple[Prepared | None, ...]]:
    """Losses (B,) and each layer's gradients (None for a layer that the loss does not depend on).

    Traceable. Raises GEM306 when a layer was called twice or the losses are not one for each patient.
    """
    with torch.enable_grad(), _recording(layers, cut=False) as records:
        losses: Tensor = model(batch)
        count = next(iter(batch.values())).shape[0]
        if losses.shape != (count,):
            raise GemelError("GEM306", f"The losses of {count} patients have shape {tuple(losses.shape)}.")
        values = [value for record in records for value in record.values]
        reached = losses.requires_grad and bool(values)
        gradients = (
            torch.autograd.grad(losses, values, torch.ones_like(losses), allow_unused=True)
            if reached
            else (None,) * len(values)
        )
    with torch.no_grad():
        return losses.detach(), _prepare(records, iter(gradients))


def _prepare(records: list[_Record], gradients: Iterator[Tensor | None]) -> tuple[Prepared | None, ...]:
    prepared: list[Prepared | None] = []
    for record in records:
        if record.calls > 1:
            raise GemelError("GEM306", f"The layer {record.layer.name!r} is called twice.")
        own = [next(gradients) for _ in record.values]
        if all(gradient is None for gradient in own):
            prepared.append(None)
            continue
        taps = [
            Tap(
                torch.zeros_like(value) if gradient is None else gradient,
                tuple(tensor.detach() for tensor in saved),
            )
            for value, gradient, saved in zip(record.values, own, record.saved, strict=True)
        ]
        prepared.append(record.layer.rule.prepare(record.layer.module, taps))
    return tuple(prepared)


@contextmanager
def _recording(layers: tuple[TappedLayer, ...], *, cut: bool) -> Iterator[list[_Record]]:
    """Within, each layer runs its rule's forward pass; `cut` parts what comes after a tap from what came before."""
    records = [_Record(layer, [], []) for layer in layers]
    try:
        for record in records:
            record.layer.module.forward = _tapped(record, cut=cut)
        yield records
    finally:
        for layer in layers:
            layer.module.__dict__.pop("forward", None)


def _tapped(record: _Record, *, cut: bool) -> Any:
    def tap(value: Tensor, *saved: Tensor) -> Tensor:
        if cut or not value.requires_grad:
            value = value.detach().requires_grad_(True)
        record.values.append(value)
        record.saved.append(saved)
        return value

    function: TapFunction = tap
    layer = record.layer

    def forward(*args: Any, **kwargs: Any) -> Any:
        record.calls += 1
        return layer.rule.forward(layer.module, function, *args, **kwargs)

    return forward


def uses_are_tapped(model: nn.Module, layers: tuple[TappedLayer, ...], batch: Mapping[str, Tensor]) -> bool:
    """True when no trainable parameter reaches the loss but through the taps, and no layer is called twice.

    The forward pass is cut at each tap: a parameter that still has a gradient is used in some other way.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    with torch.enable_grad(), _recording(layers, cut=True) as records:
        losses = model(batch)
        called_twice = any(record.calls > 1 for record in records)
        left = (
            torch.autograd.grad(losses.sum(), parameters, allow_unused=True) if losses.requires_grad else ()
        )
    return not called_twice and all(gradient is None for gradient in left)
