"""The fitted model: exact marginals, and any number of cohorts drawn from it. No patient is touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemel.core.errors import GemelError
from gemel.synthetic.anchored_tree.inference import IMPOSSIBLE, Beliefs, Floats, infer
from gemel.synthetic.anchored_tree.queries import Query
from gemel.synthetic.anchored_tree.structure import Structure
from gemel.synthetic.columns import Levels
from gemel.synthetic.domain import Domain

Given = Mapping[str, Iterable[int]]
# A condition that fewer than one in this many virtual patients meet is noise: e^-25 is far below what is measured.
_LEAST_CHANCE = 1e-9


@dataclass(frozen=True)
class TreeModel:
    """A distribution over rows of levels.

    Attributes:
        state, with_state, with_parent: Log potentials, as `inference.infer` takes them.
        total: About how many patients the tables were counted on, from the noisy tables; nobody here knows the number.
        queries: The tables that it was fitted to, with their noise.
    """

    structure: Structure
    state: Floats
    with_state: Mapping[str, Floats]
    with_parent: Mapping[str, Floats]
    total: float
    queries: tuple[Query, ...]

    @property
    def domain(self) -> Domain:
        """The public columns."""
        return self.structure.domain

    @property
    def potentials(self) -> dict[str, Floats]:
        """All log potentials by name, as a file keeps them: what `with_potentials` takes."""
        return {
            "state": self.state,
            **{f"with_state/{name}": table for name, table in self.with_state.items()},
            **{f"with_parent/{name}": table for name, table in self.with_parent.items()},
        }

    @classmethod
    def with_potentials(
        cls,
        structure: Structure,
        potentials: Mapping[str, NDArray[Any]],
        *,
        total: float,
        queries: tuple[Query, ...],
    ) -> TreeModel:
        """The model of potentials that were fitted before. Raises GEM763 for others than this structure has."""
        forest = structure.forest
        shapes = {
            "state": (forest.states,),
            **{f"with_state/{name}": (forest.states, size) for name, size in forest.members.items()},
            **{
                f"with_parent/{name}": (forest.members[parent], forest.members[name])
                for name, parent in forest.parent.items()
            },
        }
        if {name: table.shape for name, table in potentials.items()} != shapes or not all(
            table.dtype == np.float64 and np.isfinite(table).all() for table in potentials.values()
        ):
            raise GemelError("GEM763", "The potentials are not those of the tables beside them.")
        return cls(
            structure,
            potentials["state"],
            {name: potentials[f"with_state/{name}"] for name in forest.members},
            {name: potentials[f"with_parent/{name}"] for name in forest.parent},
            total,
            queries,
        )

    @cached_property
    def beliefs(self) -> Beliefs:
        """The exact marginals of the cliques."""
        return infer(self.structure.forest, self.state, self.with_state, self.with_parent)

    def expected(self, query: Query) -> Floats:
        """The shares of virtual patients in a measured table's cells."""
        return self.structure.reading(query).read(self.beliefs)

    def probability(self, given: Given) -> float:
        """The share of virtual patients who meet a condition."""
        return float(np.exp(self._conditioned(given).log_total - self.beliefs.log_total))

    def marginal(self, *columns: str) -> Floats:
        """The exact joint shares of one or two columns, whether their table was measured or not."""
        sizes = [self.domain.sizes[c] for c in columns]
        if len(columns) == 1:
            return self._one_way(self.beliefs, columns[0])
        first, second = columns
        rows = []
        for level in range(sizes[0]):
            chance = self.probability({first: [level]})
            rows.append(chance * self._one_way(self._conditioned({first: [level]}), second))
        return np.stack(rows)

    def sample(self, patients: int, *, seed: int, given: Given | None = None) -> dict[str, Levels]:
        """Rows of levels {column: (n,)}; equal arguments give equal rows.

        Rows are drawn so that within each state and parent's level a column has its expected counts to within one
        (systematic sampling), in an order drawn anew for each column. So each row follows the model exactly, columns
        that the model holds independent are, and shares have less chance in them than those of independent rows.

        Args:
            patients: How many.
            seed: Of `numpy.random.SeedSequence`.
            given: Levels that columns must have: the model is conditioned exactly, no row is drawn in vain.

        Raises:
            GemelError: GEM704 for an unknown column or level, or a condition that nobody in the model meets.
        """
        if patients < 1:
            raise ValueError(f"patients must be at least 1, got {patients}")
        beliefs = self._conditioned(given) if given else self.beliefs
        structure, generator = (
            self.structure,
            np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,))),
        )
        shares = np.cumsum(beliefs.state)
        positions = (generator.permutation(patients) + generator.random()) / patients
        state = np.minimum(np.searchsorted(shares / shares[-1], positions, side="right"), len(shares) - 1)
        drawn: dict[str, Levels] = {}
        runs = structure.groups_of[0]
        for member in structure.members:
            parent, upward = structure.parent.get(member), beliefs.upward[member]
            if parent is None:
                drawn[member] = _draw(upward, state, generator, runs=runs)
            else:
                pair = np.exp(self.with_parent[member] - self.with_parent[member].max())
                drawn[member] = _draw(upward, state, generator, runs=runs, parent=drawn[parent], pair=pair)
        for i, anchor in enumerate(structure.anchors):
            if anchor.groups is None:
                drawn[anchor.column] = structure.groups_of[i][state]
        return {name: drawn[name] for name in self.domain.names}

    def _conditioned(self, given: Given) -> Beliefs:
        """The marginals given that columns have one of some levels. Raises GEM704 when nobody does."""
        structure = self.structure
        state, with_state = self.state.copy(), dict(self.with_state)
        for column, wanted in given.items():
            size = self.domain.sizes.get(column)
            levels = sorted({int(level) for level in wanted})
            if size is None or not levels or levels[0] < 0 or levels[-1] >= size:
                raise GemelError("GEM704", f"{column} has no levels {levels}.")
            barred = np.full(size, 10 * IMPOSSIBLE)
            barred[levels] = 0.0
            axis = structure.axis(column)
            if column in with_state:
                with_state[column] = with_state[column] + barred
            elif axis is not None:
                state = state + barred[structure.groups_of[axis]]
        beliefs = infer(structure.forest, state, with_state, self.with_parent)
        if beliefs.log_total - self.beliefs.log_total < np.log(_LEAST_CHANCE):
            raise GemelError(
                "GEM704", f"Nobody in the model has these levels of {', '.join(given)} together."
            )
        return beliefs

    def _one_way(self, beliefs: Beliefs, column: str) -> Floats:
        if column in self.with_state:
            return np.asarray(beliefs.with_state[column].sum(axis=0), np.float64)
        groups = self.structure.groups_of[self.structure.place(column)]
        found = np.bincount(groups, weights=beliefs.state, minlength=self.domain.sizes[column])
        return found.astype(np.float64)


def _draw(
    upward: Floats,
    state: NDArray[np.intp],
    generator: np.random.Generator,
    *,
    runs: NDArray[np.intp],
    parent: Levels | None = None,
    pair: Floats | None = None,
) -> Levels:
    """A level for each row by its state, and its parent's level where `pair` (levels of the parent, levels) is given.

    Rows stand in the order of their state's run, in chance order of state and parent within it. Levels are halved again and
    again: of the rows that share a range of levels, those that get its upper half are chosen by systematic sampling along that order.
    """
    above = 1 if pair is None else len(pair)
    group = state if parent is None else state * above + parent
    present, group = np.unique(group, return_inverse=True)
    shares = upward[present // above] * (1.0 if pair is None else pair[present % above])
    below = np.concatenate([np.zeros((len(present), 1)), np.cumsum(shares, axis=1)], axis=1)
    rank = np.empty(len(present), np.intp)
    rank[np.lexsort((generator.random(len(present)), runs[present // above]))] = np.arange(len(present))
    shuffle = generator.permutation(len(group))
    rows = shuffle[np.argsort(rank[group[shuffle]], kind="stable")]
    group = group[rows]
    low, high = np.zeros(len(rows), np.intp), np.full(len(rows), upward.shape[1])
    while (high - low).max() > 1:
        # Ranges of the same width start apart, so where they start tells them.
        order = np.argsort(low, kind="stable")
        rows, group, low, high = rows[order], group[order], low[order], high[order]
        middle = (low + high) // 2
        base = below[group, low]
        whole = below[group, high] - base
        part = np.where(low < middle, (below[group, middle] - base) / np.where(whole > 0, whole, 1.0), 0.0)
        starts = np.flatnonzero(np.concatenate([[True], low[1:] != low[:-1]]))
        sums = np.cumsum(part)
        first = np.concatenate([[0.0], sums])[starts] - generator.random(len(starts))
        sums -= np.repeat(first, np.diff(np.append(starts, len(rows))))
        lower = (np.floor(sums) > np.floor(sums - part)) & (part > 0) | (part >= 1)
        low, high = np.where(lower, low, middle), np.where(lower & (low < middle), middle, high)
    levels = np.empty(len(rows), np.intp)
    levels[rows] = low
    return levels
