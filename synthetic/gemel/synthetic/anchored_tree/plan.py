"""What is measured in each round and with how much noise: decided from public facts, then from noisy answers only.

Round 1: the levels of every column. Round 2: how strongly each two features go together. Round 3: the tables that the
model is fitted to. Precisions (1 over sigma squared) add up over all tables to 2 rho (zCDP, Bun & Steinke 2016).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gemel.core.errors import GemelError
from gemel.core.mechanism import Mechanism, MechanismKind
from gemel.synthetic.anchored_tree.grouping import (
    Groups,
    Noisy,
    groups_of_clock,
    groups_of_pair,
    groups_with_clock,
)
from gemel.synthetic.anchored_tree.queries import Query
from gemel.synthetic.anchored_tree.structure import Anchor, Structure
from gemel.synthetic.columns import Column, Role, Times
from gemel.synthetic.domain import Domain

# Of the precision: levels, scores, the anchors with each other, everything else with the clock, with the other anchors,
# with the hub, and along the tree.
_SHARES = {
    "levels": 0.08,
    "scores": 0.06,
    "anchors": 0.09,
    "clock": 0.42,
    "others": 0.12,
    "hub": 0.10,
    "tree": 0.13,
}
_MOST_STATES, _MOST_JOINT_CELLS = 4096, 64
# In the joint state the ends of follow-up are in so many runs.
_ENDS_IN_STATE = 4

_Table = tuple[str, tuple[str, ...], tuple[Groups, ...]]


@dataclass(frozen=True)
class MeasurePlan:
    """Everything about a release that is fixed before any patient is looked at.

    Attributes:
        one_ways: Round 1, named `levels/COLUMN`.
        scored: Round 2: the columns among which the tree is chosen; one score for each two of them, in
            `itertools.combinations` order.
        score_sigma: Parameter of the discrete Gaussian on each score.
        pair_precision: What is left for round 3: the sum of 1 over sigma squared.
        pair_share: The same as a share of the precision of all rounds.
        anchors: The joint state.
    """

    domain: Domain
    anchors: tuple[Anchor, ...]
    one_ways: tuple[Query, ...]
    scored: tuple[str, ...]
    score_sigma: float
    pair_precision: float
    pair_share: float

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
    scored = (*(c.name for c in features), *(c.name for c in domain.columns if c.role is not Role.FEATURE))
    known = _known(domain, anchors)
    scored = tuple(name for name in scored if name not in known)
    precision = 2 * rho
    shares = dict(_SHARES)
    if len(scored) < 2:
        shares["levels"] += shares.pop("scores")
    pairs = len(scored) * (len(scored) - 1) // 2
    level_sigma = math.sqrt(len(domain.columns) / (precision * shares["levels"]))
    score_sigma = math.sqrt(pairs / (precision * shares["scores"])) if pairs else math.inf
    left = 1 - shares["levels"] - shares.get("scores", 0.0)
    return MeasurePlan(
        domain,
        anchors,
        tuple(Query(f"levels/{name}", (name,), (None,), level_sigma) for name in domain.names),
        scored if pairs else (),
        score_sigma,
        precision * left,
        left,
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
        outline = _few_ends(column) if column.name == clock else _outline(column)
        size = column.size if outline is None else max(outline) + 1
        if states * size <= _MOST_STATES:
            anchors.append(Anchor(column.name, outline))
            states *= size
    return tuple(anchors)


def pair_queries(
    plan: MeasurePlan, levels: Noisy, tree: Mapping[str, str], *, multiplier: float
) -> tuple[Query, ...]:
    """Round 3: the tables that the model is fitted to, from the noisy answers of the rounds before.

    Levels that few patients have are counted with their neighbours: every cell has the same noise, and what is asked of a table
    is a sum over cells. That is decided by the noisy one-ways, so it costs nothing, and everybody who has them decides the
    same.

    Args:
        plan: What was fixed beforehand.
        levels: Noisy one-ways by query name.
        tree: The parent of each scored column that has one.
        multiplier: The noise multiplier of all three rounds that `levels` have: it decides about groups, the noise is the plan's.
    """
    domain, clock = plan.domain, plan.anchors[0]
    pairs, alone = _pairs(plan, tree), _tables_of_anchors(plan, tree)
    count = {"anchors": len(alone), **{kind: len(some) for kind, some in pairs.items()}}
    whole = sum(_SHARES[kind] for kind in count if count[kind])
    share = {kind: _SHARES[kind] / whole / many for kind, many in count.items() if many}
    # By public shares, not by the plan's noise: a hospital adds its own part, and all must decide the same.
    noise = {kind: multiplier / math.sqrt(plan.pair_share * part) for kind, part in share.items()}
    around = groups_of_clock(domain, clock.column, levels, noise=noise.get("clock", 0.0))
    hub = hub_of(plan, tree)
    kept = {anchor.column: anchor.groups for anchor in plan.anchors} | ({} if hub is None else {hub: None})
    found = [("anchors", *table) for table in alone]
    for kind, some in pairs.items():
        for pair in some:
            if kind == "clock":
                groups = groups_with_clock(domain, pair, levels, around, noise=noise[kind])
            else:
                groups = groups_of_pair(domain, pair, levels, kept, noise=noise[kind])
            found.append((kind, f"pair/{pair[0]}*{pair[1]}", pair, groups))
    sigma = {kind: 1 / math.sqrt(plan.pair_precision * part) for kind, part in share.items()}
    return tuple(Query(name, columns, groups, sigma[kind]) for kind, name, columns, groups in found)


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
    beside = sum(
        math.prod(query.shape(plan.domain)) for query in pair_queries(plan, full, {}, multiplier=0.0)
    )
    # Every column with the hub, and with a parent: none of which has more levels than the largest; and the hub's own.
    largest, *others = sorted((sizes[name] for name in plan.scored), reverse=True) or [0]
    return beside + 2 * largest * sum(others) + largest * sizes[plan.anchors[0].column]


def _pairs(plan: MeasurePlan, tree: Mapping[str, str]) -> dict[str, list[tuple[str, str]]]:
    """The two columns of each table that is not the anchors' own, by the share that they have."""
    clock, others = plan.anchors[0], plan.anchors[1:]
    hub, known = hub_of(plan, tree), _known(plan.domain, plan.anchors)
    members = [name for name in plan.domain.names if name not in known]
    return {
        "clock": [(name, clock.column) for name in members if name != hub],
        "others": [(name, other.column) for name in members for other in others],
        "hub": [(hub, name) for name in tree] if hub is not None else [],
        "tree": [(parent, name) for name, parent in tree.items() if parent != hub],
    }


def _tables_of_anchors(plan: MeasurePlan, tree: Mapping[str, str]) -> list[_Table]:
    """All anchors in one table where its cells are few, else each two; what anchors outline; and the hub with the clock."""
    anchors, clock, hub = plan.anchors, plan.anchors[0], hub_of(plan, tree)
    cells = math.prod(Structure(plan.domain, anchors, {}).shape)
    sets = [anchors] if cells <= _MOST_JOINT_CELLS else list(itertools.combinations(anchors, 2))
    tables: list[_Table] = [
        (
            "anchors/" + "*".join(a.column for a in some),
            tuple(a.column for a in some),
            tuple(a.groups for a in some),
        )
        for some in sets
        if len(some) > 1
    ]
    tables += [
        (f"when/{a.column}", (a.column, clock.column), (None, _outline(plan.domain.column(clock.column))))
        for a in anchors[1:]
        if a.groups is not None
    ]
    # The noise of many bins that cannot go below nothing would make rare events frequent: how many they are in all.
    anchored = {a.column for a in anchors}
    tables += [
        (f"came/{c.name}", (c.name,), (_outline(c),))
        for c in plan.domain.with_roles(Role.OUTCOME)
        if c.name not in anchored
    ]
    if hub is not None:
        # All that goes by the hub rests on this one table: it is counted as the state has it.
        tables.append((f"pair/{hub}*{clock.column}", (hub, clock.column), (None, clock.groups)))
    return tables


def _known(domain: Domain, anchors: Sequence[Anchor]) -> set[str]:
    """The columns that follow from the joint state, and anchors, which are asked of by it."""
    anchored = {anchor.column for anchor in anchors}
    return anchored | {name for name, outcome in domain.told_by.items() if outcome in anchored}


def _outline(column: Column) -> Groups:
    """An outcome in outline: came, did not, was there before; None for what is no outcome's time."""
    form = column.form
    if column.role is not Role.OUTCOME or not isinstance(form, Times):
        return None
    rest = column.size - form.events - int(form.prevalent)
    return (*(0,) * form.events, *(1,) * rest, *((2,) if form.prevalent else ()))


def _few_ends(column: Column) -> Groups:
    """The clock with its ends of follow-up in a few runs; None where there are no more."""
    form = column.form
    ends = len(form.censor_days) - 1 if isinstance(form, Times) else 0
    if not isinstance(form, Times) or ends <= _ENDS_IN_STATE:
        return None
    runs = [form.events + number * _ENDS_IN_STATE // ends for number in range(ends)]
    rest = range(max(runs) + 1, max(runs) + 1 + column.size - form.events - ends)
    return (*range(form.events), *runs, *rest)


def _discrete(noise_multiplier: float, count: int) -> Mechanism:
    return Mechanism(
        kind=MechanismKind.DISCRETE_GAUSSIAN, noise_multiplier=float(noise_multiplier), count=count
    )
