"""The gated recurrent unit through time, forwards and back: two operations of torch's, native where a compiler was.

With r = σ(i_r + s_r), z = σ(i_z + s_z), n = tanh(i_n + r s_n), h' = n + z (h - n) and s = W h + b, the gradient d of h'
reaches the gates as d·a r', d·c, d·a for the input and d·a r', d·c, d·a r for the state, where a = (1 - z)(1 - n²),
c = (h - n) z (1 - z), r' = s_n r (1 - r).

As operations of their own they are two nodes of a recorded step, whatever the number of steps in time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gemel.privacy.native import library


@torch.library.custom_op("gemel::gated_forward", mutates_args=())
def gated_forward(
    from_input: Tensor, start: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the unit computes at each step.

    Args:
        from_input: (B, T, 3H), W_i x + b_i for r, z, n.
        start: (B, H).
        weight: (3H, H).
        bias: (3H,).

    Returns:
        Gates r and z (B, T, 2H); candidates n, the state's part of them s_n, and states, (B, T, H) each.
    """
    if _is_native(from_input):
        return _native_forward(from_input, start, weight, bias)
    return _forward(from_input, start, weight, bias)


@torch.library.custom_op("gemel::gated_backward", mutates_args=())
def gated_backward(
    gradient: Tensor,
    gates: Tensor,
    candidates: Tensor,
    hidden: Tensor,
    states: Tensor,
    start: Tensor,
    weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of the states (B, T, H) to those of from_input and of s, (B, T, 3H) each, and of start (B, H)."""
    arguments = (gradient, gates, candidates, hidden, states, start, weight)
    return _native_backward(*arguments) if _is_native(gradient) else _backward(*arguments)


@gated_forward.register_fake
def _(from_input: Tensor, start: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    batch, steps, _ = from_input.shape
    sizes = (2 * start.shape[1], *[start.shape[1]] * 3)
    return tuple(from_input.new_empty(batch, steps, size) for size in sizes)


@gated_backward.register_fake
def _(gradient: Tensor, gates: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    batch, steps, size = gradient.shape
    wide = (gradient.new_empty(batch, steps, 3 * size) for _ in range(2))
    return (*wide, gradient.new_empty(batch, size))


def _functions() -> Any:
    return library()


def _is_native(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu" and library() is not None


def _call(function: Any, sizes: tuple[int, ...], tensors: list[Tensor]) -> None:
    if function(*sizes, *(tensor.data_ptr() for tensor in tensors)):
        raise MemoryError("The recurrent unit's pass got no memory.")


def _native_forward(
    from_input: Tensor, start: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, steps, _ = from_input.shape
    size = start.shape[1]
    given = [tensor.contiguous() for tensor in (from_input, start, weight, bias)]
    gates = from_input.new_empty(batch, steps, 2 * size)
    candidates, hidden, states = (from_input.new_empty(batch, steps, size) for _ in range(3))
    made = [gates, candidates, hidden, states]
    _call(_functions().gated_forward, (batch, steps, size), [*given, *made])
    return gates, candidates, hidden, states


def _native_backward(*tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    batch, steps, size = tensors[0].shape
    given = [tensor.contiguous() for tensor in tensors]
    to_input, to_state = (given[0].new_empty(batch, steps, 3 * size) for _ in range(2))
    to_start = given[0].new_empty(batch, size)
    _call(_functions().gated_backward, (batch, steps, size), [*given, to_input, to_state, to_start])
    return to_input, to_state, to_start


def _forward(
    from_input: Tensor, start: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    size = start.shape[1]
    # Time first, so that each step's part is one block; the biases of r and z are added once for all steps.
    both = (from_input[:, :, : 2 * size] + bias[: 2 * size]).transpose(0, 1).contiguous().unbind(0)
    new = from_input[:, :, 2 * size :].transpose(0, 1).contiguous().unbind(0)
    to_both, to_new = weight[: 2 * size].T.contiguous(), weight[2 * size :].T.contiguous()
    bias_new, state = bias[2 * size :], start
    gates, candidates, hidden, states = [], [], [], []
    for step in range(len(both)):
        gate = torch.addmm(both[step], state, to_both).sigmoid_()
        r, z = gate[:, :size], gate[:, size:]
        part = torch.addmm(bias_new, state, to_new)
        candidate = torch.addcmul(new[step], r, part).tanh_()
        state = torch.lerp(candidate, state, z)
        gates.append(gate)
        candidates.append(candidate)
        hidden.append(part)
        states.append(state)
    return (
        torch.stack(gates, 1),
        torch.stack(candidates, 1),
        torch.stack(hidden, 1),
        torch.stack(states, 1),
    )


def _backward(
    gradient: Tensor, gates: Tensor, n: Tensor, part: Tensor, states: Tensor, start: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    size = start.shape[1]
    r, z = gates[:, :, :size], gates[:, :, size:]
    before = torch.cat([start.unsqueeze(1), states[:, :-1]], dim=1)
    to_new = (1 - z) * (1 - n * n)
    to_update = (before - n) * z * (1 - z)
    to_reset = to_new * part * r * (1 - r)
    # All but the gradient that arrives at each step is known before the walk back.
    through = torch.cat([to_reset, to_update, to_new * r], dim=2).transpose(0, 1).contiguous()
    keep, through_steps = z.transpose(0, 1).contiguous().unbind(0), through.unbind(0)
    outside = gradient.transpose(0, 1).contiguous().unbind(0)
    reached: list[Tensor] = []
    state = outside[-1]
    for step in range(len(outside) - 1, -1, -1):
        reached.append(state)
        spread = torch.cat([state, state, state], dim=1) * through_steps[step]
        kept = torch.addcmul(outside[step - 1], state, keep[step]) if step else state * keep[step]
        state = torch.addmm(kept, spread, weight)
    by_step = torch.stack(reached[::-1], 1)
    tripled = torch.cat([by_step, by_step, by_step], dim=2)
    to_state = tripled * through.transpose(0, 1)
    return tripled * torch.cat([to_reset, to_update, to_new], dim=2), to_state.contiguous(), state
