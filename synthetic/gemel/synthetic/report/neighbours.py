"""Nearest neighbours: a smoke test that notices copies beside one that must be noticed, and proves nothing when it notices none.

Nearness to patients says little of what a cohort gives away (arXiv:2505.01524): it decides nothing here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gemel.synthetic.report.attacks.people import People, people_of_values
from gemel.synthetic.report.findings import Finding, Verdict
from gemel.synthetic.report.measures import Limit, measured
from gemel.synthetic.report.people_table import PeopleTable
from gemel.synthetic.report.thresholds import NEIGHBOUR_SHARE, NEIGHBOUR_TOLERANCE

BLOCK = "smoke test"
_MOST = 1500
_LEAST_OF_COPY = 0.95


def neighbour_rows(
    training: PeopleTable, holdout: PeopleTable, draws: Sequence[PeopleTable]
) -> Iterator[Finding]:
    """The share of virtual people nearer to training than to as many hold-out patients, and the same for copies of the former."""
    size = min(len(training), len(holdout), _MOST)
    used, held = (_people(table.first(size)) for table in (training, holdout))
    detail = f"{size} training and {size} hold-out patients"
    limit = Limit(NEIGHBOUR_SHARE - NEIGHBOUR_TOLERANCE, NEIGHBOUR_SHARE + NEIGHBOUR_TOLERANCE)
    shares = [share_nearer(_people(draw.first(size)), used, held) for draw in draws]
    yield measured(
        BLOCK,
        "virtual people nearer to a training than to a hold-out patient",
        shares,
        limit,
        baseline=NEIGHBOUR_SHARE,
        internal=True,
        detail=detail,
        gates=False,
    )
    copied = share_nearer(used, used, held)
    yield Finding(
        BLOCK,
        "the same of a copy of the training patients",
        copied,
        None,
        None,
        NEIGHBOUR_SHARE,
        f"≥ {_LEAST_OF_COPY:g}",
        Verdict.PASS if copied >= _LEAST_OF_COPY else Verdict.FAIL,
        internal=True,
        control=True,
        detail=detail,
        gates=False,
    )


def share_nearer(virtual: People, used: People, held: People) -> float:
    """The share whose nearest patient is one of `used`, ties half."""
    columns = range(len(virtual.names))
    to_used, to_held = (virtual.nearest(group, columns)[0][:, 0] for group in (used, held))
    return float(np.mean((to_used < to_held) + 0.5 * (to_used == to_held)))


def _people(table: PeopleTable) -> People:
    return people_of_values(table.domain, table.columns)
