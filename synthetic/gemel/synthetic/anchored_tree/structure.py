"""The shape of the model: which columns are anchors, whose parent is who, and how a query reads the marginals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemel.core.errors import GemelError
from gemel.synthetic.anchored_tree.inference import IMPOSSIBLE, Beliefs, Floats, Forest
from gemel.synthetic.anchored_tree.queries import Query
from gemel.synthetic.domain import Codes, Domain


class Anchor(NamedTuple):
    """A column in the joint state: each level's group, or every level by itself (None)."""

    column: str
    groups: tuple[int, ...] | None


@dataclass(frozen=True)
class Structure:
    """Anchors and a forest of members. An anchor that is only there in groups is a member as well."""

    domain: Domain
    anchors: tuple[Anchor, ...]
    parent: Mapping[str, str]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """How many groups each anchor has."""
        sizes = self.domain.sizes
        return tuple(sizes[a.column] if a.groups is None else max(a.groups) + 1 for a in self.anchors)

    @cached_property
    def members(self) -> tuple[str, ...]:
        """The columns that are drawn given the state, parents before children."""
        whole = {a.column for a in self.anchors if a.groups is None}
        waiting = [name for name in self.domain.names if name not in whole]
        order: list[str] = []
        while waiting:
            ready = [name for name in waiting if self.parent.get(name) is None or self.parent[name] in order]
            if not ready:
                raise GemelError("GEM705", "The tree of the members has a cycle or an unknown parent.")
            order += ready
            waiting = [name for name in waiting if name not in ready]
        return tuple(order)

    @cached_property
    def groups_of(self) -> tuple[NDArray[np.intp], ...]:
        """For each anchor its group in each state (S,)."""
        return tuple(np.unravel_index(np.arange(math.prod(self.shape)), self.shape))

    def axis(self, column: str) -> int | None:
        """The number of the anchor that a column is; None where it is a member only."""
        return next((i for i, a in enumerate(self.anchors) if a.column == column), None)

    def place(self, column: str) -> int:
        """The number of the anchor that a column is; KeyError where it is none."""
        axis = self.axis(column)
        if axis is None:
            raise KeyError(column)
        return axis

    def anchor_groups(self, axis: int) -> NDArray[np.intp]:
        """The group of each level of an anchor."""
        anchor = self.anchors[axis]
        size = self.domain.sizes[anchor.column]
        return np.arange(size) if anchor.groups is None else np.asarray(anchor.groups, np.intp)

    def state_of(self, codes: Codes) -> NDArray[np.intp]:
        """The state (n,) of rows of levels."""
        grouped = [self.anchor_groups(i)[codes[a.column]] for i, a in enumerate(self.anchors)]
        return np.asarray(np.ravel_multi_index(tuple(grouped), self.shape), dtype=np.intp)

    @cached_property
    def forest(self) -> Forest:
        """What inference needs, with the level pairs that cannot be."""
        domain, states = self.domain, math.prod(self.shape)
        possible = np.zeros(states)
        allowed: dict[str, Floats] = {}
        for i, anchor in enumerate(self.anchors):
            if anchor.groups is not None:
                fits = self.anchor_groups(i)[None, :] == self.groups_of[i][:, None]
                allowed[anchor.column] = np.where(fits, 0.0, IMPOSSIBLE)
            for j in range(i):
                mask = self._impossible(j, anchor.column)
                if mask is not None and anchor.groups is None:
                    possible[mask[self.groups_of[j], self.groups_of[i]]] = IMPOSSIBLE
        for member in self.members:
            for i, anchor in enumerate(self.anchors):
                mask = self._impossible(i, member) if member != anchor.column else None
                if mask is not None:
                    barred = np.where(mask[self.groups_of[i]], IMPOSSIBLE, 0.0)
                    allowed[member] = np.minimum(allowed.get(member, 0.0), barred)
        return Forest(
            states, {m: domain.sizes[m] for m in self.members}, dict(self.parent), allowed, possible
        )

    def _impossible(self, axis: int, column: str) -> NDArray[np.bool_] | None:
        """Which groups of an anchor and levels of another column cannot be: (groups, levels)."""
        mask = self.domain.impossible(self.anchors[axis].column, column)
        if mask is None:
            return None
        groups = self.anchor_groups(axis)
        return np.stack([mask[groups == group].all(axis=0) for group in range(self.shape[axis])])

    def reading(self, query: Query) -> Reading:
        """How the query's table is read off the marginals. Raises GEM705 for one that no clique of the model holds."""
        fine = [
            c
            for c, g in zip(query.columns, query.groups, strict=True)
            if not self._is_function_of_state(c, g)
        ]
        if len(fine) > 2 or (len(fine) == 2 and (len(query.columns) > 2 or not self._are_linked(*fine))):
            raise GemelError("GEM705", f"The model holds no clique for {query.name}.")
        child = fine[0] if len(fine) == 1 else next((x for x in fine if self.parent.get(x) in fine), None)
        parent = self.parent[child] if child is not None and len(fine) == 2 else None
        rest = [i for i, c in enumerate(query.columns) if c != child]
        columns = [query.columns[i] for i in rest]
        shape = query.shape(self.domain)
        if parent is not None:
            other = _indicator(query.groups[rest[0]], self.domain.sizes[parent])
        else:
            cells = [self._cell_of_state(c, query.groups[i]) for i, c in zip(rest, columns, strict=True)]
            sizes = tuple(shape[i] for i in rest) or (1,)
            flat = (
                np.ravel_multi_index(tuple(cells), sizes)
                if cells
                else np.zeros(len(self.groups_of[0]), np.intp)
            )
            other = np.eye(math.prod(sizes))[flat]
        own = None
        if child is not None:
            place = query.columns.index(child)
            own = _indicator(query.groups[place], self.domain.sizes[child])
            rest = [*rest, place]
        return Reading(child, parent is not None, other, own, tuple(rest), shape)

    def reading_of_marks(self, pair: tuple[str, str], marks: Sequence[Floats]) -> Reading | None:
        """How sums of products of marks (levels, marks) of two columns are read; None where no clique of the model holds both."""
        for i, (member, other) in enumerate((pair, pair[::-1])):
            axis = self.axis(other)
            if self.parent.get(member) == other:
                factor = marks[1 - i]
            elif axis is not None and self.anchors[axis].groups is None and self.axis(member) is None:
                factor = marks[1 - i][self.groups_of[axis]]
            else:
                continue
            shape = (marks[0].shape[1], marks[1].shape[1])
            return Reading(member, self.parent.get(member) == other, factor, marks[i], (1 - i, i), shape)
        return None

    def _is_function_of_state(self, column: str, groups: tuple[int, ...] | None) -> bool:
        axis = self.axis(column)
        if axis is None:
            return False
        anchor = self.anchors[axis]
        if anchor.groups is None:
            return True
        if groups is None:
            return False
        found: dict[int, int] = {}
        return all(found.setdefault(a, g) == g for a, g in zip(anchor.groups, groups, strict=True))

    def _cell_of_state(self, column: str, groups: tuple[int, ...] | None) -> NDArray[np.intp]:
        axis = self.place(column)
        cells = np.zeros(self.shape[axis], np.intp)
        own = self.anchor_groups(axis)
        cells[own] = np.arange(len(own)) if groups is None else np.asarray(groups)
        return cells[self.groups_of[axis]]

    def _are_linked(self, first: str, second: str) -> bool:
        return self.parent.get(first) == second or self.parent.get(second) == first


@dataclass(frozen=True)
class Reading:
    """A query as a linear map of the marginals, and back.

    Attributes:
        member: Whose marginal it reads; None for the state's own.
        with_parent: Whether the marginal with the parent, else the one with the state.
        other: (states or levels of the parent, cells): 0 or 1, or marks. own: (levels of the member, cells) likewise, or None.
        order: Which of the query's axes the cells of `other`, then those of `own`, are. shape: The query's.
    """

    member: str | None
    with_parent: bool
    other: Floats
    own: Floats | None
    order: tuple[int, ...]
    shape: tuple[int, ...]

    def read(self, beliefs: Beliefs) -> Floats:
        """The table's expected shares, of the query's shape."""
        if self.member is None or self.own is None:
            found = self.other.T @ beliefs.state
        else:
            joint = beliefs.with_parent if self.with_parent else beliefs.with_state
            found = self.other.T @ joint[self.member] @ self.own
        ordered = found.reshape([self.shape[i] for i in self.order])
        return ordered.transpose(np.argsort(self.order)) if self.order else ordered

    def spread(self, potential: Floats) -> Floats:
        """A potential of the query's shape as one of the marginal that it reads."""
        ordered = potential.transpose(self.order).reshape(self.other.shape[1], -1)
        spread = self.other @ ordered
        return spread[:, 0] if self.own is None else spread @ self.own.T


def _indicator(groups: tuple[int, ...] | None, size: int) -> Floats:
    return np.eye(size) if groups is None else np.eye(max(groups) + 1)[np.asarray(groups)]
