"""What is measured in each round and with how much noise: decided from public facts, then from noisy answers only.

Round 1: the levels of every column. Round 2: how strongly each two features go together. Round 3: the tables that the
model is fitted to. Precisions (1 over sigma squared) add up over all tables to 2 rho (zCDP, Bun & Steinke 2016).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemel.core.errors import GemelError
from gemel.core.mechanism import Mechanism, MechanismKind
from gemel.synthetic.anchored_tree.queries import Query
from gemel.synthetic.anchored_tree.structure import Anchor, Structure
from gemel.synthetic.columns import Column, Numbers, Role, Times
from gemel.synthetic.domain import Domain

Noisy = Mapping[str, NDArray[Any]]

# Of the precision: levels, scores, the anchors with each other, everything else with the clock, with the other anchors,
# with the hub, and along the tree.
_SHARES = {
    "levels": 0.08,
    "scores": 0.06,
    "anchors": 0.09,
    "clock": 0.45,
    "others": 0.06,
    "hub": 0.12,
    "tree": 0.14,
}
_MOST_STATES, _MOST_JOINT_CELLS = 4096, 64
_FEATURE_GROUPS, _EVENT_GROUPS, _END_GROUPS = 8, 6, 1


@dataclass(frozen=True)
class MeasurePlan:
    """Everything about a release that is fixed before any patient is looked at.

    Attributes:
        one_ways: Round 1, named `levels/COLUMN`.
        scored: Round 2: the columns among which the tree is chosen; one score for each two of them, in
            `itertools.combinations` order.
        score_sigma: Parameter of the discrete Gaussian on each score.
        pair_precision: What is left for round 3: the sum of 1 over sigma squared.
        anchors: The joint state.
    """

    domain: Domain
    anchors: tuple[Anchor, ...]
    one_ways: tuple[Query, ...]
    scored: tuple[str, ...]
    score_sigma: float
    pair_precision: float

    @property
    def score_pairs(self) -> tuple[tuple[str, str], ...]:
        """The two columns of each score, in order."""
        return tuple(itertools.combinations(self.scored, 2))

    @property
    def whole_multiplier(self) -> float:
        """The noise multiplier of the one Gaussian that costs what all three rounds do."""
        return float(sum(m.count / m.noise_multiplier**2 for m in self.mechanisms()) ** -0.5)

    def mechanisms(self, rounds: Sequence[int] = (1, 2, 3)) -> tuple[Mechanism, ...]:
        """What each round costs a patient: one entry for all of round 3, whose tables share `pair_precision`."""
        found = []
        if 1 in rounds:
            found += [_discrete(self.one_ways[0].sigma, len(self.one_ways))]
        if 2 in rounds and self.score_pairs:
            found += [_discrete(self.score_sigma, len(self.score_pairs))]
        if 3 in rounds:
            found += [_discrete(self.pair_precision**-0.5, 1)]
        return tuple(found)


def measure_plan(domain: Domain, *, rho: float) -> MeasurePlan:
    """The plan of a release of zCDP `rho` in all. Raises GEM705 for a domain without an outcome or without features."""
    features = domain.with_roles(Role.FEATURE)
    anchors = anchors_of(domain)
    if not anchors or not features:
        raise GemelError("GEM705", "A cohort's domain needs an outcome, treatment or target, and features.")
    whole = {a.column for a in anchors}
    late = [c.name for c in domain.columns if c.role is not Role.FEATURE and c.name not in whole]
    scored = (*(c.name for c in features), *late)
    precision = 2 * rho
    shares = dict(_SHARES)
    if len(scored) < 2:
        shares["levels"] += shares.pop("scores")
    pairs = len(scored) * (len(scored) - 1) // 2
    level_sigma = math.sqrt(len(domain.columns) / (precision * shares["levels"]))
    score_sigma = math.sqrt(pairs / (precision * shares["scores"])) if pairs else math.inf
    return MeasurePlan(
        domain,
        anchors,
        tuple(Query(f"levels/{name}", (name,), (None,), level_sigma) for name in domain.names),
        scored if pairs else (),
        score_sigma,
        precision * (1 - shares["levels"] - shares.get("scores", 0.0)),
    )


def anchors_of(domain: Domain) -> tuple[Anchor, ...]:
    """The joint state: the clock, treatments, targets, then other outcomes in outline, as long as states are few."""
    clock = domain.clock
    order: list[Column] = [domain.column(clock)] if clock is not None else []
    roles = (Role.TREATMENT, Role.TARGET, Role.OUTCOME)
    order += [c for c in domain.with_roles(*roles) if c.name != clock]
    anchors: list[Anchor] = []
    states = 1
    for column in order:
        outline = _outline(column) if column.role is Role.OUTCOME and column.name != clock else None
        size = column.size if outline is None else max(outline) + 1
        if states * size <= _MOST_STATES:
            anchors.append(Anchor(column.name, outline))
            states *= size
    return tuple(anchors)


def pair_queries(plan: MeasurePlan, levels: Noisy, tree: Mapping[str, str]) -> tuple[Query, ...]:
    """Round 3: the tables that the model is fitted to, from the noisy answers of the rounds before.

    With the clock, levels that few patients have are counted with their neighbours: every cell has the same noise, and
    how a hazard goes with a feature is a sum over cells. That is decided by the noisy one-ways, so it costs nothing, and
    everybody who has them decides the same.

    Args:
        plan: What was fixed beforehand.
        levels: Noisy one-ways by query name.
        tree: The parent of each scored column that has one.
    """
    domain, anchors = plan.domain, plan.anchors
    features = [c.name for c in domain.columns if c.name not in {a.column for a in anchors}]
    clock, others = anchors[0], anchors[1:]
    shares = {k: v for k, v in _SHARES.items() if k not in ("levels", "scores")}
    jobs: dict[str, list[tuple[str, tuple[str, ...], tuple[Any, ...]]]] = {k: [] for k in shares}
    jobs["anchors"] = _anchor_tables(plan, levels)
    around, hub = groups_of_clock(domain, clock.column, levels), hub_of(plan, tree)
    for name in features:
        few = few_groups(domain.column(name), levels[f"levels/{name}"], _FEATURE_GROUPS)
        # All that goes by the hub rests on this one table: it is counted in full, with the anchors' own.
        kind, groups = ("anchors", (None, None)) if name == hub else ("clock", (few, around))
        jobs[kind].append((f"pair/{name}*{clock.column}", (name, clock.column), groups))
        for other in others:
            jobs["others"].append((f"pair/{name}*{other.column}", (name, other.column), (None, other.groups)))
    edges = {
        "tree": [(p, x) for x, p in tree.items() if p != hub],
        "hub": [(hub, x) for x in tree if hub is not None],
    }
    used = {kind: shares[kind] for kind in shares if jobs[kind] or edges.get(kind)}
    precision = {kind: plan.pair_precision * share / sum(used.values()) for kind, share in used.items()}
    for kind, pairs in edges.items():
        jobs[kind] = [(f"pair/{parent}*{child}", (parent, child), (None, None)) for parent, child in pairs]
    return tuple(
        Query(name, columns, groups, math.sqrt(len(jobs[kind]) / precision[kind]))
        for kind in used
        for name, columns, groups in jobs[kind]
    )


def few_groups(column: Column, noisy: NDArray[Any], most: int) -> tuple[int, ...] | None:
    """At most so many groups of a column's levels, by merging neighbours (of categories: any) with the fewest patients."""
    if column.size <= most:
        return None
    weights = np.maximum(np.asarray(noisy, np.float64), 0.0)
    return _merged(weights, _ordered_levels(column), enough=lambda sizes: len(sizes) <= most)


def groups_of_clock(domain: Domain, clock: str, noisy: Noisy) -> tuple[int, ...] | None:
    """Groups of the clock's levels: events and ends of follow-up apart, each in runs of about equally many patients."""
    column, form = domain.column(clock), domain.column(clock).form
    weights = np.maximum(np.asarray(noisy[f"levels/{clock}"], np.float64), 0.0)
    if not isinstance(form, Times):
        return few_groups(column, weights, _FEATURE_GROUPS)
    events = _merged(weights[: form.events], form.events, enough=lambda sizes: len(sizes) <= _EVENT_GROUPS)
    rest = weights[form.events :]
    ends = _merged(rest, len(rest), enough=lambda sizes: len(sizes) <= _END_GROUPS)
    return (*events, *(max(events) + 1 + group for group in ends))


def hubs_of(plan: MeasurePlan) -> tuple[str, ...]:
    """The columns that may join the anchors, once scores say that one goes together with all others: those of few levels."""
    states = math.prod(Structure(plan.domain, plan.anchors, {}).shape)
    return tuple(name for name in plan.scored if states * plan.domain.sizes[name] <= _MOST_STATES)


def hub_of(plan: MeasurePlan, tree: Mapping[str, str]) -> str | None:
    """The hub of a tree: its only root, where that is a column that may be one."""
    roots = [name for name in plan.scored if name not in tree]
    return roots[0] if len(roots) == 1 and roots[0] in hubs_of(plan) else None


def structure_of(plan: MeasurePlan, tree: Mapping[str, str]) -> Structure:
    """The model's shape for a chosen tree: its hub is one more anchor."""
    hub = hub_of(plan, tree)
    anchors = plan.anchors if hub is None else (*plan.anchors, Anchor(hub, None))
    return Structure(plan.domain, anchors, {x: parent for x, parent in tree.items() if parent != hub})


def most_pair_cells(plan: MeasurePlan) -> int:
    """At least as many cells as round 3 has, whatever the levels and the tree."""
    sizes = plan.domain.sizes
    full = {query.name: np.full(query.shape(plan.domain), 2**40) for query in plan.one_ways}
    beside = sum(math.prod(query.shape(plan.domain)) for query in pair_queries(plan, full, {}))
    # Every column with the hub, and with a parent: none of which has more levels than the largest; and the hub's own.
    largest, *others = sorted((sizes[name] for name in plan.scored), reverse=True) or [0]
    return beside + 2 * largest * sum(others) + largest * sizes[plan.anchors[0].column]


def _anchor_tables(plan: MeasurePlan, levels: Noisy) -> list[tuple[str, tuple[str, ...], tuple[Any, ...]]]:
    """All anchors in one table where its cells are few, else each two; and the members that anchors outline."""
    anchors = plan.anchors
    cells = math.prod(Structure(plan.domain, anchors, {}).shape)
    sets = [anchors] if cells <= _MOST_JOINT_CELLS else list(itertools.combinations(anchors, 2))
    tables: list[tuple[str, tuple[str, ...], tuple[Any, ...]]] = [
        (
            "anchors/" + "*".join(a.column for a in some),
            tuple(a.column for a in some),
            tuple(a.groups for a in some),
        )
        for some in sets
        if len(some) > 1
    ]
    clock = anchors[0]
    around = groups_of_clock(plan.domain, clock.column, levels)
    for anchor in anchors[1:]:
        if anchor.groups is not None:
            tables.append((f"when/{anchor.column}", (anchor.column, clock.column), (None, around)))
    return tables


def _outline(column: Column) -> tuple[int, ...] | None:
    """An outcome in outline: came, did not, was there before."""
    form = column.form
    if not isinstance(form, Times):
        return None
    rest = column.size - form.events - int(form.prevalent)
    return (*(0,) * form.events, *(1,) * rest, *((2,) if form.prevalent else ()))


def _ordered_levels(column: Column) -> int:
    """How many of the first levels are in an order: only neighbours among them are merged. The rest stay as they are."""
    if isinstance(column.form, Numbers):
        return len(column.form.edges) - 1
    return 0


def _merged(weights: NDArray[Any], ordered: int, *, enough: Any) -> tuple[int, ...]:
    """Groups (levels,) by merging the two neighbours of least weight together until it is enough.

    Levels from `ordered` on are categories ("missing" among them): merged with each other when none is ordered, else kept.
    """
    runs = [[i] for i in range(ordered or len(weights))]
    while not enough([float(weights[run].sum()) for run in runs]) and len(runs) > 1:
        sums = [float(weights[run].sum()) for run in runs]
        if ordered:
            first = int(np.argmin([a + b for a, b in itertools.pairwise(sums)]))
            second = first + 1
        else:
            first, second = sorted(np.argsort(sums, kind="stable")[:2].tolist())
        runs[first] = runs[first] + runs.pop(second)
    groups = np.zeros(len(weights), np.intp)
    for number, run in enumerate(runs):
        groups[run] = number
    if ordered:
        groups[ordered:] = len(runs) + np.arange(len(weights) - ordered)
    return tuple(int(g) for g in groups)


def _discrete(noise_multiplier: float, count: int) -> Mechanism:
    return Mechanism(
        kind=MechanismKind.DISCRETE_GAUSSIAN, noise_multiplier=float(noise_multiplier), count=count
    )
