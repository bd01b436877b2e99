"""The fatty-liver twin: competing hazards of death and five diseases, with a liver and a circulation behind them.

What is known of a patient (diabetes, FIB-4, stiffness, pressure, age) gives the physiology's parameters and where it starts;
the chain of fibrosis stages and the circulation then move, under a plan where there is one; they and the plan's drugs enter
the hazards with published ratios. All else that the hazards depend on is learned from patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gemel.core.dataset import OCCURRED
from gemel.core.programme import DAYS_PER_YEAR, Programme
from gemel.twins.course import propagate
from gemel.twins.design import Design, design_of
from gemel.twins.hazard import HazardTwin
from gemel.twins.many_paths import chain_courses
from gemel.twins.prediction import ExpectedCourse, Floats, Prediction, SimulatedCourse
from gemel.twins.programmes.fatty_liver import OUTCOMES, circulation, effects, fibrosis
from gemel.twins.programmes.fatty_liver.published_scores import FIB_4, NFS
from gemel.twins.solvers import planned_inputs, solve_chain, solve_ode
from gemel.twins.treatment_plan import NOTHING_CHANGED, TreatmentPlan, planned_values
from gemel.twins.twin import Individual, Observations

# Read by the scores and the chain alone.
LIVER_TESTS = frozenset(
    {
        "aspartate_aminotransferase_u_l",
        "alanine_aminotransferase_u_l",
        "platelets_10e9_l",
        "albumin_g_dl",
        "liver_stiffness_kpa",
    }
)
EXPOSURE_SCALE = 2.0
# By name of what is seen of the circulation: (n, 2 steps + 1), see `FattyLiverTwin.circulation_course`.
Seen = Mapping[str, Floats]
# No data set of this programme has a height, and what a kilogram does to pressure needs a weight.
_ADULT_HEIGHT_M = 1.70


class FattyLiverDesign(Design):
    """The usual columns, with fatty liver itself at twice its size: a fixed preconditioner.

    What the programme asks is how fatty liver changes the hazards, and it moves together with weight, sugar, lipids and
    pressure. Few noisy steps from 0 leave a column among so many short of where it belongs.
    """

    def columns(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """See `Design`."""
        columns = super().columns(values)
        columns[:, self.names.index("fatty_liver")] *= EXPOSURE_SCALE
        return columns


class FattyLiverTwin(HazardTwin):
    """See the module. The hazards' logarithms get one number more for each outcome and step: `offsets`."""

    # Tests of the liver; and 1 on the day on which an outcome came, 0 on one by which it had not.
    observables: Mapping[str, str] = {
        "fib_4": "1",
        "nafld_fibrosis_score": "1",
        "liver_stiffness": "kPa",
        **dict.fromkeys((outcome.name for outcome in OUTCOMES), "1"),
    }

    def __init__(self, programme: Programme) -> None:
        super().__init__(programme)
        self.chain, self.circulation = fibrosis.FibrosisChain(), circulation.Circulation()
        # The published ratios are taken as they are: nothing of them is trained.
        self.register_buffer("effects", torch.eye(len(programme.outcomes)), persistent=False)

    @staticmethod
    def make_design(programme: Programme) -> Design:
        """See `HazardTwin`."""
        plain = design_of(programme, apart=LIVER_TESTS)
        return FattyLiverDesign(**{part.name: getattr(plain, part.name) for part in fields(plain)})

    @property
    def middle_days(self) -> tuple[float, ...]:
        """The middle of each step of the grid, days since the index date."""
        times = np.array(self.programme.times_years) * DAYS_PER_YEAR
        return tuple(((times[:-1] + times[1:]) / 2).tolist())

    def inputs(
        self, values: NDArray[np.floating], plan: TreatmentPlan = NOTHING_CHANGED
    ) -> dict[str, NDArray[np.float32]]:
        """See `HazardTwin`; and offsets (n, steps, k)."""
        return self.inputs_at(values, self.stage_course(values, self.middle_days, plan), plan)

    def inputs_at(
        self, values: NDArray[np.floating], stages: Floats, plan: TreatmentPlan, seen: Seen | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """`inputs`, of patients whose stages are (n, steps, 5) in the middle of each step; `seen` as in `offsets`."""
        return {**super().inputs(values, plan), "offsets": self.offsets(values, stages, plan, seen)}

    def covariates(self, batch: Mapping[str, Tensor]) -> Tensor:
        """See `HazardTwin`: one for each outcome, each with effect 1 on its own."""
        return batch["offsets"]

    def column(self, values: NDArray[np.floating], name: str) -> Floats:
        """The raw values (n,) of a feature, within its public bounds; NaN where missing."""
        place = self.programme.feature_names.index(name)
        feature = self.programme.columns[place]
        return np.clip(values[:, place].astype(np.float64), feature.low, feature.high)

    def stages_at_index(self, values: NDArray[np.floating]) -> Floats:
        """(n, 5): the probability of each stage at the index date, from the liver tests that are known."""
        return fibrosis.stage_at_index(self.tests_at_index(values), self.column(values, "fatty_liver") > 0.5)

    def tests_at_index(self, values: NDArray[np.floating]) -> dict[str, Floats]:
        """By observable (n,): the record's tests, NaN where not known.

        Both blood scores come from one sample: where FIB-4 is known the NAFLD fibrosis score is left out.
        """
        bounded = np.stack([self.column(values, name) for name in self.programme.feature_names], axis=1)
        score = FIB_4(bounded, self.programme)
        other = np.where(np.isfinite(score), np.nan, NFS(bounded, self.programme))
        stiffness = self.column(values, "liver_stiffness_kpa")
        return {"fib_4": score, "nafld_fibrosis_score": other, "liver_stiffness": stiffness}

    def stage_course(
        self,
        values: NDArray[np.floating],
        days: Sequence[float],
        plan: TreatmentPlan = NOTHING_CHANGED,
    ) -> Floats:
        """(n, T, 5): the probability of each stage on each of `days`, increasing and after the index date."""
        start = torch.from_numpy(self.stages_at_index(values))
        course = torch.zeros(len(values), len(days), len(fibrosis.STAGES), dtype=torch.float64)
        inputs = fibrosis.in_double(planned_inputs(self.chain.inputs, plan))
        # Few different people as far as rates go: one matrix exponential serves all of a kind.
        diseased, pace = self.chain_parameters(values)
        for kind in np.unique(np.stack([diseased, pace], axis=1), axis=0):
            who = torch.from_numpy((diseased == kind[0]) & (pace == kind[1]))
            theta = fibrosis.chain_prior(kind[:1], kind[1:]).same
            moved = solve_chain(self.chain, theta, (0.0, *days), inputs=inputs, start=start[who])
            course[who] = moved[:, 1:]
        return course.numpy()

    def chain_parameters(self, values: NDArray[np.floating]) -> tuple[Floats, Floats]:
        """Whether each patient has fatty liver (1, 0), and at what pace the chain moves: (n,) each."""
        diseased = (self.column(values, "fatty_liver") > 0.5).astype(np.float64)
        diabetes = self.column(values, "diabetes_history") > 0.5
        return diseased, np.where(diabetes, fibrosis.PACE_WITH_DIABETES, fibrosis.PACE_WITHOUT_DIABETES)

    def offsets(
        self, values: NDArray[np.floating], stages: Floats, plan: TreatmentPlan, seen: Seen | None = None
    ) -> NDArray[np.float32]:
        """float32 (n, steps, k) on the hazards' logarithms, from stages (n, steps, 5) in the middle of each step.

        A stage counts against the stages that are believed of a patient of whom no test is known; a pressure against the
        same patient's without the plan. `seen` is the circulation under the plan, where it was solved already.
        """
        names = self.programme.outcome_names
        added = np.zeros((*stages.shape[:2], len(names)))
        usual = fibrosis.STAGE_MIX @ effects.DEATH_BY_STAGE
        diseased = self.column(values, "fatty_liver") > 0.5
        by_stage = np.log(stages @ effects.DEATH_BY_STAGE / usual)
        added[:, :, 0] = np.where(diseased[:, None], by_stage, 0.0)
        days = np.array(self.middle_days)
        for drug, ratios in effects.BY_DRUG.items():
            given = plan.amounts(drug, days)
            for outcome, ratio in ratios.items():
                added[:, :, names.index(outcome)] += np.log(ratio) * given
        if "weight_loss" in plan.treatments:
            before = self.circulation_course(values, NOTHING_CHANGED)["systolic_pressure"]
            seen = seen if seen is not None else self.circulation_course(values, plan)
            lower = (before - seen["systolic_pressure"])[:, 1::2] / 10
            for outcome, ratio in effects.BY_PRESSURE.items():
                added[:, :, names.index(outcome)] += np.log(ratio) * lower
            lost = np.clip((1 - seen["weight"][:, 1::2]) / effects.ITS_WEIGHT_LOSS, 0, 1)
            added[:, :, names.index("diabetes")] += np.log(effects.DIABETES_BY_WEIGHT) * lost
        return added.astype(np.float32)

    def circulation_parameters(self, values: NDArray[np.floating]) -> dict[str, Tensor]:
        """By name (n,): the published or typical person's, with compliance by age, resistance by pressure, weight by BMI."""
        theta = {
            p.name: torch.full((len(values),), p.value, dtype=torch.float64)
            for p in self.circulation.parameters
        }
        age, pressure, bmi = (
            self._or_reference(values, name)
            for name in ("age_years", "systolic_blood_pressure_mmhg", "body_mass_index_kg_m2")
        )
        theta["weight"] = torch.from_numpy(bmi * _ADULT_HEIGHT_M**2)
        stiffer = torch.exp(-theta["stiffening"] * torch.from_numpy(age - 50))
        theta["compliance"] = (theta["compliance"] * stiffer).clamp(
            circulation.COMPLIANCE.low, circulation.COMPLIANCE.high
        )
        theta["resistance"] = circulation.resistance_for(
            torch.from_numpy(pressure), theta["compliance"], theta
        )
        return theta

    def _or_reference(self, values: NDArray[np.floating], name: str) -> Floats:
        feature = self.programme.columns[self.programme.feature_names.index(name)]
        known = self.column(values, name)
        return np.where(np.isnan(known), feature.reference_mean, known)

    def circulation_course(self, values: NDArray[np.floating], plan: TreatmentPlan) -> Seen:
        """(n, 2 steps + 1) by name of what `Circulation.observe` gives: at each time of the grid, and between two in the middle."""
        grid = np.array(self.programme.times_years) * DAYS_PER_YEAR
        days = tuple(sorted((*grid.tolist(), *self.middle_days)))
        theta = self.circulation_parameters(values)
        if "weight_loss" in plan.treatments:
            inputs = fibrosis.in_double(planned_inputs(self.circulation.inputs, plan))
            states = solve_ode(self.circulation, theta, days, inputs=inputs)
        else:
            states = self.circulation.undisturbed(theta, days)
        # One call for all days: each is a person's beat like any other.
        repeated = {name: value.repeat_interleave(len(days)) for name, value in theta.items()}
        seen = self.circulation.observe(states.flatten(0, 1), repeated)
        return {name: course.reshape(len(values), len(days)).numpy() for name, course in seen.items()}

    def predict(self, values: NDArray[np.floating], *, plan: TreatmentPlan = NOTHING_CHANGED) -> Prediction:
        """See `HazardTwin`: the same, with the circulation solved once for hazards and courses."""
        planned = planned_values(self.programme, values, plan)
        seen = self.circulation_course(planned, plan)
        inputs = self.inputs_at(planned, self.stage_course(planned, self.middle_days, plan), plan, seen)
        prevalent = self.design.prevalent(planned)
        hazards = self.hazards_of(inputs, range(1 << (prevalent.shape[1] - 1)))
        return replace(
            propagate(self.programme, prevalent, hazards), courses=self._courses(planned, plan, seen)
        )

    def expected(
        self, values: NDArray[np.floating], plan: TreatmentPlan
    ) -> tuple[Mapping[str, Floats], Mapping[str, ExpectedCourse]]:
        """No targets; the courses of the liver and the circulation."""
        return {}, self._courses(values, plan, self.circulation_course(values, plan))

    def _courses(
        self, values: NDArray[np.floating], plan: TreatmentPlan, seen: Seen
    ) -> dict[str, ExpectedCourse]:
        later = tuple(year * DAYS_PER_YEAR for year in self.programme.times_years[1:])
        stages = np.concatenate(
            [self.stages_at_index(values)[:, None], self.stage_course(values, later, plan)], axis=1
        )
        return {**self.liver_courses(stages, plan), **self._pressure_courses(values, seen)}

    def liver_courses(self, stages: Floats, plan: TreatmentPlan) -> dict[str, ExpectedCourse]:
        """Of the stage, as a number, and of the portal pressure gradient, from stages (n, T, 5) on the grid."""
        days = np.array(self.programme.times_years) * DAYS_PER_YEAR
        lowered = 1 - circulation.BETA_BLOCKER_SHARE * plan.amounts("beta_blocker", days)
        gradient = np.array(circulation.portal_gradients())
        return {
            "fibrosis_stage": _moments(stages, np.arange(len(fibrosis.STAGES), dtype=np.float64), "1"),
            "portal_pressure_gradient": _moments(stages, gradient, "mm[Hg]", lowered),
        }

    def _pressure_courses(self, values: NDArray[np.floating], seen: Seen) -> dict[str, ExpectedCourse]:
        name = "systolic_blood_pressure_mmhg"
        feature = self.programme.columns[self.programme.feature_names.index(name)]
        # Of a pressure that was never measured only the public spread is known; a measured one drifts, and no further than that.
        unknown = np.isnan(self.column(values, name))[:, None]
        drift = circulation.PRESSURE_DRIFT.value * np.sqrt(self.programme.times_years)
        spread = np.where(unknown, feature.scale, np.minimum(drift, feature.scale))
        return {
            pressure: ExpectedCourse("mm[Hg]", seen[pressure][:, ::2], spread)
            for pressure in ("systolic_pressure", "diastolic_pressure")
        }

    def simulate(
        self,
        values: NDArray[np.floating],
        *,
        seed: int,
        plan: TreatmentPlan = NOTHING_CHANGED,
        paths: int = 1,
    ) -> SimulatedCourse:
        """See `Twin`; and the stage of each path on the grid, which its events do not depend on: they see the mean."""
        course = super().simulate(values, seed=seed, plan=plan, paths=paths)
        planned = planned_values(self.programme, values, plan)
        start = torch.from_numpy(self.stages_at_index(planned))
        stages = chain_courses(self._moves(planned, plan), start, seed=seed, paths=paths).astype(np.float32)
        grid = np.array(self.programme.times_years, np.float32)
        died = np.where(course.event[:, :1] == OCCURRED, course.time_years[:, :1], np.inf)
        stages[died <= grid] = np.nan
        return replace(course, courses={"fibrosis_stage": stages})

    def _moves(self, values: NDArray[np.floating], plan: TreatmentPlan) -> Tensor:
        """(n, steps, 5, 5): from each stage to each over a step of the grid, the treatments within it counted."""
        inputs = fibrosis.in_double(planned_inputs(self.chain.inputs, plan))
        days = [years * DAYS_PER_YEAR for years in self.programme.times_years]
        kinds, which = np.unique(np.stack(self.chain_parameters(values), axis=1), axis=0, return_inverse=True)
        moves = []
        for diseased, pace in kinds:
            theta = fibrosis.chain_prior(np.array([diseased]), np.array([pace])).same
            each = torch.eye(len(fibrosis.STAGES), dtype=torch.float64)
            # Steps that are as long, under the same treatments, are one.
            steps: dict[tuple[object, ...], Tensor] = {}
            keys = []
            for begin, end in pairwise(days):
                changes = tuple(start - begin for start in inputs.starts if begin < start < end)
                key = (sum(start <= begin for start in inputs.starts), changes, round(end - begin, 6))
                if key not in steps:
                    steps[key] = solve_chain(self.chain, theta, (begin, end), inputs=inputs, start=each)[:, 1]
                keys.append(key)
            moves.append(torch.stack([steps[key] for key in keys]))
        return torch.stack(moves)[torch.from_numpy(which.reshape(-1))]

    def assimilate(self, values: NDArray[np.floating], observations: Observations) -> Individual:
        """See `gemel.twins.programmes.fatty_liver.individual`."""
        from gemel.twins.programmes.fatty_liver.individual import FattyLiverIndividual

        return FattyLiverIndividual(self, values, observations)


def _moments(stages: Floats, value: Floats, unit: str, factor: Floats | float = 1.0) -> ExpectedCourse:
    mean = stages @ value
    spread = np.sqrt(np.maximum(stages @ value**2 - mean**2, 0.0))
    return ExpectedCourse(unit, mean * factor, spread * factor)
