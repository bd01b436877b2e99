"""A whole noisy step as one piece of machine code: gather, bounded sum, noise, rounding, momentum, weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gemel.privacy.engine.graph import TensorFunction, as_machine_code, record
from gemel.privacy.noise import lattice_spacing


@dataclass(frozen=True)
class Update:
    """What a plan does with a noised sum: public numbers."""

    learning_rate: float
    momentum: float
    divisor: float


def usual_sample(expected: float) -> int:
    """A size that about 39 of 40 Poisson samples fit; padding all to what every one fits costs more than the 40th."""
    return 8 * math.ceil((expected + 2 * math.sqrt(expected)) / 8)


class CompiledStep:
    """One recorded and compiled step for samples of at most `size` patients.

    The numbers are those of the same step done operation by operation, up to rounding. Larger samples, and samples with a
    patient whose gradient is not finite, are for the caller to do that way.
    """

    def __init__(
        self, program: TensorFunction, fixed: Sequence[Tensor], patients: Sequence[Tensor], size: int
    ) -> None:
        self._program = program
        self._constant = (*fixed, *patients)
        self.size = size

    @classmethod
    def build(
        cls,
        summed: TensorFunction,
        *,
        shapes: Sequence[torch.Size],
        fixed: Sequence[Tensor],
        patients: Mapping[str, Tensor],
        update: Update,
        weights: Tensor,
        size: int,
        compiled: Callable[[torch.fx.GraphModule, Sequence[Tensor]], TensorFunction | None] = as_machine_code,
    ) -> CompiledStep | None:
        """Record and compile; None where either does not work.

        Args:
            summed: `PatientSums`' pure function of trained and fixed parameters, batch, valid and bound.
            shapes: Of the trained parameters.
            fixed: All other tensors of the model.
            patients: All patients.
            update: What is done with the noised sum.
            weights: The flat trained parameters.
            size: The most patients in one step.
            compiled: What turns the recording into machine code.
        """
        counts = [shape.numel() for shape in shapes]
        constant = (*fixed, *patients.values())

        def step(*tensors: Tensor) -> tuple[Tensor, ...]:
            weights, momentum, rows, valid, bound, sigma, spacing, noise, *others = tensors
            parts = torch.split(weights, counts)
            views = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
            batch = [tensor.index_select(0, rows) for tensor in others[len(fixed) :]]
            total, finite, centred = summed(*views, *others[: len(fixed)], *batch, valid, bound)
            noised = total.double() + noise * sigma
            # A power of two: dividing and multiplying by it is exact.
            noised = torch.round(noised / spacing) * spacing
            gradient = (noised / update.divisor).to(weights.dtype)
            moved = momentum * update.momentum + gradient if update.momentum else gradient
            return weights - update.learning_rate * moved, moved, finite.all(), centred

        one = torch.ones((), dtype=torch.float64, device=weights.device)
        examples = [
            weights.clone(),
            torch.zeros_like(weights),
            torch.zeros(size, dtype=torch.int64, device=weights.device),
            torch.ones(size, dtype=torch.float64, device=weights.device),
            *(one.clone() for _ in range(3)),
            torch.zeros(len(weights), dtype=torch.float64, device=weights.device),
            *constant,
        ]
        try:
            program = compiled(record(step, examples), examples)
        except Exception:
            return None
        return None if program is None else cls(program, fixed, list(patients.values()), size)

    def __call__(
        self,
        weights: Tensor,
        momentum: Tensor,
        rows: NDArray[np.int64],
        noise: NDArray[np.float64],
        bound: Tensor,
        sigma: float,
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """New weights, new momentum, the centred count; None where a patient's gradient is not finite.

        `rows`: 1 to `size` of them; `noise`: standard normal draws; `sigma` > 0.
        """
        device = weights.device
        padded = np.full(self.size, rows[0])
        padded[: len(rows)] = rows
        valid = np.zeros(self.size)
        valid[: len(rows)] = 1.0
        scales = torch.tensor([sigma, lattice_spacing(sigma)], dtype=torch.float64).to(device)
        new, moved, finite, centred = self._program(
            weights,
            momentum,
            torch.from_numpy(padded).to(device),
            torch.from_numpy(valid).to(device),
            bound,
            scales[0],
            scales[1],
            torch.from_numpy(noise).to(device),
            *self._constant,
        )
        return (new, moved, centred) if bool(finite) else None
