"""A programme's visits: who is in which stratum and level, and that nobody's history depends on anybody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from dropped_programme import dropped_programme
from followed_people import SERIES, followed_people

from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.programme import DAYS_PER_YEAR, Programme, Stratum, VisitField, VisitPlan
from gemel.core.series import Series
from gemel.synthetic.trajectory.histories import NO_VISIT
from gemel.synthetic.trajectory.programme_panel import histories_of, panel_of, strata_of
from gemel.twins.programmes.fatty_liver import PROGRAMME as FATTY_LIVER


@pytest.fixture
def programme(tmp_path: Path) -> Iterator[Programme]:
    with dropped_programme(tmp_path / "programmes") as found:
        yield found


def three_people(programme: Programme) -> Dataset:
    """Followed for 42, 25 and 8 days."""
    people = followed_people(programme, people=3, seed=1)
    time, values = people.time_years.copy(), people.values.copy()
    time[:, 0] = np.array([42, 25, 8]) / DAYS_PER_YEAR
    values[:, programme.feature_names.index("male")] = [1, 0, np.nan]
    values[:, programme.feature_names.index("age_years")] = [80, 65, 40]
    days = np.float32([3.2, 9.9, 10.0, 41.0, 12.0])
    series = Series(np.array([0, 4, 5, 5]), days, np.float32([90, 125, 141, 500, 119.9]))
    return Dataset(
        people.programme,
        people.programme_version,
        people.features,
        people.outcomes,
        people.patient_ids,
        values,
        time,
        people.event,
        people.target_names,
        people.targets,
        {**people.series, SERIES: series},
    )


def test_the_last_value_of_each_period_is_its_level_and_a_period_without_one_says_so(
    programme: Programme,
) -> None:
    found = histories_of(programme, three_people(programme))
    # Level 0 is "not measured"; the edges are 80, 120, 140, 160, 220.
    assert found.levels[:, :, 0].tolist() == [
        [2, 3, 0, 0, 4],
        [0, 1, 0, NO_VISIT, NO_VISIT],
        [0] + 4 * [NO_VISIT],
    ]
    assert found.strata.tolist() == [3 + 2, 1, 0]
    first = panel_of(programme).fields[0]
    assert np.isnan(first.values[0])
    assert first.values[1:] == (100.0, 130.0, 150.0, 190.0)
    assert first.level_of(145.0) == 3


def test_a_patients_history_depends_on_nobody_else(programme: Programme) -> None:
    people = followed_people(programme, people=200, seed=2)
    whole, some = histories_of(programme, people), np.arange(3, 200, 7)
    alone = histories_of(programme, people.take(some))
    assert np.array_equal(alone.levels, whole.levels[some])
    assert np.array_equal(alone.strata, whole.strata[some])
    assert np.array_equal(strata_of(programme, people.values), whole.strata)


def test_a_programme_without_visits_has_no_panel_and_one_with_impossible_visits_is_none(
    programme: Programme,
) -> None:
    with pytest.raises(GemelError, match="declares no visits") as refused:
        panel_of(FATTY_LIVER)
    assert refused.value.code == "GEM730"
    good = programme.visits
    assert good is not None
    bad = {
        "no series target": {"fields": (VisitField(series="pressures", edges=(1.0, 2.0, 3.0)),)},
        "two bins": {"fields": (VisitField(series=SERIES, edges=(1.0, 2.0)),)},
        "no column": {"strata": (Stratum(feature="pressures", cuts=(1.0,)),)},
        "do not increase": {"strata": (Stratum(feature="male", cuts=(1.0, 0.5)),)},
        "two of them": {"visits": 1},
    }
    for problem, change in bad.items():
        with pytest.raises(ValueError, match=problem):
            msgspec.structs.replace(programme, visits=msgspec.structs.replace(good, **change))
    assert isinstance(good, VisitPlan)
