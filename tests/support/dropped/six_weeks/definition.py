"""The twin of the made-up programme: competing hazards, with a head for each target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from gemel.core.dataset import Dataset
from gemel.core.programme import Programme
from gemel.twins.claims import Grade
from gemel.twins.definition import (
    ContextOfUse,
    DefaultTraining,
    Example,
    OpenPerson,
    TwinDefinition,
    Validation,
)
from gemel.twins.hazard import HazardTwin
from gemel.twins.prediction import ExpectedCourse, Floats, SimulatedCourse
from gemel.twins.programmes.six_weeks import PROGRAMME
from gemel.twins.treatment_plan import NOTHING_CHANGED, TreatmentPlan, planned_values

SPREAD_MMHG = 20.0
LEVELS = 6


class SixWeeksTwin(HazardTwin):
    """Heads on the design's columns: cumulative logits of the Rankin levels, a logit of diabetes, the pressure's mean."""

    def __init__(self, programme: Programme) -> None:
        super().__init__(programme)
        columns = len(self.design.names)
        self.cuts = nn.Parameter(torch.linspace(-2, 2, LEVELS - 1))
        self.function = nn.Parameter(torch.zeros(columns))
        self.diabetes = nn.Parameter(torch.zeros(columns + 1))
        self.pressure = nn.Parameter(torch.zeros(columns + 1))

    @staticmethod
    def time_terms(times_years: Floats) -> Floats:
        return np.stack([(times_years[:-1] - 0.05) / 0.05], axis=1)

    def tensors(self, dataset: Dataset) -> dict[str, Tensor]:
        target = torch.from_numpy(dataset.targets.astype(np.float32))
        return {
            **super().tensors(dataset),
            "targets": torch.nan_to_num(target),
            "known": torch.isfinite(target).float(),
        }

    def target_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        columns, target, known = batch["columns"], batch["targets"], batch["known"]
        reached = self._reached(columns)
        above = torch.arange(LEVELS - 1) < target[:, :1]
        rankin = functional.binary_cross_entropy(reached, above.float(), reduction="none").sum(-1)
        error = (target[:, 1] - self._pressure(columns)) / SPREAD_MMHG
        onset = functional.binary_cross_entropy_with_logits(
            self._linear(columns, self.diabetes), target[:, 2], reduction="none"
        )
        return known[:, 0] * rankin + known[:, 1] * error**2 / 2 + known[:, 2] * onset

    def _linear(self, columns: Tensor, weights: Tensor) -> Tensor:
        return weights[0] + columns @ weights[1:]

    def _reached(self, columns: Tensor) -> Tensor:
        """P(level >= 1 … 5), (B, 5), of the living: falling."""
        cuts = torch.cat([self.cuts[:1], self.cuts[:1] + torch.cumsum(functional.softplus(self.cuts[1:]), 0)])
        return torch.sigmoid((columns @ self.function)[:, None] - cuts).clamp(1e-6, 1 - 1e-6)

    def _pressure(self, columns: Tensor) -> Tensor:
        return 140.0 + SPREAD_MMHG * self._linear(columns, self.pressure)

    def expected(
        self, values: NDArray[np.floating], plan: TreatmentPlan
    ) -> tuple[Mapping[str, Floats], Mapping[str, ExpectedCourse]]:
        columns = torch.from_numpy(self.design.columns(values))
        with torch.no_grad():
            reached = self._reached(columns).numpy().astype(np.float64)
            onset = torch.sigmoid(self._linear(columns, self.diabetes)).numpy().astype(np.float64)
            pressure = self._pressure(columns).numpy().astype(np.float64)
        edges = np.concatenate([np.ones((len(values), 1)), reached, np.zeros((len(values), 1))], axis=1)
        targets = {
            "rankin": -np.diff(edges, axis=1),
            "pressure_later": np.stack([pressure, np.full(len(values), SPREAD_MMHG)], axis=1),
            "diabetes_later": onset,
        }
        return targets, {}

    def simulate(
        self, values: NDArray[np.floating], *, seed: int, plan: TreatmentPlan = NOTHING_CHANGED
    ) -> SimulatedCourse:
        course = super().simulate(values, seed=seed, plan=plan)
        targets, _ = self.expected(planned_values(self.programme, values, plan), plan)
        random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(7,)))
        level = (random.random((len(values), 1)) > np.cumsum(targets["rankin"], axis=1)[:, :-1]).sum(axis=1)
        pressure = targets["pressure_later"][:, 0] + SPREAD_MMHG * random.standard_normal(len(values))
        onset = random.random(len(values)) < targets["diabetes_later"]
        drawn = {"rankin": level, "pressure_later": pressure, "diabetes_later": onset}
        return SimulatedCourse(
            course.time_years, course.event, {name: array.astype(np.float32) for name, array in drawn.items()}
        )


class Nobody:
    """There are no open people of a made-up programme."""

    title = simulated_title = "nobody"
    file = licence = ""

    def people(self, data: Path | None, *, seed: int) -> Iterator[OpenPerson]:
        return iter(())


DEFINITION = TwinDefinition(
    programme=PROGRAMME,
    twin=SixWeeksTwin,
    training=DefaultTraining(
        rounds=2,
        local_steps=2,
        learning_rate=0.5,
        momentum=0.0,
        max_grad_norm=2.0,
        sample_rate=1.0,
        training_share=0.8,
        synthesis_share=0.19,
        count_share=0.01,
    ),
    physiology=(),
    baselines=(),
    claims=(),
    context=ContextOfUse(
        question=PROGRAMME.question,
        role="none",
        users="tests",
        influence="low",
        consequence="low",
        credibility={},
        not_for=("everything",),
    ),
    validation=Validation(grade=Grade.GENERIC, data="none", missing=(), limits=()),
    example=Example(
        title="A man of 70",
        values={"age_years": 70.0, "male": 1.0},
        plan=TreatmentPlan(),
        other_plan=TreatmentPlan.always({"aspirin": 1.0}),
    ),
    open_data=Nobody(),
)
