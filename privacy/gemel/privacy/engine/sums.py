"""Bounded sums over chosen patients: chunks of few sizes, each size recorded once, nobody's infinity in the sum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gemel.core.errors import GemelError
from gemel.core.study import Clipping
from gemel.privacy.engine.any_size import LEAST_SIZE, AnySize, record_any_size
from gemel.privacy.engine.gradients import (
    GradientSource,
    OneByOne,
    Parameters,
    Tapped,
    bounded_sum,
    parameter_groups,
)
from gemel.privacy.engine.graph import TensorFunction, as_machine_code, as_operations, record
from gemel.privacy.engine.probe import layers_to_tap

# Recording one patient at a time takes a good part of a second for each size, and saves some milliseconds a step.
_RECORD_FROM_STEPS = 1_000
_MOST_SIZES = 6
_STEPS_FOR_A_SIZE = 16
_GRAIN = 8


@dataclass(frozen=True)
class Workload:
    """How the sums will be asked for; it decides how they are computed, and nothing of what they are.

    Attributes:
        steps: How many sums.
        expected_batch: How many patients in each, about.
        sampled: Whether their number varies.
        physical_batch: The most patients whose gradients are in memory at once.
        machine_code: Compile the steps, in one size only.
    """

    steps: int
    expected_batch: float
    sampled: bool
    physical_batch: int
    machine_code: bool

    def padded(self, patients: int) -> int:
        """The size of the chunk that this many patients are padded to."""
        if not self.sampled:
            return patients
        if self.machine_code:
            return self.largest
        spread = 6 * math.sqrt(max(self.expected_batch, 1.0))
        sizes = min(max(self.steps // _STEPS_FOR_A_SIZE, 1), _MOST_SIZES)
        grain = _GRAIN * max(1, math.ceil(spread / sizes / _GRAIN))
        return min(grain * math.ceil(patients / grain), self.largest)

    @property
    def largest(self) -> int:
        """The largest chunk."""
        if not (self.sampled and self.machine_code):
            return self.physical_batch
        usual = self.expected_batch + 4 * math.sqrt(max(self.expected_batch, 1.0))
        return min(self.physical_batch, _GRAIN * math.ceil(usual / _GRAIN))


class PatientSums:
    """Sums of bounded gradients of one model over rows of one set of tensors."""

    def __init__(
        self,
        model: nn.Module,
        patients: Mapping[str, Tensor],
        *,
        clipping: Clipping | None,
        workload: Workload,
    ) -> None:
        self._model = model
        self._names = tuple(patients)
        self._clipping = clipping
        self._workload = workload
        self._parameters = Parameters.of(model)
        self._groups = parameter_groups(model)
        layers = layers_to_tap(model, patients)
        self._source: GradientSource = OneByOne(model) if layers is None else Tapped(model, layers)
        self._programs: dict[int, TensorFunction] = {}
        self._any_size: list[AnySize] = []
        # With one row a patient a step is short whatever is padded; with time or space in it, padding is work.
        long = any(tensor.dim() > 2 for tensor in patients.values())
        self._exact = self.is_batched and workload.sampled and not workload.machine_code and long

    @property
    def is_batched(self) -> bool:
        """True when whole batches go through the model at once, False when each patient goes alone."""
        return isinstance(self._source, Tapped)

    @property
    def _unrecorded(self) -> bool:
        return not self.is_batched and self._workload.steps < _RECORD_FROM_STEPS

    def as_function(self) -> tuple[TensorFunction, tuple[Tensor, ...]]:
        """The sum as a pure function of trained and fixed parameters, batch, valid and bound; the fixed ones' values."""
        return self._sum, tuple(self._parameters.fixed.values())

    def __call__(
        self,
        trained: Sequence[Tensor],
        patients: Mapping[str, Tensor],
        rows: NDArray[np.int64] | None,
        bound: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The sum over these rows (all patients for None).

        Args:
            trained: The trained parameters' values, in order.
            patients: All patients' tensors.
            rows: Row numbers.
            bound: () float64, what each gradient's norm is bounded to.

        Returns:
            (p,) float64 (zeros for nobody), and () float64, the centred count of adaptive clipping.

        Raises:
            GemelError: GEM306 when the model has no gradient for each patient.
        """
        count = len(patients[self._names[0]]) if rows is None else len(rows)
        total: Tensor | None = None
        centred = torch.zeros((), dtype=torch.float64, device=bound.device)
        for start in range(0, count, self._workload.largest):
            end = min(start + self._workload.largest, count)
            chosen = torch.arange(start, end) if rows is None else torch.from_numpy(rows[start:end])
            part = self._chunk(trained, patients, chosen, bound)
            if part is not None:
                # float64: the sum must hold one patient's part exactly, whoever else is in it.
                total = part[0].double() if total is None else total.add_(part[0])
                centred += part[1]
        if total is None:
            total = torch.zeros(sum(t.numel() for t in trained), dtype=torch.float64, device=bound.device)
        return total, centred

    def _chunk(
        self, trained: Sequence[Tensor], patients: Mapping[str, Tensor], rows: Tensor, bound: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """None where nobody counts."""
        size = max(len(rows), LEAST_SIZE) if self._exact else self._workload.padded(len(rows))
        size = len(rows) if self._unrecorded else size
        while len(rows):
            total, finite, centred = self._run(trained, patients, rows, size, bound)
            if bool(finite.all()):
                return total, centred
            # inf · 0 is NaN, so that whoever has no finite gradient must not be in the chunk at all.
            rows = rows[finite[: len(rows)].cpu()]
        return None

    def _run(
        self,
        trained: Sequence[Tensor],
        patients: Mapping[str, Tensor],
        rows: Tensor,
        size: int,
        bound: Tensor,
    ) -> tuple[Tensor, ...]:
        """A chunk of some size: padding repeats its first patient, with weight 0."""
        valid = torch.ones(size, dtype=torch.float64)
        if size > len(rows):
            valid[len(rows) :] = 0.0
            rows = torch.cat([rows, rows[:1].expand(size - len(rows))])
        rows = rows.to(bound.device)
        batch = [patients[name].index_select(0, rows) for name in self._names]
        tensors = [*trained, *self._parameters.fixed.values(), *batch, valid.to(bound.device), bound]
        try:
            return self._program(size, tensors)(*tensors)
        except (RuntimeError, ValueError) as error:
            name = type(self._model).__name__
            raise GemelError("GEM306", f"{name} has no per-patient gradient: {error}") from error

    def _program(self, size: int, tensors: Sequence[Tensor]) -> TensorFunction:
        if self._unrecorded:
            return self._sum
        if self._exact and (program := self._exact_program(size, tensors)) is not None:
            return program
        if size not in self._programs:
            self._programs[size] = self._make_program(tensors)
        return self._programs[size]

    def _exact_program(self, size: int, tensors: Sequence[Tensor]) -> TensorFunction | None:
        """None, from now on, for a model that cannot be recorded for any size."""
        for program in self._any_size:
            if program.takes(size):
                return program
        parameters = len(self._parameters.trained) + len(self._parameters.fixed)
        by_patient = [False] * parameters + [True] * (len(self._names) + 1) + [False]
        try:
            self._any_size.append(record_any_size(self._sum, tensors, by_patient))
        except Exception:
            self._exact = False
            return None
        return self._any_size[-1]

    def _make_program(self, tensors: Sequence[Tensor]) -> TensorFunction:
        examples = [tensor.clone() for tensor in tensors]
        try:
            graph = record(self._sum, examples)
        except Exception:
            if self.is_batched:
                # What cannot be recorded decides by values: it must see one patient at a time (or be refused there).
                self._source = OneByOne(self._model)
                self._programs.clear()
                return self._make_program(tensors)
            return self._sum
        if self._workload.machine_code:
            compiled = as_machine_code(graph, examples)
            if compiled is not None:
                return compiled
        return as_operations(graph)

    def _sum(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """`bounded_sum` of plain tensors: trained and fixed parameters, the batch, valid, bound."""
        first = len(self._parameters.trained)
        second = first + len(self._parameters.fixed)
        *batch, valid, bound = tensors[second:]
        parameters = Parameters(
            dict(zip(self._parameters.trained, tensors[:first], strict=True)),
            dict(zip(self._parameters.fixed, tensors[first:second], strict=True)),
        )
        return tuple(
            bounded_sum(
                self._source,
                self._groups,
                parameters,
                dict(zip(self._names, batch, strict=True)),
                valid=valid,
                bound=bound,
                clipping=self._clipping,
            )
        )
