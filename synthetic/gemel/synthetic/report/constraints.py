"""What no patient can be: an impossible value, an event in the wrong order. Only virtual people are looked at, so it is public."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gemel.core.dataset import CENSORED, OCCURRED, PREVALENT
from gemel.synthetic.columns import Categories, Numbers
from gemel.synthetic.report.findings import Finding
from gemel.synthetic.report.measures import Limit, measured
from gemel.synthetic.report.people_table import PeopleTable
from gemel.synthetic.report.survival import time_columns, time_grid

BLOCK = "constraints"
_NONE = Limit(most=0.0)
_HALF_A_DAY = 0.5


def constraint_rows(draws: Sequence[PeopleTable]) -> Iterator[Finding]:
    """Violations in each draw: none are allowed."""
    for measure, count in (
        ("values outside the public bounds or lists", impossible_values),
        ("days before the index date, beyond the horizon, or without a known state", impossible_days),
        ("events after the end of follow-up", late_events),
    ):
        found = [float(count(draw)) for draw in draws]
        people = sum(map(len, draws))
        yield measured(BLOCK, measure, found, _NONE, internal=False, detail=f"{people} virtual people")


def impossible_values(people: PeopleTable) -> int:
    """Entries outside a number's public edges, or not on a category's public list; a missing one only where it can be."""
    count = 0
    for column in people.domain.columns:
        form = column.form
        if isinstance(form, Numbers):
            # In the precision in which values are kept.
            values = people.numbers(column.name).astype(np.float32)
            inside = (values >= np.float32(form.edges[0])) & (values <= np.float32(form.edges[-1]))
            inside |= np.isnan(values) & (form.stand_in is None)
            count += int(np.count_nonzero(~inside))
        elif isinstance(form, Categories):
            found = np.asarray(people.columns[column.name])
            known = np.isin(found, np.asarray(form.values, found.dtype))
            missing = np.array([value is None or value != value for value in found.tolist()])
            count += int(np.count_nonzero(~(known | (missing & (form.stand_in is None)))))
    return count


def impossible_days(people: PeopleTable) -> int:
    """Times that are negative or beyond the public horizon, an event on day 0, a state that is none of the three."""
    count = 0
    for column in time_columns(people):
        days, event = people.times(column.name)
        horizon = time_grid(column)[-1]
        wrong = (days < 0) | (days > horizon + _HALF_A_DAY) | ((event == OCCURRED) & (days <= 0))
        wrong |= ~np.isin(event, (CENSORED, OCCURRED, PREVALENT)) | ((event == PREVALENT) & (days > 0))
        count += int(np.count_nonzero(wrong))
    return count


def late_events(people: PeopleTable) -> int:
    """Events of other outcomes after the clock has ended follow-up."""
    clock, count = people.domain.clock, 0
    for column in time_columns(people):
        if clock is not None and column.name != clock:
            days, event = people.times(column.name)
            late = days > people.times(clock)[0] + _HALF_A_DAY
            count += int(np.count_nonzero(late & (event == OCCURRED)))
    return count
