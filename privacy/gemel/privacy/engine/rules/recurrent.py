"""The gated recurrent unit: one pass back through time gives every gate's gradient, batched products do the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from opacus.layers import DPGRU
from torch import Tensor, nn

from gemel.privacy.engine.rules.base import (
    LayerRule,
    Materialised,
    Prepared,
    Tap,
    TapFunction,
    register_rule,
)
from gemel.privacy.engine.rules.gated_pass import gated_backward, gated_forward


class _Cell(NamedTuple):
    """One layer in one direction: its tensors, and where its parameters stand among the module's."""

    names: tuple[str, ...]  # of the four parameters
    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None


@register_rule(nn.GRU, DPGRU)
class GruRule(LayerRule):
    """torch's GRU and Opacus' DPGRU: any number of layers, one or two directions, no dropout, no packed sequences.

    Each direction of each layer taps what its gates get from the input and from the last state, (B, T, 3H) each; their
    gradients times inputs and states are the patients' gradients.
    """

    def covers(self, module: nn.Module) -> bool:
        """See `LayerRule`."""
        return float(getattr(module, "dropout", 0.0)) == 0.0 and getattr(module, "proj_size", 0) == 0

    def forward(self, module: nn.Module, tap: TapFunction, *args: Any, **kwargs: Any) -> Any:
        """See `LayerRule`. Takes what nn.GRU takes: input (B, T, F) or (T, B, F), and h_0 (layers·directions, B, H)."""
        return _run(module, tap, *args, **kwargs)

    def prepare(self, module: nn.Module, taps: Sequence[Tap]) -> Prepared:
        """See `LayerRule`."""
        gradients: dict[str, Tensor] = {}
        for number, cell in enumerate(_cells(module)):
            from_input, from_state, output = taps[3 * number : 3 * number + 3]
            (inputs,), (states, first) = from_input.saved, output.saved
            before = torch.cat([first.unsqueeze(1), states[:, :-1]], dim=1)
            names = cell.names
            gradients[names[0]] = from_input.gradient.transpose(1, 2) @ inputs
            gradients[names[1]] = from_state.gradient.transpose(1, 2) @ before
            gradients[names[2]] = from_input.gradient.sum(1)
            gradients[names[3]] = from_state.gradient.sum(1)
        return Materialised([gradients[name] for name, p in module.named_parameters() if p.requires_grad])


def _run(module: Any, tap: TapFunction, inputs: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
    if not isinstance(inputs, Tensor) or inputs.dim() != 3:
        raise TypeError("A GRU that trains by its rule takes a padded batch of sequences.")
    values = inputs if module.batch_first else inputs.transpose(0, 1)
    directions = 2 if module.bidirectional else 1
    last: list[Tensor] = []
    cells = _cells(module)
    for layer in range(module.num_layers):
        outputs = []
        for direction in range(directions):
            number = layer * directions + direction
            start = values.new_zeros(values.shape[0], module.hidden_size) if hx is None else hx[number]
            given = values.flip(1) if direction else values
            output = _run_cell(cells[number], tap, given, start)
            last.append(output[:, -1])
            outputs.append(output.flip(1) if direction else output)
        values = torch.cat(outputs, dim=2) if directions == 2 else outputs[0]
    return (values if module.batch_first else values.transpose(0, 1)), torch.stack(last)


def _run_cell(cell: _Cell, tap: TapFunction, inputs: Tensor, start: Tensor) -> Tensor:
    from_input = inputs @ cell.weight_ih.T
    if cell.bias_ih is not None:
        from_input = from_input + cell.bias_ih
    from_input = tap(from_input, inputs)
    # Nothing is added to what comes from the states; the gradient there is all that is asked for.
    nothing = tap(from_input.detach().new_zeros(1, 1, 1).expand_as(from_input))
    bias = from_input.new_zeros(from_input.shape[2]) if cell.bias_hh is None else cell.bias_hh
    output: Tensor = _GatedPass.apply(from_input, nothing, start, cell.weight_hh, bias)  # type: ignore[no-untyped-call]
    return tap(output, output, start)


def _cells(module: Any) -> list[_Cell]:
    """Layer by layer, forwards then backwards."""
    cells = []
    for layer in range(module.num_layers):
        for suffix in ("", "_reverse") if module.bidirectional else ("",):
            # DPGRU shows its cells' parameters under nn.GRU's names too.
            names = tuple(
                f"{what}_{of}_l{layer}{suffix}" for what in ("weight", "bias") for of in ("ih", "hh")
            )
            tensors: list[Any] = [getattr(module, name, None) for name in names]
            cells.append(_Cell(names, *tensors))
    return cells


class _GatedPass(torch.autograd.Function):
    """States from gates' inputs; back, the gradient of what the state gives the gates comes out at `nothing`."""

    @staticmethod
    def forward(
        ctx: Any, from_input: Tensor, nothing: Tensor, start: Tensor, weight: Tensor, bias: Tensor
    ) -> Tensor:
        """(B, T, 3H), the same, (B, H), (3H, H), (3H,) to states (B, T, H)."""
        made: tuple[Tensor, ...] = gated_forward(from_input, start, weight, bias)
        ctx.save_for_backward(*made, start, weight)
        return made[3]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the states to those of the inputs; the weights' is got from the taps."""
        from_input, from_state, start = gated_backward(gradients[0], *ctx.saved_tensors)
        return from_input, from_state, start, None, None
