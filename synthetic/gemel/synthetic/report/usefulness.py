"""Every row of what virtual people are good for, held against the patients; without patients each block is "not tested"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gemel.synthetic.report import (
    fairness,
    marginals,
    neighbours,
    prediction,
    regression,
    survival,
    telling_apart,
    treatment_effect,
)
from gemel.synthetic.report.evidence import Evidence
from gemel.synthetic.report.findings import Finding
from gemel.synthetic.report.measures import untested
from gemel.synthetic.report.people_table import PeopleTable

_BLOCKS = (
    (marginals.PAIRS, marginals.pair_rows),
    (survival.BLOCK, survival.survival_rows),
    (regression.BLOCK, regression.regression_rows),
    (prediction.BLOCK, prediction.prediction_rows),
    (treatment_effect.BLOCK, treatment_effect.effect_rows),
    (marginals.CORRELATIONS, marginals.correlation_rows),
    (telling_apart.BLOCK, telling_apart.telling_apart_rows),
)


def usefulness_rows(draws: Sequence[PeopleTable], evidence: Evidence | None) -> Iterator[Finding]:
    """The rows of all blocks, fairness and the smoke test among them."""
    if evidence is None:
        for block in (*(name for name, _ in _BLOCKS), fairness.BLOCK, neighbours.BLOCK):
            yield untested(block, "beside patients", "as written", internal=True)
        return
    training, holdout = (PeopleTable(evidence.domain, c) for c in (evidence.training, evidence.holdout))
    internal = not evidence.open_data
    for _, rows in _BLOCKS:
        yield from rows(training, holdout, draws, internal=internal)
    yield from fairness.fairness_rows(training, holdout, draws, sites=evidence.sites, internal=internal)
    yield from neighbours.neighbour_rows(training, holdout, draws)
