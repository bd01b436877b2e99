"""The hazard twin: a patient's state (alive, diseases so far) moving step by step under competing hazards.

In step s of the programme's grid the cumulative hazard of outcome j is λ = width(s) · exp(η), with
η = level_j + time terms(s) · slopes_j + columns(x) · weights_j + state at the start of the step · couplings_j
    + covariates(x, s) · effects_j.
A step survived at risk contributes -λ, a part e of a step -λe, an event log(1 - exp(-λ)) (Prentice & Gloeckler,
Biometrics 1978;34:57: the grouped proportional-hazards model). The loss of one patient depends on that patient alone, so
each has a gradient that can be clipped: a Cox partial likelihood has none.

A programme with more than that derives its twin from this one: what its physiology follows enters as covariates, and its
other targets get heads of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gemel.core.dataset import OCCURRED, PREVALENT, Dataset
from gemel.core.programme import Programme
from gemel.twins.design import Design, design_of
from gemel.twins.prediction import ExpectedCourse, Floats, Prediction, SimulatedCourse
from gemel.twins.treatment_plan import NOTHING_CHANGED, TreatmentPlan, planned_values
from gemel.twins.twin import Twin

# Where every twin starts: 1 event per 100 patient-years, for everybody. A public, rough clinical number.
START_RATE_PER_YEAR = 0.01
# Cumulative hazards of a step are kept within these public limits, so that no input makes a loss overflow.
LOWEST_LOG_HAZARD, HIGHEST_LOG_HAZARD = -12.0, 1.5
_ROWS_AT_ONCE = 4096


class HazardTwin(Twin):
    """The twin of one programme; all parameters start at public constants.

    Parameters (k outcomes, p design columns, b time terms, m = k - 1 diseases, q covariates): level (k,),
    slopes (k, b + 1), weights (k, p), couplings (k, m), and where there are covariates effects (k, q).
    """

    time_basis: Tensor
    log_width: Tensor
    usable: Tensor
    coupled: Tensor
    effects: Tensor
    # How many numbers the physiology gives the hazards at each step.
    covariate_count = 0

    def __init__(self, programme: Programme) -> None:
        super().__init__(programme)
        self.design = self.make_design(programme)
        outcomes, columns = self.design.usable.shape
        times = np.array(programme.times_years)
        basis = self.time_terms(times)
        self.register_buffer("time_basis", torch.from_numpy(basis).float(), persistent=False)
        self.register_buffer("log_width", torch.from_numpy(np.log(np.diff(times))).float(), persistent=False)
        self.register_buffer("usable", torch.from_numpy(self.design.usable).float(), persistent=False)
        self.register_buffer("coupled", _others(outcomes), persistent=False)
        self.level = nn.Parameter(torch.full((outcomes,), math.log(START_RATE_PER_YEAR)))
        self.slopes = nn.Parameter(torch.zeros(outcomes, basis.shape[1] + 1))
        self.weights = nn.Parameter(torch.zeros(outcomes, columns))
        self.couplings = nn.Parameter(torch.zeros(outcomes, outcomes - 1))
        if self.covariate_count:
            self.effects = nn.Parameter(torch.zeros(outcomes, self.covariate_count))

    @staticmethod
    def make_design(programme: Programme) -> Design:
        """The columns of the hazards' linear predictor, and which outcome may use which."""
        return design_of(programme)

    @staticmethod
    def time_terms(times_years: Floats) -> Floats:
        """(steps, b) from the grid (steps + 1,): how hazards may change with time; the first also does so by age.

        By default a straight trend over the horizon, and an excess (or deficit) that fades over the first years.
        """
        starts = times_years[:-1]
        return np.stack([(starts - 4.0) / 5.0, np.exp(-starts / 1.5)], axis=1)

    def covariates(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """What the physiology gives the hazards at each step, (B, steps, q); None where there is none."""
        return None

    def target_loss(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """Loss per patient (B,) of the targets beside the outcomes; None where there are none."""
        return None

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Loss per patient (B,): minus the log-likelihood of the steps at risk, from `tensors`, and of the targets."""
        eta = self.log_hazard(batch["columns"], batch["age"], batch["diseases"], self.covariates(batch))
        hazard = torch.exp(eta)
        occurred = torch.log(-torch.expm1(-hazard))
        loss = -(batch["event"] * occurred - batch["exposure"] * hazard).sum(dim=(-1, -2))
        targets = self.target_loss(batch)
        return loss if targets is None else loss + targets

    def log_hazard(
        self, columns: Tensor, age: Tensor, diseases: Tensor, covariates: Tensor | None = None
    ) -> Tensor:
        """log λ (B, k, steps) from columns (B, p), scaled age (B,), diseases (B, steps, m) in 0/1, covariates (B, steps, q)."""
        who = self.level + columns @ (self.weights * self.usable).T
        when = self.time_basis @ self.slopes[:, :-1].T  # (steps, k)
        ageing = age[:, None, None] * self.time_basis[:, :1] * self.slopes[:, -1]  # (B, steps, k)
        state = diseases @ (self.couplings * self.coupled).T
        eta = who[:, None, :] + when + ageing + state + self.log_width[:, None]
        if covariates is not None:
            eta = eta + covariates @ self.effects.T
        return eta.clamp(LOWEST_LOG_HAZARD, HIGHEST_LOG_HAZARD).transpose(1, 2)

    def tensors(self, dataset: Dataset) -> dict[str, Tensor]:
        """Dense float32 tensors of a data set, one row per patient, for `forward`.

        columns (n, p); age (n,); diseases (n, steps, m), state at the start of each step; event (n, k, steps) 0/1;
        exposure (n, k, steps), the part of each step survived at risk without the event (0 in its step).
        Follow-up past the horizon is censored there.
        """
        times = np.array(self.programme.times_years)
        starts, ends = times[:-1], times[1:]
        time = dataset.time_years.astype(np.float64)[:, :, None]
        prevalent = dataset.event[:, :, None] == PREVALENT
        # An event at exactly the end of a step belongs to that step: "by k years" includes k. Times are whole days over
        # 365.25 in float32, so a day of the grid must not fall behind its own end.
        reached = np.float64(1e-6)
        within = (time > starts + reached) & (time <= ends + reached) | (time <= reached) & (starts == 0)
        event = (dataset.event[:, :, None] == OCCURRED) & within
        exposure = np.clip((time - starts) / (ends - starts), 0, 1) * ~event * ~prevalent
        before = prevalent | (dataset.event[:, :, None] == OCCURRED) & (time <= starts + reached)
        diseases = before[:, 1:, :].transpose(0, 2, 1)
        arrays = {**self.inputs(dataset.values), "diseases": diseases, "event": event, "exposure": exposure}
        return {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}

    def inputs(
        self, values: NDArray[np.floating], plan: TreatmentPlan = NOTHING_CHANGED
    ) -> dict[str, NDArray[np.float32]]:
        """What is known of patients at the index date, and what is planned: columns (n, p), age (n,), and a twin's own.

        `values` are raw (n, d); the plan's treatments that are columns of them are set already.
        """
        return {"columns": self.design.columns(values), "age": self.design.age(values)}

    def hazards_in_state(
        self, values: NDArray[np.floating], state: int, plan: TreatmentPlan = NOTHING_CHANGED
    ) -> Floats:
        """λ (n, k, steps) of patients who are all in one state (bit i: disease i + 1) in every step."""
        return self.hazards_of(self.inputs(values, plan), [state])[:, 0].astype(np.float64)

    def hazards_by_state(
        self, values: NDArray[np.floating], plan: TreatmentPlan = NOTHING_CHANGED
    ) -> NDArray[np.float32]:
        """λ (n, 2^m, k, steps): `hazards_in_state` of every set of diseases, with one run of the physiology."""
        return self.hazards_of(self.inputs(values, plan), range(1 << (len(self.programme.outcomes) - 1)))

    def hazards_of(
        self, inputs: Mapping[str, NDArray[np.float32]], states: Sequence[int]
    ) -> NDArray[np.float32]:
        """λ (n, states, k, steps) of patients with these `inputs`, who are in one of the states in every step."""
        outcomes, steps = len(self.programme.outcomes), len(self.log_width)
        patients = len(inputs["columns"])
        hazards = np.empty((patients, len(states), outcomes, steps), np.float32)
        bits = torch.tensor([[float(state >> i & 1) for i in range(outcomes - 1)] for state in states])
        with torch.no_grad():
            batch = {name: torch.from_numpy(array) for name, array in inputs.items()}
            covariates = self.covariates(batch)
            # Of few patients all states in one batch: what it costs then is the calls, not the numbers.
            at_once = max(1, _ROWS_AT_ONCE // max(1, patients))
            for first in range(0, len(states), at_once):
                some = bits[first : first + at_once]
                held = some[None, :, None].expand(patients, -1, steps, -1).flatten(0, 1)
                rows = torch.arange(patients).repeat_interleave(len(some))
                eta = self.log_hazard(
                    batch["columns"][rows],
                    batch["age"][rows],
                    held,
                    None if covariates is None else covariates[rows],
                )
                hazards[:, first : first + at_once] = (
                    torch.exp(eta).reshape(patients, len(some), outcomes, steps).numpy()
                )
        return hazards

    def predict(self, values: NDArray[np.floating], *, plan: TreatmentPlan = NOTHING_CHANGED) -> Prediction:
        """See `gemel.twins.course.predict`; with the targets and courses that this twin has."""
        from dataclasses import replace

        from gemel.twins.course import predict

        planned = planned_values(self.programme, values, plan)
        targets, courses = self.expected(planned, plan)
        return replace(predict(self, planned, plan), targets=targets, courses=courses)

    def expected(
        self, values: NDArray[np.floating], plan: TreatmentPlan
    ) -> tuple[Mapping[str, Floats], Mapping[str, ExpectedCourse]]:
        """Targets and courses of a `Prediction`, from values in which the plan's features are set already."""
        return {}, {}

    def simulate(
        self,
        values: NDArray[np.floating],
        *,
        seed: int,
        plan: TreatmentPlan = NOTHING_CHANGED,
        paths: int = 1,
    ) -> SimulatedCourse:
        """See `gemel.twins.course.simulate`."""
        from gemel.twins.course import simulate

        planned = planned_values(self.programme, values, plan)
        return simulate(self, planned, plan, seed=seed, paths=paths)


def _others(outcomes: int) -> Tensor:
    """(k, m) ones, but 0 where the disease is the outcome itself: who has it is not at risk of it."""
    mask = torch.ones(outcomes, outcomes - 1)
    for disease in range(outcomes - 1):
        mask[disease + 1, disease] = 0.0
    return mask
