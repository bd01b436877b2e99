"""A step recorded once for chunks of any size: the number of patients is a symbol in the recording, not a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from gemel.privacy.engine.graph import TensorFunction, as_operations, without_detach

# torch takes sizes 0 and 1 for what they are: they broadcast. A chunk must be at least this large.
LEAST_SIZE = 2


class AnySize:
    """A recorded function of tensors, some of which have one row for each patient, however many.

    Padding a chunk to one of a few sizes costs the work of the padding; a model with time or space in it does that work
    for nothing. Recording with a symbol takes two to three times as long as with a number, but once for all sizes.
    """

    def __init__(self, program: TensorFunction, conditions: Sequence[Any]) -> None:
        self._program = program
        self._conditions = tuple(conditions)
        self._verdicts: dict[int, bool] = {}

    def takes(self, size: int) -> bool:
        """True when whatever the recording decided by the number of patients holds for this number."""
        if size not in self._verdicts:  # symbolic: a tenth of a millisecond each
            self._verdicts[size] = size >= LEAST_SIZE and all(_holds(c, size) for c in self._conditions)
        return self._verdicts[size]

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The function of tensors of the recorded shapes, but for the number of patients."""
        return self._program(*tensors)


def record_any_size(
    function: TensorFunction, examples: Sequence[Tensor], by_patient: Sequence[bool]
) -> AnySize:
    """The operations that `function` does on tensors of these shapes, `by_patient` ones of any number of rows.

    Nothing is computed. Args: `examples` with the same number of rows, at least 2, wherever `by_patient` says so. Raises
    what the function raises, and what recording it raises: torch.fx for a value asked of a tensor.
    """
    shapes = ShapeEnv()
    mode = FakeTensorMode(shape_env=shapes, allow_non_fake_inputs=True)
    fakes = [
        mode.from_tensor(
            example,
            source=ConstantSource(f"tensor_{i}"),
            symbolic_context=StatelessSymbolicContext(dynamic_sizes=_sizes(example, rows)),
        )
        for i, (example, rows) in enumerate(zip(examples, by_patient, strict=True))
    ]
    module = make_fx(function, tracing_mode="symbolic")(*fakes)
    if shapes.deferred_runtime_asserts:
        raise RuntimeError("The recording depends on numbers that are known only when it runs.")
    for node in module.graph.nodes:
        if node.target is torch.ops.aten.sym_size.int:
            node.target = torch.Tensor.size
    return AnySize(as_operations(without_detach(module)), [guard.expr for guard in shapes.guards])


def _sizes(example: Tensor, by_patient: bool) -> list[DimDynamic]:
    """Dimension by dimension; equal numbers of rows get one symbol."""
    first = DimDynamic.DUCK if by_patient else DimDynamic.STATIC
    return [first if dimension == 0 else DimDynamic.STATIC for dimension in range(example.dim())]


def _holds(condition: Any, size: int) -> bool:
    (symbol,) = condition.free_symbols
    return bool(condition.subs({symbol: size}))
