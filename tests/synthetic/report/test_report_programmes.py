"""Every installed programme can be reported on, whatever its columns are."""

from __future__ import annotations

import numpy as np
import pytest

from gemel.synthetic.domain import domain_of
from gemel.synthetic.report import Evidence, Verdict
from gemel.synthetic.report.constraints import constraint_rows
from gemel.synthetic.report.people_table import PeopleTable
from gemel.synthetic.report.usefulness import usefulness_rows
from gemel.twins.installed import installed


@pytest.mark.parametrize("programme", installed(), ids=lambda programme: programme.name)
def test_a_programmes_people_are_measured_in_every_block_and_violate_no_constraint(programme):
    domain = domain_of(programme)

    def people(count, seed):
        random = np.random.default_rng(seed)
        codes = {column.name: random.integers(0, column.size, count) for column in domain.columns}
        return domain.decode_columns(codes, seed=seed)

    evidence = Evidence(domain, people(300, 1), people(300, 2), open_data=True)
    draws = [PeopleTable(domain, people(300, seed)) for seed in (3, 4)]
    rows = list(usefulness_rows(draws, evidence))
    assert {"pairs", "survival", "regression", "prediction", "fairness"} <= {row.block for row in rows}
    assert any(row.block == "prediction" and row.value is not None for row in rows)
    assert any(row.block == "fairness" and row.value is not None for row in rows)
    assert {row.verdict for row in constraint_rows(draws)} == {Verdict.PASS}
