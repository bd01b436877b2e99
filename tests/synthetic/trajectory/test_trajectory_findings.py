"""What a report says of trajectories: patients pass beside patients, forgetful or impossible ones do not."""

from __future__ import annotations

import numpy as np
import pytest

from gemel.core.programme import DAYS_PER_YEAR
from gemel.synthetic.report.findings import Verdict
from gemel.synthetic.trajectory.findings import (
    fan,
    order_row,
    shape_of,
    trajectory_rows,
    variation,
    violations,
)
from gemel.synthetic.trajectory.histories import NO_VISIT, NOT_MEASURED, Field, Histories, Panel
from gemel.synthetic.trajectory.model import Trajectories, possible

PANEL = Panel(2, (Field("score", (0.0, 1.0, 2.0, 3.0)),), visits=5, days_between=90)


def people(patients: int, seed: int, *, memory: float = 0.7, panel: Panel = PANEL) -> Histories:
    random = np.random.default_rng(seed)
    levels = np.full((patients, panel.visits, 1), NO_VISIT, np.int64)
    frailty = random.integers(0, 4, patients)
    last = random.integers(panel.visits // 2, panel.visits + 1, patients)
    for visit in range(panel.visits):
        kept = random.random(patients) < memory
        levels[:, visit, 0] = np.where(kept, frailty, random.integers(0, 4, patients))
    levels[np.arange(panel.visits)[None] >= last[:, None]] = NO_VISIT
    return Histories(panel, random.integers(0, 2, patients), levels)


def rows(memory: float) -> dict[str, Verdict]:
    found = trajectory_rows(
        [people(3000, seed, memory=memory) for seed in range(5)],
        training=people(3000, 10),
        holdout=people(1000, 11),
    )
    return {row.measure: row.verdict for row in found}


def test_other_patients_of_the_same_kind_pass_and_forgetful_ones_fail() -> None:
    alike, forgetful = rows(0.7), rows(0.2)
    assert set(alike.values()) == {Verdict.PASS, Verdict.INFORMATION}
    assert sum(verdict is Verdict.FAIL for verdict in forgetful.values()) == 4
    assert len(alike) == 5


def test_numbers_about_patients_are_internal_and_those_about_nobody_are_not() -> None:
    found = trajectory_rows([people(50, 1)], training=people(50, 2), holdout=people(50, 3))
    assert all(row.internal for row in found)
    open_data = trajectory_rows(
        [people(50, 1)], training=people(50, 2), holdout=people(50, 3), internal=False
    )
    assert not any(row.internal for row in open_data)


def trajectories(days: list[int], rows_of: list[int], died: float = 1.0) -> Trajectories:
    return Trajectories(
        2,
        np.array(rows_of),
        np.array(days),
        {"score": np.zeros(len(days))},
        np.zeros(2, np.int64),
        ("death",),
        np.array([[died], [1.0]], np.float32),
        np.array([[1], [0]], np.int8),
    )


@pytest.mark.parametrize(
    ("days", "rows_of", "wrong"),
    [
        ([0, 90, 0], [0, 0, 1], 0),
        ([0, 400], [0, 0], 1),  # after death at 365 days
        ([-1, 5], [1, 1], 1),
        ([5, 5], [1, 1], 1),
        ([9, 5], [1, 1], 1),
        ([0, 0], [1, 0], 1),
        ([400, 401], [1, 1], 0),
    ],
)
def test_every_impossible_visit_is_counted(days: list[int], rows_of: list[int], wrong: int) -> None:
    drawn = trajectories(days, rows_of, died=365 / DAYS_PER_YEAR)
    assert violations(drawn) == wrong
    assert order_row([drawn]).verdict is (Verdict.FAIL if wrong else Verdict.PASS)
    assert violations(possible(drawn)) == 0


def test_shares_are_those_of_all_pairs_and_what_was_not_measured_has_no_memory() -> None:
    panel = Panel(1, (Field("score", (NOT_MEASURED, 0.0, 1.0)),), visits=3, days_between=1)
    levels = np.array([[1, 2, 2], [0, 1, -1], [2, -1, -1], [1, 0, 1]])[:, :, None]
    shape = shape_of(Histories(panel, np.zeros(4, np.int64), levels))
    assert shape.transitions.sum() == pytest.approx(1)
    assert shape.transitions[1, 2] == pytest.approx(1 / 5)
    assert shape.transitions[0, 1] == pytest.approx(2 / 5)
    assert np.isnan(shape.lags[2])
    assert variation(shape.transitions, shape.transitions) == 0
    drawn = fan([people(100, 1)], None)
    assert drawn["real"] is None
    assert len(drawn["virtual"]) == 5
    assert drawn["days"] == [0, 90, 180, 270, 360]
    assert fan([people(19, 1)], people(10, 1))["real"] == [None] * 5
