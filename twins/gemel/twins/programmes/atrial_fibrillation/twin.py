"""The twin of atrial fibrillation: it starts at published rates, and learns from hospitals how theirs differ.

Stroke: the hazard is the published rate at the person's CHA2DS2-VASc to a learned power, times a learned level and course over
time, times the ratio at the person's propensity to form clots (`rhythm`), times the effect of anticoagulation in randomised trials
(`effects`). The last two are not learned: data sets of hospitals hold neither burden nor randomised treatment. Death: competing,
learned from all features. Major bleeding: published only (HAS-BLED on warfarin, and the trials' ratios), with death competing.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gemel.core.programme import DAYS_PER_YEAR, Programme
from gemel.twins.assimilation import measurements_of
from gemel.twins.course import predict
from gemel.twins.hazard import HIGHEST_LOG_HAZARD, LOWEST_LOG_HAZARD, HazardTwin
from gemel.twins.known_events import KnownEvents, known_events, parted
from gemel.twins.prediction import ExpectedCourse, Floats, Prediction, SimulatedCourse
from gemel.twins.programmes.atrial_fibrillation import rhythm
from gemel.twins.programmes.atrial_fibrillation.effects import (
    DIRECT_OVER_WARFARIN_BLEEDING,
    DIRECT_OVER_WARFARIN_STROKE,
    NOTHING_OVER_WARFARIN_BLEEDING,
    WARFARIN_STROKE,
)
from gemel.twins.programmes.atrial_fibrillation.published_scores import (
    CHA2DS2_VASC,
    FRIBERG_2012,
    HAS_BLED,
    PISTERS_2010,
    rate_of,
)
from gemel.twins.programmes.atrial_fibrillation.watching import log_likelihood
from gemel.twins.solvers import planned_inputs, solve_ode
from gemel.twins.treatment_plan import NOTHING_CHANGED, TreatmentPlan, planned_values
from gemel.twins.twin import Individual, Observations

# Deaths in the first year of 90,693 people with newly diagnosed atrial fibrillation: 12.0 %. Dalgaard F et al., BMJ Open 2020.
START_DEATHS_PER_YEAR = 0.128
# Strokes per year around which the published rates are told: for gradients of about one size, since it cancels.
_MIDDLE_RATE = 0.03
_DRUGS = ("warfarin", "direct_anticoagulant")
_STROKE = 1
_BURDENS = 41


class AtrialFibrillationTwin(HazardTwin):
    """See the module. Beside those of a hazard twin it has the parameter effects (k, 1): powers of the published rate."""

    covariate_count = 1
    observables: Mapping[str, str] = {
        "rhythm": "1",
        "atrial_fibrillation_burden": "1",
        "death": "1",
        "stroke": "1",
    }
    # Of the patients at hand, what their rhythm showed: set on the copy that `assimilate` makes.
    known: Floats | None = None

    def __init__(self, programme: Programme) -> None:
        super().__init__(programme)
        # What a drug does comes from trials: who gets it in a hospital differs from who does not.
        self.usable[:, [name in _DRUGS for name in self.design.names]] = 0.0
        # Strokes are few. Who is at risk of one is published; hospitals teach the level, its course, and the score's power.
        self.usable[_STROKE] = 0.0
        with torch.no_grad():
            self.level.copy_(torch.tensor([np.log(START_DEATHS_PER_YEAR), np.log(_MIDDLE_RATE)]))
            self.effects.copy_(torch.tensor([[0.0], [1.0]]))

    @staticmethod
    def time_terms(times_years: Floats) -> Floats:
        """(steps, 2): a straight trend over two years, and an excess that fades over the first months."""
        starts = times_years[:-1]
        return np.stack([starts - 1.0, np.exp(-starts / 0.25)], axis=1)

    def inputs(
        self, values: NDArray[np.floating], plan: TreatmentPlan = NOTHING_CHANGED
    ) -> dict[str, NDArray[np.float32]]:
        """Beside the columns: the log of the published rate (n,), and of what clots and drugs make of it (n, steps)."""
        score = CHA2DS2_VASC.formula(self._known(values))
        published = np.log(rate_of(FRIBERG_2012, score) / _MIDDLE_RATE)
        factor = self._clots(len(values), plan) + self._drugs(values)[:, None]
        arrays = {"published": published, "factor": factor}
        return super().inputs(values, plan) | {k: v.astype(np.float32) for k, v in arrays.items()}

    def covariates(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(B, steps, 2): the published log rate, whose power is learned, and the factor, whose power is 1."""
        factor = batch["factor"]
        return torch.stack([batch["published"][:, None].expand_as(factor), factor], dim=-1)

    def log_hazard(
        self, columns: Tensor, age: Tensor, diseases: Tensor, covariates: Tensor | None = None
    ) -> Tensor:
        """As a hazard twin's; the factor moves the hazard of stroke alone."""
        if covariates is None:
            raise ValueError("this twin's hazards need its covariates")
        eta = super().log_hazard(columns, age, diseases, covariates[..., :1])
        moved = (eta[:, _STROKE] + covariates[..., 1]).clamp(LOWEST_LOG_HAZARD, HIGHEST_LOG_HAZARD)
        return torch.stack([eta[:, 0], moved], dim=1)

    def expected(
        self, values: NDArray[np.floating], plan: TreatmentPlan
    ) -> tuple[Mapping[str, Floats], Mapping[str, ExpectedCourse]]:
        """The risk of a major bleeding within a year, and the courses of burden and clots of people like these."""
        days = [year * DAYS_PER_YEAR for year in self.programme.times_years]
        clots, burden = self.clot_courses(days, plan)
        weight = self.burden_weights(len(values))
        courses = {
            "clot_propensity": _over_burdens("1", clots, weight),
            "atrial_fibrillation_burden": _over_burdens("1", burden, weight),
        }
        return {"major_bleeding_1y": self._bleeding(values)}, courses

    def simulate(
        self,
        values: NDArray[np.floating],
        *,
        seed: int,
        plan: TreatmentPlan = NOTHING_CHANGED,
        paths: int = 1,
    ) -> SimulatedCourse:
        """As a hazard twin's, with a major bleeding within the year or none: its draw knows nothing of the other events."""
        course = super().simulate(values, seed=seed, plan=plan, paths=paths)
        risk = np.repeat(self._bleeding(planned_values(self.programme, values, plan)), paths)
        bleeds = np.random.default_rng([seed, 1]).random(len(risk)) < risk
        return replace(course, targets={"major_bleeding_1y": bleeds.astype(np.float32)})

    def assimilate(self, values: NDArray[np.floating], observations: Observations) -> KnownRhythm:
        """Burdens by what was seen of the rhythm: exact, over a grid of burdens; and events that are known. Raises GEM604."""
        events, watched = parted(self.programme, observations)
        known = known_events(self.programme, events, persons=len(values))
        measurements = measurements_of(watched, self.observables, persons=len(values))
        likelihood = log_likelihood(measurements, rhythm.burdens(_BURDENS)[0])
        weight = self.burden_weights(len(values)) * np.exp(likelihood - likelihood.max(axis=1, keepdims=True))
        knowing = copy.copy(self)
        knowing.known = weight / weight.sum(axis=1, keepdims=True)
        return KnownRhythm(knowing, np.asarray(values), known)

    def burden_weights(self, patients: int) -> Floats:
        """How likely each burden of `burdens` is, (patients, burdens): by default as in paroxysmal atrial fibrillation."""
        if self.known is not None:
            return self.known
        return np.broadcast_to(rhythm.burdens(_BURDENS)[1], (patients, _BURDENS))

    def clot_courses(self, days: list[float], plan: TreatmentPlan) -> tuple[Floats, Floats]:
        """Propensity to form clots, and burden, on `days`, of each burden of `burdens`: (burdens, days) each."""
        clots, burden = _clot_courses(tuple(days), plan)
        return clots.copy(), burden.copy()

    def _clots(self, patients: int, plan: TreatmentPlan) -> Floats:
        """The log of what clots make of the hazard of stroke, (patients, steps), at the middle of each step."""
        times = np.array(self.programme.times_years) * DAYS_PER_YEAR
        days = [0.0, *((times[1:] + times[:-1]) / 2)]
        ratio = rhythm.stroke_ratio(torch.from_numpy(self.clot_courses(days, plan)[0])).numpy()
        return np.asarray(np.log(self.burden_weights(patients) @ ratio[:, 1:]))

    def _drugs(self, values: NDArray[np.floating]) -> Floats:
        """The log of what anticoagulation makes of the hazard of stroke (n,); of two drugs the direct one counts."""
        given = self._known(values)
        direct = np.log(WARFARIN_STROKE.value * DIRECT_OVER_WARFARIN_STROKE.value)
        warfarin = np.where(given["warfarin"] > 0.5, np.log(WARFARIN_STROKE.value), 0.0)
        return np.where(given["direct_anticoagulant"] > 0.5, direct, warfarin)

    def _bleeding(self, values: NDArray[np.floating]) -> Floats:
        """The published risk of a major bleeding within a year (n,), with death competing at the same rate all year."""
        given = self._known(values)
        on_warfarin = rate_of(PISTERS_2010, HAS_BLED.formula(given))
        ratio = np.where(given["warfarin"] > 0.5, 1.0, NOTHING_OVER_WARFARIN_BLEEDING.value)
        ratio = np.where(given["direct_anticoagulant"] > 0.5, DIRECT_OVER_WARFARIN_BLEEDING.value, ratio)
        bleeding = on_warfarin * ratio
        year = self.programme.step_at(365)
        death = self.hazards_in_state(values, 0)[:, 0, :year].sum(axis=1)
        both = bleeding + death
        return np.asarray(bleeding / both * -np.expm1(-both))

    def _known(self, values: NDArray[np.floating]) -> dict[str, Floats]:
        """Columns by name; a missing age is the public mean, anything else missing counts as absent."""
        columns = {
            name: values[:, i].astype(np.float64) for i, name in enumerate(self.programme.feature_names)
        }
        age = self.programme.columns[self.programme.feature_names.index("age_years")]
        return {
            name: np.where(np.isnan(column), age.reference_mean if name == age.name else 0.0, column)
            for name, column in columns.items()
        }


class KnownRhythm(Individual):
    """The twin of patients who were watched."""

    def __init__(
        self, twin: AtrialFibrillationTwin, values: NDArray[np.floating], known: KnownEvents
    ) -> None:
        self._twin, self._values, self._known = twin, values, known

    def predict(self, *, plan: TreatmentPlan = NOTHING_CHANGED) -> Prediction:
        """What is expected at the burdens that fit what was seen."""
        usual = self._twin.predict(self._values, plan=plan)
        planned = planned_values(self._twin.programme, self._values, plan)
        conditioned = predict(self._twin, planned, plan, known=self._known)
        return replace(conditioned, targets=usual.targets, courses=usual.courses)

    @property
    def parameters(self) -> Mapping[str, tuple[Floats, Floats]]:
        """The burden: mean and standard deviation, (n,) each."""
        weight = self._twin.burden_weights(len(self._values))
        burden = rhythm.burdens(_BURDENS)[0]
        mean = weight @ burden
        return {"burden": (mean, np.sqrt(np.maximum(weight @ burden**2 - mean**2, 0.0)))}


@lru_cache(maxsize=64)
def _clot_courses(days: tuple[float, ...], plan: TreatmentPlan) -> tuple[Floats, Floats]:
    """The same for everybody: what a plan does to each burden. Kept, since one question asks for it several times."""
    burden = torch.from_numpy(rhythm.burdens(_BURDENS)[0])
    theta = {"burden": burden} | {
        p.name: torch.full_like(burden, p.value) for p in (rhythm.HALF_BURDEN, rhythm.CLOT_DAYS)
    }
    inputs = planned_inputs(("rhythm_control",), plan)
    states = solve_ode(rhythm.ClotPropensity(), theta, days, inputs=inputs)
    left = np.array([1 - plan.amount("rhythm_control", day) for day in days])
    return states[:, :, 0].numpy().astype(np.float64), burden.numpy()[:, None] * left


def _over_burdens(unit: str, courses: Floats, weight: Floats) -> ExpectedCourse:
    """Mean and spread (n, T) of courses (burdens, T) that are as likely as `weight` (n, burdens) says."""
    mean = weight @ courses
    square = weight @ courses**2
    return ExpectedCourse(unit, mean, np.sqrt(np.maximum(square - mean**2, 0.0)))
