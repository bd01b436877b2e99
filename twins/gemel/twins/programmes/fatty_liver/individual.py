"""The twin of a patient whose liver was tested again and again: the stage is filtered, and with it the course."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gemel.core.programme import DAYS_PER_YEAR
from gemel.core.series import Series
from gemel.twins.assimilation.hidden_markov import HiddenMarkovFilter
from gemel.twins.assimilation.measurements import measurements_of
from gemel.twins.course import propagate
from gemel.twins.prediction import Floats, Prediction
from gemel.twins.programmes.fatty_liver import fibrosis
from gemel.twins.solvers import planned_inputs
from gemel.twins.treatment_plan import NOTHING_CHANGED, TreatmentPlan, planned_values
from gemel.twins.twin import Individual, Observations

if TYPE_CHECKING:
    from gemel.twins.programmes.fatty_liver.twin import FattyLiverTwin


class FattyLiverIndividual(Individual):
    """n patients with their observations of FIB-4, the NAFLD fibrosis score and stiffness.

    The tests of the record count as observed on the index date. A patient who was tested was alive then: until the last
    test nobody dies.
    """

    def __init__(
        self, twin: FattyLiverTwin, values: NDArray[np.floating], observations: Observations
    ) -> None:
        self._twin, self._values = twin, values
        at_index = twin.tests_at_index(values)
        observed = {
            name: _with_record(name, observations, at_index, persons=len(values))
            for name in {**dict(observations), **at_index}
        }
        self._seen = measurements_of(observed, twin.observables, persons=len(values))
        days = np.where(self._seen.known.numpy(), self._seen.day.numpy(), 0.0)
        self._last_day = days.max(axis=1, initial=0.0)
        self._emissions = fibrosis.emissions()

    def stages(self, days: tuple[float, ...], *, plan: TreatmentPlan = NOTHING_CHANGED) -> Floats:
        """(n, T, 5): the probability of each stage on each of `days`, by all observations."""
        diseased, pace = self._twin.chain_parameters(self._values)
        inputs = fibrosis.in_double(planned_inputs(fibrosis.SeenFibrosis.inputs, plan))
        follow = HiddenMarkovFilter(fibrosis.SeenFibrosis(), self._emissions, days, inputs)
        prior = fibrosis.chain_prior(diseased, pace)
        course = follow.of_persons(prior, prior.same, self._seen).course
        return np.asarray(fibrosis.stages_of(course).numpy(), np.float64)

    def predict(self, *, plan: TreatmentPlan = NOTHING_CHANGED) -> Prediction:
        """See `Individual`."""
        twin = self._twin
        values = planned_values(twin.programme, self._values, plan)
        inputs = twin.inputs_at(values, self.stages(twin.middle_days, plan=plan), plan)
        prevalent = twin.design.prevalent(values)
        hazards = twin.hazards_of(inputs, range(1 << (prevalent.shape[1] - 1)))
        days = np.array(twin.programme.times_years) * DAYS_PER_YEAR
        lived = np.clip((self._last_day[:, None] - days[:-1]) / np.diff(days), 0, 1)
        hazards[:, :, 0] *= 1 - lived[:, None]
        liver = twin.liver_courses(self.stages(tuple(days.tolist()), plan=plan), plan)
        targets, courses = twin.expected(values, plan)
        prediction = propagate(twin.programme, prevalent, hazards)
        return replace(prediction, targets=targets, courses={**courses, **liver})

    @property
    def parameters(self) -> Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """The stage, as a number from 0 to 4, on the day of the patient's last observation."""
        days, place = np.unique(self._last_day, return_inverse=True)
        stages = self.stages(tuple(days.tolist()))[np.arange(len(place)), place]
        number = np.arange(len(fibrosis.STAGES))
        mean = stages @ number
        return {"fibrosis_stage": (mean, np.sqrt(np.maximum(stages @ number**2 - mean**2, 0.0)))}


def _with_record(
    name: str, observations: Observations, at_index: Mapping[str, Floats], *, persons: int
) -> Series:
    """A test's observations, with the record's on day 0 for who has one there and no observation on that day."""
    given = observations.get(name)
    empty = np.zeros(0)
    days, values = (given.days, given.values) if given is not None else (empty, empty)
    owner = np.repeat(np.arange(persons), given.lengths) if given is not None else empty.astype(np.int64)
    known = np.isfinite(at_index.get(name, np.full(persons, np.nan)))
    known[owner[days == 0]] = False
    who = np.flatnonzero(known)
    owner, days = np.concatenate([owner, who]), np.concatenate([days, np.zeros(len(who))])
    values = np.concatenate([values, at_index[name][who] if len(who) else empty])
    order = np.lexsort((values, days, owner))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=persons))]).astype(np.int64)
    return Series(offsets, days[order].astype(np.float32), values[order].astype(np.float32))
