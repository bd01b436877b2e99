"""A cohort with visits: what `export.write` takes, nobody after their end, and nothing that a target is read from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dropped_programme import dropped_programme
from followed_people import followed_people

from gemel.core.mechanism import noisy_steps
from gemel.core.programme import DAYS_PER_YEAR, Programme
from gemel.privacy.accounting import epsilon as epsilon_of
from gemel.synthetic.cohort import VirtualCohort
from gemel.synthetic.export.records import records_of
from gemel.synthetic.provenance import PrivacyStatement, read_provenance
from gemel.synthetic.trajectory.autoregressive import VisitNetwork
from gemel.synthetic.trajectory.cohort_visits import measured_concept, trajectories_of
from gemel.synthetic.trajectory.network_model import NetworkModel
from gemel.synthetic.trajectory.programme_panel import panel_of
from gemel.synthetic.trajectory.twin_simulated import TwinSimulated
from gemel.twins.installed import make_twin

STEPS = (noisy_steps(20.0, 10, sample_rate=1.0),)
STATEMENT = PrivacyStatement(
    epsilon=epsilon_of(STEPS, delta=1e-5),
    delta=1e-5,
    mechanisms=STEPS,
    unit="patient",
    neighbouring="add or remove one patient",
    noise="secure",
)


@pytest.fixture
def programme(tmp_path: Path) -> Iterator[Programme]:
    with dropped_programme(tmp_path / "programmes") as found:
        yield found


def cohort_of(programme: Programme, provenance: dict[str, Any]) -> VirtualCohort:
    people = followed_people(programme, people=300, seed=4)
    return VirtualCohort(
        programme,
        people.values,
        people.time_years,
        people.event,
        people.targets,
        1,
        read_provenance(provenance),
        300.0,
    )


def test_visits_from_a_panel_stop_with_follow_up_and_leave_the_outcomes_alone(
    programme: Programme, provenance: dict[str, Any]
) -> None:
    cohort = cohort_of(programme, provenance)
    panel = panel_of(programme)
    model = NetworkModel(VisitNetwork(panel, classes=3, hidden=2), np.ones(panel.strata, np.int64), STATEMENT)
    followed, visits = trajectories_of(model, cohort, horizon_days=40, seed=7)
    assert followed is cohort
    assert set(visits.values) == {"systolic_blood_pressure"}
    # Day 30 is left out: blood pressure "at four weeks" is read from days 21 to 35.
    assert set(visits.days.tolist()) == {10, 20, 40}
    end = np.rint(cohort.time_years[:, 0] * DAYS_PER_YEAR)
    assert np.all(visits.days <= end[visits.rows])
    died = cohort.event[:, 0] == 1
    assert np.all(visits.days[died[visits.rows]] < end[visits.rows][died[visits.rows]])
    assert np.isfinite(visits.values["systolic_blood_pressure"]).all()
    said = records_of(cohort, visits).statements
    assert sum(len(s.rows) for s in said if s.name.startswith("visit/")) == len(visits.rows)
    again = trajectories_of(model, cohort, horizon_days=40, seed=7)[1]
    assert np.array_equal(again.days, visits.days)
    other = trajectories_of(model, cohort, horizon_days=40, seed=8)[1]
    assert not np.array_equal(
        other.values["systolic_blood_pressure"], visits.values["systolic_blood_pressure"]
    )


def test_a_twin_gives_its_patients_one_fate(programme: Programme, provenance: dict[str, Any]) -> None:
    cohort = cohort_of(programme, provenance)
    model = TwinSimulated(make_twin(programme), visit_days=(7, 14, 42))
    followed, visits = trajectories_of(model, cohort, horizon_days=42, seed=3)
    records_of(followed, visits)  # GEM740 where somebody is visited after death
    course = model.twin.simulate(
        cohort.values,
        seed=int(np.random.default_rng(np.random.SeedSequence(3, spawn_key=(5,))).integers(2**31)),
    )
    assert np.array_equal(followed.event, course.event)
    assert not np.array_equal(followed.event, cohort.event)
    rankin = programme.target_names.index("rankin")
    assert np.array_equal(followed.targets[:, rankin], course.targets["rankin"], equal_nan=True)


def test_names_in_a_trajectory_are_told_as_concepts(programme: Programme) -> None:
    for name in ("systolic_blood_pressure", "pressures_after", "pressures", "pressure"):
        found = measured_concept(programme, name)
        assert found is not None
        assert found.name == "systolic_blood_pressure"
    assert measured_concept(programme, "diabetes") is None
    assert measured_concept(programme, "unknown") is None
