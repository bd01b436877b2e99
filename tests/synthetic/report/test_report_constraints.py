"""What no patient can be is counted, whoever drew it; and distances to what was released, which are public."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gemel.privacy.noise import NoiseSource
from gemel.synthetic.anchored_tree import add_noise, count
from gemel.synthetic.anchored_tree.queries import Query
from gemel.synthetic.report import Verdict
from gemel.synthetic.report.constraints import constraint_rows
from gemel.synthetic.report.marginals import released_rows


def violations(table, columns):
    return [int(row.value) for row in constraint_rows([table(columns)])]


def test_people_as_the_public_columns_have_them_violate_nothing(table, make_ward):
    rows = list(constraint_rows([table(make_ward(200, seed)) for seed in range(3)]))
    assert {row.verdict for row in rows} == {Verdict.PASS}
    assert not any(row.internal for row in rows)


@pytest.mark.parametrize(
    ("column", "value"),
    [("age", 19.0), ("age", 100.5), ("age", np.nan), ("albumin", 6.01), ("sex", "unknown"), ("aspirin", 2.0)],
)
def test_a_value_that_cannot_be_is_counted(column, value, table, make_ward):
    people = make_ward(50, 1)
    people[column] = np.array(people[column], object if isinstance(value, str) else float)
    people[column][7] = value
    assert violations(table, people) == [1, 0, 0]


@pytest.mark.parametrize(("days", "event"), [(-1.0, 0), (0.0, 1), (366.0, 0), (10.0, 7), (10.0, -1)])
def test_a_day_or_a_state_that_cannot_be_is_counted(days, event, table, make_ward):
    people = make_ward(50, 1)
    times, events = (np.array(part) for part in people["death"])
    times[3], events[3] = days, event
    people |= {"death": (times, events), "relapse": (np.zeros(50), np.full(50, -1))}
    assert violations(table, people) == [0, 1, 0]


def test_an_event_after_death_is_counted(table, make_ward):
    people = make_ward(50, 1)
    people |= {
        "death": (np.full(50, 20.0), np.ones(50, int)),
        "relapse": (np.full(50, 21.0), np.ones(50, int)),
    }
    assert violations(table, people) == [0, 0, 50]


def test_who_follows_the_released_tables_is_as_far_from_them_as_noise_is_and_who_does_not_is_farther(
    ward_columns, make_ward
):
    queries = tuple(
        Query("/".join(columns), columns, (None,) * len(columns), 8.0)
        for columns in [("sex",), ("age",), ("albumin", "death")]
    )
    codes = ward_columns.encode_columns(make_ward(3000, 1))
    tables = add_noise(queries, count(queries, ward_columns, codes), NoiseSource.for_tests(0))
    like = ward_columns.encode_columns(make_ward(3000, 2))
    rows = list(released_rows(ward_columns, queries, tables, [like]))
    assert len(rows) == 2
    assert not any(row.internal or row.gates for row in rows)
    assert all(0.5 < row.value < 1.8 for row in rows)
    unlike = {**like, "albumin": np.random.default_rng(0).integers(0, 3, 3000)}
    far = list(released_rows(ward_columns, queries, tables, [unlike]))
    assert far[1].value > 2 * rows[1].value
    louder = tuple(replace(query, sigma=80.0) for query in queries)
    assert list(released_rows(ward_columns, louder, tables, [like]))[1].value < rows[1].value
