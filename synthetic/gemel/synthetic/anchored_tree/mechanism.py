"""The three rounds in one place, for one data set: what benchmarks and tests call, and a study does step by step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemel.core.errors import GemelError
from gemel.core.mechanism import Mechanism, noisy_tables
from gemel.privacy.accounting import epsilon as epsilon_of
from gemel.privacy.noise import NoiseSource
from gemel.privacy.statistics import noisy_counts
from gemel.synthetic.anchored_tree.fitting import fit_potentials, measured_scores, measured_tables
from gemel.synthetic.anchored_tree.model import TreeModel
from gemel.synthetic.anchored_tree.plan import (
    MeasurePlan,
    hubs_of,
    measure_plan,
    pair_queries,
    structure_of,
)
from gemel.synthetic.anchored_tree.queries import Query, Table, check_table, total_of
from gemel.synthetic.anchored_tree.scores import Scores, Scoring, choose_tree, scoring_of
from gemel.synthetic.domain import Codes, Domain

# The accountant rounds up, by less than this.
_ACCOUNTED = 1 - 1e-4


@dataclass(frozen=True)
class PrivateFit:
    """A model, what it cost (`epsilon` at `delta`, for one patient more or fewer, by the accountant), and the noisy `tables`."""

    model: TreeModel
    plan: MeasurePlan
    mechanisms: tuple[Mechanism, ...]
    epsilon: float
    delta: float
    tables: Mapping[str, Table]


def count(queries: tuple[Query, ...], domain: Domain, codes: Codes) -> dict[str, Table]:
    """The exact tables of one hospital by query name, before noise. One patient changes one cell of each by one."""
    return {query.name: query.count(domain, codes) for query in queries}


def add_noise(queries: tuple[Query, ...], exact: Mapping[str, Table], noise: NoiseSource) -> dict[str, Table]:
    """The tables with a discrete Gaussian of each query's sigma in every cell."""
    return {q.name: noisy_counts(exact[q.name], noise_multiplier=q.sigma, noise=noise) for q in queries}


def scoring(plan: MeasurePlan, levels: Mapping[str, NDArray[Any]]) -> Scoring:
    """How round 2 scores each two columns, from the noisy one-ways by query name."""
    return scoring_of(plan.domain, plan.score_pairs, _by_column(plan, levels))


def tree_of(
    plan: MeasurePlan, levels: Mapping[str, NDArray[Any]], sums: Sequence[NDArray[np.int64]]
) -> dict[str, str]:
    """The tree that noisy scores choose (`choose_tree`); everybody who has them finds the same.

    Args:
        plan: What was fixed beforehand, with the noise that levels and sums have.
        levels: Noisy one-ways by query name.
        sums: What `scoring(plan, levels)` counts, with noise.
    """
    by_column = _by_column(plan, levels)
    strengths = scoring(plan, levels).strengths(by_column, sums, plan.score_sigma)
    return choose_tree(plan.score_pairs, strengths.edges, hubs=hubs_of(plan), pull=strengths.hubs)


def fit(
    plan: MeasurePlan,
    tree: Mapping[str, str],
    queries: tuple[Query, ...],
    tables: Mapping[str, NDArray[Any]],
    *,
    scores: Scores | None = None,
    potentials: Mapping[str, NDArray[Any]] | None = None,
) -> TreeModel:
    """The model of what the three rounds released together. Post-processing: it sees no patient.

    Args:
        plan: What was fixed beforehand.
        tree: The parent of each column that has one.
        queries: `plan.one_ways` and `pair_queries(...)`.
        tables: By query name, summed over hospitals.
        scores: Those that chose the tree: of two columns that share a clique they are counts like others.
        potentials: `TreeModel.potentials` of an earlier fit to these tables: nothing is fitted anew.

    Raises GEM701 for a table that does not answer its query, GEM763 for potentials of another model.
    """
    if set(tables) != {query.name for query in queries}:
        raise GemelError("GEM701", "The tables are not those of the plan.")
    for query in queries:
        check_table(query, plan.domain, np.asarray(tables[query.name]))
    structure, total = structure_of(plan, tree), total_of(tables, queries)
    if potentials is not None:
        return TreeModel.with_potentials(structure, potentials, total=total, queries=queries)
    measured = measured_tables(structure, queries, tables, total)
    if scores is not None:
        measured += measured_scores(structure, scores)
    with_state, state, with_parent, _ = fit_potentials(structure, measured, total)
    return TreeModel(structure, state, with_state, with_parent, total, queries)


def fit_private(
    domain: Domain, codes: Codes, *, epsilon: float, delta: float, noise: NoiseSource
) -> PrivateFit:
    """Measure and fit the patients of one table under (epsilon, delta)-DP, one patient more or fewer.

    Raises GEM705 for a domain that has no anchors or no features, GEM303 for an impossible budget.
    """
    plan = plan_for(domain, epsilon=epsilon, delta=delta)
    levels = add_noise(plan.one_ways, count(plan.one_ways, domain, codes), noise)
    tree: dict[str, str] = {}
    scores = None
    if plan.score_pairs:
        scored = scoring(plan, levels)
        pairs = zip(scored.count(codes), scored.sigmas(plan.score_sigma), strict=True)
        sums = [noisy_counts(s, noise_multiplier=z, noise=noise) for s, z in pairs]
        scores, tree = Scores(scored, sums, plan.score_sigma), tree_of(plan, levels, sums)
    queries = pair_queries(plan, levels, tree, multiplier=plan.whole_multiplier)
    tables = add_noise(queries, count(queries, domain, codes), noise)
    released = {**levels, **tables}
    model = fit(plan, tree, (*plan.one_ways, *queries), released, scores=scores)
    mechanisms = (*plan.mechanisms((1, 2)), *charged(queries))
    return PrivateFit(model, plan, mechanisms, epsilon_of(mechanisms, delta=delta), delta, released)


def charged(queries: tuple[Query, ...]) -> tuple[Mechanism, ...]:
    """What releasing the tables costs a patient."""
    sigmas = [query.sigma for query in queries]
    return tuple(noisy_tables(sigma, sigmas.count(sigma)) for sigma in sorted(set(sigmas)))


def plan_for(domain: Domain, *, epsilon: float, delta: float) -> MeasurePlan:
    """The plan whose releases cost at most (epsilon, delta), by the accountant of privacy losses."""
    return measure_plan(domain, rho=_ACCOUNTED * _rho_of(epsilon, delta))


def _rho_of(epsilon: float, delta: float) -> float:
    """The zCDP budget whose discrete Gaussians are (epsilon, delta)-DP: that of one Gaussian of the same precision."""
    if not (epsilon > 0 and 0 < delta < 1):
        raise GemelError("GEM303", f"epsilon {epsilon} and delta {delta} are no budget.")
    low, high = 1e-9, epsilon + 1.0
    for _ in range(60):
        middle = math.sqrt(low * high)
        if _delta_of(middle, epsilon) <= delta:
            low = middle
        else:
            high = middle
    return low


def _delta_of(rho: float, epsilon: float) -> float:
    """delta of a Gaussian of zCDP rho at epsilon, exactly (Balle & Wang, ICML 2018, theorem 8)."""
    mu = math.sqrt(2 * rho)

    def below(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    return below(mu / 2 - epsilon / mu) - math.exp(epsilon) * below(-mu / 2 - epsilon / mu)


def _by_column(plan: MeasurePlan, levels: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {query.columns[0]: levels[query.name] for query in plan.one_ways}
