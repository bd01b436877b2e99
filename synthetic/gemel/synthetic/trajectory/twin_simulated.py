"""Tier 1: the programme's twin, simulated forward from virtual baselines. Dynamics, events and treatments are the twin's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemel.core.dataset import OCCURRED
from gemel.core.errors import GemelError
from gemel.core.mechanism import Mechanism
from gemel.core.programme import DAYS_PER_YEAR, Programme
from gemel.privacy.accounting import epsilon, merged
from gemel.synthetic.provenance import PrivacyStatement
from gemel.synthetic.trajectory.model import Randomness, Trajectories, generator, possible
from gemel.synthetic.trajectory.policy import Policy
from gemel.twins.installed import make_twin
from gemel.twins.prediction import SimulatedCourse
from gemel.twins.treatment_plan import planned_values
from gemel.twins.twin import Twin


@dataclass(frozen=True)
class TwinSimulated:
    """A twin as a model of trajectories.

    Attributes:
        trained: What training the twin cost its patients; None for a twin of publications alone.
        visit_days: The visits that virtual patients make; each is recorded as the programme's grid has it.
    """

    twin: Twin
    visit_days: tuple[int, ...]
    trained: PrivacyStatement | None = None

    def trajectory(
        self, baseline: NDArray[np.generic], horizon_days: int, policy: Policy, rng: Randomness
    ) -> Trajectories:
        """Simulate raw values (n, d). A patient's luck is the same under every plan: two policies under one seed are pairs.

        Events after the horizon are not seen. Raises GEM603 for plans that do not fit the programme.
        """
        programme = self.twin.programme
        random = generator(rng)
        seed = int(random.integers(2**31))
        values = np.asarray(baseline, np.float32)
        assigned = policy.assign(values, random)
        # Everybody under every plan: a row's luck is then the one it has in any other policy.
        courses = [
            self.twin.simulate(planned_values(programme, values, plan), seed=seed, plan=plan)
            for plan in policy.plans
        ]
        time_years, event = _until(
            _chosen(assigned, [c.time_years for c in courses]),
            _chosen(assigned, [c.event for c in courses]),
            horizon_days,
        )
        rows, days, steps = _schedule(programme, self.visit_days, horizon_days, len(values))
        found = {
            name: _chosen(assigned, [c.courses[name] for c in courses])[rows, steps].astype(np.float64)
            for name in courses[0].courses
        }
        found |= _targets_on_their_day(programme, assigned, courses, rows, days)
        targets = {name: _chosen(assigned, [c.targets[name] for c in courses]) for name in courses[0].targets}
        drawn = Trajectories(
            len(values), rows, days, found, assigned, programme.outcome_names, time_years, event, targets
        )
        return possible(drawn)

    def statement(self) -> PrivacyStatement | None:
        """What the twin cost. Raises GEM702 where it learnt from patients and nobody says under which guarantee."""
        if self.trained is not None:
            return checked(self.trained)
        start = make_twin(self.twin.programme).to_arrays()
        same = all(np.array_equal(start[name], array) for name, array in self.twin.to_arrays().items())
        if not same:
            raise GemelError(
                "GEM702",
                "The twin is not the one of the publications, and carries no statement of the training that changed it: "
                "what it simulates is not differentially private.",
            )
        return None


def whole_statement(
    parts: Sequence[PrivacyStatement | None], *, delta: float | None = None
) -> PrivacyStatement | None:
    """The statement of several sources of the same patients together, at `delta` (by default the largest of theirs).

    Sources of publications alone (None) cost nothing. Raises GEM702 as `TwinSimulated.statement` does.
    """
    stated = [checked(part) for part in parts if part is not None]
    if not stated:
        return None
    mechanisms: list[Mechanism] = [m for part in stated for m in part.mechanisms]
    at = max(part.delta for part in stated) if delta is None else delta
    return PrivacyStatement(
        epsilon=epsilon(mechanisms, delta=at),
        delta=at,
        mechanisms=merged(mechanisms),
        unit="patient",
        neighbouring="add or remove one patient",
        noise="secure" if all(part.noise == "secure" for part in stated) else "test",
    )


def checked(statement: PrivacyStatement) -> PrivacyStatement:
    """The statement, if it holds by the accountant. Raises GEM702 for one that bounds nothing, or claims less than was spent."""
    bounds = np.isfinite(statement.epsilon) and 0 < statement.delta < 1 and statement.mechanisms
    noised = all(m.noise_multiplier > 0 for m in statement.mechanisms)
    if not (bounds and noised):
        raise GemelError("GEM702", "The privacy statement of the model does not bound anything.")
    if statement.epsilon < epsilon(statement.mechanisms, delta=statement.delta) - 1e-5:
        raise GemelError("GEM702", "The privacy statement of the model claims less than its mechanisms cost.")
    return statement


def _chosen(assigned: NDArray[np.int64], each: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Each patient's row from the array of the plan that was chosen."""
    return np.stack(each)[assigned, np.arange(len(assigned))]


def _until(
    time_years: NDArray[np.float32], event: NDArray[np.int8], horizon_days: int
) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """What is seen of events by the horizon."""
    end = np.float32(horizon_days / DAYS_PER_YEAR)
    late = time_years > end
    seen = np.where(late & (event == OCCURRED), np.int8(0), event)
    return np.minimum(time_years, end), seen


def _schedule(
    programme: Programme, visit_days: Sequence[int], horizon_days: int, patients: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows, days and grid steps of all visits, patient by patient. Raises GEM705 for days that do not run forward."""
    days = np.array([day for day in visit_days if day <= horizon_days], np.int64)
    if len(days) and (days[0] < 0 or np.any(np.diff(days) <= 0)):
        raise GemelError("GEM705", "The days of the visits do not run forward from the index date.")
    grid = np.asarray(programme.times_years) * DAYS_PER_YEAR
    # What is recorded is what the grid has last: nothing of after the visit.
    steps = np.searchsorted(grid, days + 0.5, side="right") - 1
    rows = np.repeat(np.arange(patients), len(days))
    return rows, np.tile(days, patients), np.tile(steps, patients)


def _targets_on_their_day(
    programme: Programme,
    assigned: NDArray[np.int64],
    courses: Sequence[SimulatedCourse],
    rows: NDArray[np.int64],
    days: NDArray[np.int64],
) -> dict[str, NDArray[np.float64]]:
    """Of each target that the twin simulates and no course is named after: its value at the visit on its day."""
    found = {}
    for target in programme.targets:
        if target.name in courses[0].targets and target.name not in courses[0].courses:
            value = _chosen(assigned, [c.targets[target.name] for c in courses])[rows].astype(np.float64)
            found[target.name] = np.where(days == (target.at_days or 0), value, np.nan)
    return found
