"""The twin of a patient whose liver was tested again and again: the stage is filtered, and with it the course."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gemel.core.errors import GemelError
from gemel.core.programme import DAYS_PER_YEAR
from gemel.core.series import Series
from gemel.twins.assimilation.hidden_markov import HiddenMarkovFilter
from gemel.twins.assimilation.measurements import measurements_of
from gemel.twins.course import propagate
from gemel.twins.known_events import known_events, parted
from gemel.twins.prediction import Floats, Prediction
from gemel.twins.programmes.fatty_liver import fibrosis
from gemel.twins.solvers import planned_inputs
from gemel.twins.treatment_plan import NOTHING_CHANGED, TreatmentPlan, planned_values
from gemel.twins.twin import Individual, Observations

if TYPE_CHECKING:
    from gemel.twins.programmes.fatty_liver.twin import FattyLiverTwin


class FattyLiverIndividual(Individual):
    """n patients with their observations of FIB-4, the NAFLD fibrosis score and stiffness, and of what came of them.

    The tests of the record count as observed on the index date. A patient who was tested was alive then: until the last
    test nobody dies. Raises GEM604 for a test after a death.
    """

    def __init__(
        self, twin: FattyLiverTwin, values: NDArray[np.floating], observations: Observations
    ) -> None:
        self._twin, self._values = twin, values
        persons, at_index = len(values), twin.tests_at_index(values)
        events, tests = parted(twin.programme, observations)
        observed = {
            name: _with_record(name, tests, at_index, persons=persons) for name in {**tests, **at_index}
        }
        self._seen = measurements_of(observed, fibrosis.TESTS, persons=persons)
        days = np.where(self._seen.known.numpy(), self._seen.day.numpy(), 0.0)
        self._last_day = days.max(axis=1, initial=0.0)
        self._known = known_events(twin.programme, events, persons=persons)
        if (self._last_day / DAYS_PER_YEAR > self._known.onset_years[:, 0]).any():
            raise GemelError("GEM604", "The liver of a patient was tested after the death.")
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
        times = twin.programme.times_years
        for step, (start, end) in enumerate(pairwise(times)):
            # Alive until the last test: what `known` leaves open of a step, and no more than what is left after the test.
            left = np.clip((end - self._last_day / DAYS_PER_YEAR) / (end - start), 0, 1)
            open_share = np.maximum(self._known.open_share(start, end)[:, 0], 1e-9)
            hazards[:, :, 0, step] *= np.minimum(left / open_share, 1)[:, None]
        days = np.array(times) * DAYS_PER_YEAR
        liver = twin.liver_courses(self.stages(tuple(days.tolist()), plan=plan), plan)
        targets, courses = twin.expected(values, plan)
        prediction = propagate(twin.programme, prevalent, hazards, known=self._known)
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
