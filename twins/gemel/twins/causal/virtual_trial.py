"""A trial of virtual patients: the same people under both plans, with the same luck. It shows what the twin says, no new fact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemel.core.dataset import Dataset
from gemel.twins.causal.estimand import Estimand
from gemel.twins.causal.paired_course import observed
from gemel.twins.causal.population_effect import PopulationEffect, population_effect
from gemel.twins.causal.precision import Parameters
from gemel.twins.causal.support import SupportEvidence
from gemel.twins.prediction import SimulatedCourse
from gemel.twins.reference_cohort import sample_cohort
from gemel.twins.treatment_plan import TreatmentPlan
from gemel.twins.twin import Twin

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class VirtualTrial:
    """Two arms of the same virtual people, and the difference that their simulated courses show.

    Attributes:
        expected: The effect that the twin's risks say, with its interval; its `refusal` is the trial's.
        arm, other_arm: The courses under the plan and under the other; of nobody when refused.
        difference: Mean of the people's differences (risk or value), under the plan minus under the other.
        paired_error: Its standard error, each person being their own control.
        parallel_error: What it would be with different people in the two arms: what a real trial of this size can see.
    """

    expected: PopulationEffect
    arm: Dataset
    other_arm: Dataset
    difference: float
    paired_error: float
    parallel_error: float


def virtual_trial(
    twin: Twin,
    values: NDArray[np.floating],
    estimand: Estimand,
    *,
    seed: int,
    parameters: Sequence[Parameters] = (),
    evidence: SupportEvidence | None = None,
) -> VirtualTrial:
    """Put virtual people, raw values (n, d), under both plans of an estimand; equal seeds give equal trials.

    `parameters` and `evidence` as in `population_effect`, which decides who is in it. Raises GEM603 for a plan that does not fit.
    """
    expected = population_effect(twin, values, estimand, parameters=parameters, evidence=evidence)
    people = np.asarray(values)[expected.included if expected.refusal is None else slice(0)]

    def arm(plan: TreatmentPlan) -> Dataset:
        return sample_cohort(twin, people, seed=seed, plan=plan)

    here, there = arm(estimand.plan), arm(estimand.other_plan)
    seen_here, seen_there = (_observed(one, estimand) for one in (here, there))
    both = np.isfinite(seen_here) & np.isfinite(seen_there)
    if both.sum() < 2:
        return VirtualTrial(expected, here, there, math.nan, math.nan, math.nan)
    each = seen_here[both] - seen_there[both]
    parallel = math.hypot(_error(seen_here[both]), _error(seen_there[both]))
    return VirtualTrial(expected, here, there, float(each.mean()), _error(each), parallel)


def _observed(arm: Dataset, estimand: Estimand) -> Floats:
    targets = dict(zip(arm.target_names, arm.targets.T, strict=True))
    course = SimulatedCourse(arm.time_years, arm.event, targets)
    return observed(estimand.programme, estimand.endpoint, estimand.horizon_days, course)


def _error(values: Floats) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values)))
