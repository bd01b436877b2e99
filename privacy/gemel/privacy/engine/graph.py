"""A pure function of tensors, recorded once and then run without Python's autograd: a list of operations, or machine code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen

TensorFunction = Callable[..., tuple[Tensor, ...]]

_aten = torch.ops.aten
_log = logging.getLogger(__name__)
# The same operations by their shorter way in: an ATen overload called from Python costs about a microsecond more.
_SHORT_WAYS: dict[Any, Any] = {
    _aten.add.Tensor: torch.add,
    _aten.addcmul.default: torch.addcmul,
    _aten.addmm.default: torch.addmm,
    _aten.bmm.default: torch.bmm,
    _aten.cat.default: torch.cat,
    _aten.clamp.default: torch.clamp,
    _aten.div.Tensor: torch.div,
    _aten.exp.default: torch.exp,
    _aten.lerp.Tensor: torch.lerp,
    _aten.linalg_vector_norm.default: torch.linalg.vector_norm,
    _aten.log.default: torch.log,
    _aten.lt.Scalar: torch.lt,
    _aten.mm.default: torch.mm,
    _aten.mul.Tensor: torch.mul,
    _aten.neg.default: torch.neg,
    _aten.permute.default: torch.permute,
    _aten.pow.Tensor_Scalar: torch.pow,
    _aten.relu.default: torch.relu,
    _aten.rsqrt.default: torch.rsqrt,
    _aten.select.int: torch.select,
    _aten.sigmoid.default: torch.sigmoid,
    _aten.split.Tensor: torch.split,
    _aten.sqrt.default: torch.sqrt,
    _aten.squeeze.dim: torch.squeeze,
    _aten.stack.default: torch.stack,
    _aten.sub.Tensor: torch.sub,
    _aten.sum.dim_IntList: torch.sum,
    _aten.t.default: torch.t,
    _aten.tanh.default: torch.tanh,
    _aten.transpose.int: torch.transpose,
    _aten.unbind.int: torch.unbind,
    _aten.unsqueeze.default: torch.unsqueeze,
    _aten.view.default: torch.Tensor.view,
    _aten.where.self: torch.where,
}


def record(function: TensorFunction, examples: Sequence[Tensor]) -> GraphModule:
    """The operations that `function` does on tensors of these shapes. Raises what it raises on them.

    What Python decides while it runs (sizes, settings) is decided once, here; a value that it asks of a tensor is an error.
    """
    graph_module = without_detach(make_fx(function)(*examples))
    for node in list(graph_module.graph.nodes):
        if node.op == "call_function":
            _shorten(node)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()
    return graph_module


def without_detach(graph_module: GraphModule) -> GraphModule:
    """The recording without what only autograd needs, and without what nobody uses."""
    graph = graph_module.graph
    for node in list(graph.nodes):
        if node.target is _aten.detach.default:
            node.replace_all_uses_with(cast(Node, node.args[0]))
            graph.erase_node(node)
    graph.eliminate_dead_code()
    graph.set_codegen(CodeGen())
    graph_module.recompile()
    return graph_module


def _shorten(node: Node) -> None:
    """Take out products with ones."""
    graph = node.graph
    if node.target is _aten.mul.Tensor:
        for factor, other in (node.args[:2], node.args[1::-1]):
            if _is_ones_like(factor, node) and isinstance(other, Node):
                node.replace_all_uses_with(other)
                graph.erase_node(node)
                return


def _is_ones_like(factor: Any, node: Node) -> bool:
    if not isinstance(factor, Node) or factor.target is not _aten.ones_like.default:
        return False
    values = [arg.meta.get("val") for arg in node.args[:2] if isinstance(arg, Node)] + [node.meta.get("val")]
    shapes = {(tuple(value.shape), value.dtype) for value in values if isinstance(value, Tensor)}
    return len(values) == 3 and None not in values and len(shapes) == 1


def as_operations(graph_module: GraphModule) -> TensorFunction:
    """The graph as straight-line Python, one call an operation."""
    for node in graph_module.graph.nodes:
        if node.op == "call_function":
            node.target = _SHORT_WAYS.get(node.target, node.target)
    graph_module.recompile()
    return cast(TensorFunction, graph_module.forward)


def as_machine_code(graph_module: GraphModule, examples: Sequence[Tensor]) -> TensorFunction | None:
    """The graph through torch's inductor, or None where that does not work (no C++ compiler).

    It computes the same numbers up to rounding; it takes seconds to minutes.
    """
    try:
        with torch.no_grad():
            compiled = torch._inductor.compile(graph_module, list(examples))
            compiled(*examples)
    except Exception as error:
        _log.debug("No machine code for the training step: %s", type(error).__name__)
        return None
    return cast(TensorFunction, compiled)
