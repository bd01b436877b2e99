"""Are the patients that a report is given those who were counted? Attacks on anybody else find nothing, whatever the cohort gives away."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from gemel.synthetic.anchored_tree.queries import Query, Table
from gemel.synthetic.report.findings import Finding, Verdict
from gemel.synthetic.report.measures import Limit, measured, untested
from gemel.synthetic.report.people_table import PeopleTable

BLOCK = "evidence"
MEASURE = "released less counted, over the noise: root mean square"
# Five standard deviations of the root mean square of as many normals; six for the largest of many cells.
_FEWEST_ERRORS, _MOST_ERRORS = 5.0, 6.0
_A_PART = 0.98


def counted_row(training: PeopleTable, queries: tuple[Query, ...], tables: Mapping[str, Table]) -> Finding:
    """The row: 1 when the training patients are all of those who were counted, for then only noise is between them.

    Of a part of them, as one hospital's, it is for information: no cell then has more of them than was released, but for noise.
    """
    released = [query for query in queries if query.name in tables]
    if not released:
        return untested(BLOCK, MEASURE, "about 1", internal=True, detail="no released tables were given")
    apart = np.concatenate(
        [((tables[q.name] - q.count(training.domain, training.codes)) / q.sigma).ravel() for q in released]
    )
    width = _FEWEST_ERRORS / math.sqrt(2 * len(apart))
    limit = Limit(round(max(0.0, 1 - width), 3), round(1 + width, 3))
    value = float(np.sqrt(np.square(apart).mean()))
    total = float(np.median([tables[q.name].sum() for q in released if len(q.columns) == 1] or [math.inf]))
    share = len(training) / max(total, 1.0)
    if limit.verdict(value) is Verdict.FAIL and share < _A_PART and apart.min() > -_MOST_ERRORS:
        detail = f"a part of those who were counted, about {share:.0%}"
        return measured(BLOCK, MEASURE, [value], internal=True, detail=detail)
    detail = (
        f"{len(apart)} cells; others than those who were counted"
        if limit.beyond(value)
        else f"{len(apart)} cells"
    )
    return measured(BLOCK, MEASURE, [value], limit, internal=True, baseline=1.0, detail=detail)
