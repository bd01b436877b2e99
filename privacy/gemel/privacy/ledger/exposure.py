"""What each person was part of, and whether one more plan keeps all of them under the cap.

A person's history is the set of charges that stand and touch them. The cap holds for the ε of each history's
composition (privacy loss distributions). Most people are cleared at once by an upper bound on it, from Rényi curves;
for who remains, each different history is accounted for by itself, the worst first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gemel.core.mechanism import Charge, Mechanism, Share
from gemel.privacy import renyi
from gemel.privacy.ledger.histories import Histories, Verdict, judge
from gemel.privacy.ledger.people import Bits, Touched

# Every second order is enough to clear people; who is not cleared is looked at more closely.
_CHOSEN = np.arange(0, len(renyi.ORDERS), 2)
_ORDERS = renyi.ORDERS[_CHOSEN]
_BLOCK = 1 << 12  # persons at once, so that what is unpacked stays small
# Up to this many (person, set) pairs, the worst-off patient's ε is found exactly even when no decision needs it.
_SMALL = 2 * 10**6

Numbers = NDArray[np.int64]
_Key = tuple[str, float, float]


@dataclass
class _Cell:
    """People who were touched by the same shares of one study, and what stands charged to each of them."""

    study_sha256: str
    shares: tuple[Share, ...]
    bits: Bits
    paid: tuple[Mechanism, ...]


@dataclass(frozen=True)
class Group:
    """People who would pay the same for a plan: their numbers, shape (people,), and whether some are new."""

    numbers: Numbers
    newcomers: bool
    plan: tuple[Mechanism, ...]


@dataclass
class Exposure:
    """What the persons of a register were part of; kept up to date reservation by reservation."""

    delta: float
    persons: int = 0
    _cells: list[_Cell] = field(default_factory=list)
    # Sums of the Rényi curves of the first `_summed` cells: the slope of all that is linear in the order, as every
    # full-batch Gaussian is, shape (persons,), and the rest, shape (persons, orders).
    _slopes: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    _rests: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, len(_ORDERS)), np.float32))
    _summed: int = 0

    def reserve(
        self, study_sha256: str, charges: Sequence[Charge], sets: Mapping[Share, Bits], *, persons: int
    ) -> None:
        """Take in a reservation: sets of shape (⌈persons / 8⌉,); there are `persons` now, never fewer."""
        self.persons = persons
        for shares, bits in _cells(sets):
            self._cells.append(_Cell(study_sha256, shares, bits, _paid(shares, charges)))

    def charge_again(self, study_sha256: str, charges: Sequence[Charge]) -> None:
        """Replace what stands charged for a study, after some of it was given back."""
        for cell in self._cells:
            if cell.study_sha256 == study_sha256:
                cell.paid = _paid(cell.shares, charges)
        self._slopes, self._rests, self._summed = self._slopes[:0], self._rests[:0], 0

    def same_people(self, study_sha256: str, found: Touched) -> bool:
        """Whether a study was reserved for these very people."""
        if found.added:
            return False
        before = dict(self._cells_of(study_sha256))
        now = dict(_cells(found.sets))
        return set(now) == set(before) and all(
            np.array_equal(_longer(before[shares], len(bits)), bits) for shares, bits in now.items()
        )

    def counts(self, study_sha256: str) -> dict[Share, int]:
        """How many people each share of a study means; a share of nobody is left out."""
        counts: dict[Share, int] = {}
        for shares, bits in self._cells_of(study_sha256):
            for share in shares:
                counts[share] = counts.get(share, 0) + int(np.bitwise_count(bits).sum())
        return counts

    def verdict(self, charges: Sequence[Charge], found: Touched, *, cap: float) -> Verdict:
        """Whether everybody whom a plan touches stays under the cap, and where the worst-off would be."""
        groups = []
        for shares, bits in _cells(found.sets):
            numbers = np.flatnonzero(np.unpackbits(bits, bitorder="little", count=found.persons))
            known = numbers[: np.searchsorted(numbers, self.persons)]
            groups.append(Group(known, len(known) < len(numbers), _paid(shares, charges)))
        return self._judge(groups, cap=cap)

    def _cells_of(self, study_sha256: str) -> Iterator[tuple[tuple[Share, ...], Bits]]:
        return ((c.shares, c.bits) for c in self._cells if c.study_sha256 == study_sha256)

    def worst(self, *, cap: float) -> float:
        """ε of the person who has spent most, exact unless the ledger is large (then a bound)."""
        return self._judge([Group(np.arange(self.persons), False, ())], cap=cap).epsilon_after

    def _judge(self, groups: Sequence[Group], *, cap: float) -> Verdict:
        if sum(len(group.numbers) for group in groups) * len(self._cells) <= _SMALL:
            return judge(self._histories(groups), cap=cap, delta=self.delta, for_the_record=True)
        bounds = [self._bounds(group) for group in groups]
        cleared = self._worst_cleared(groups, bounds, cap=cap)
        # Not `>`: what is not a number clears nobody.
        undecided = [_those(group, ~(bound <= cap)) for group, bound in zip(groups, bounds, strict=True)]
        if not any(len(group.numbers) or group.newcomers for group in undecided):
            return cleared
        for some in (_only_the_worst(groups, bounds), undecided):
            found = judge(self._histories(some), cap=cap, delta=self.delta, for_the_record=False)
            if not found.admitted:
                return found
        return max(cleared, found, key=lambda verdict: verdict.epsilon_after)

    # --- Rényi curves ----------------------------------------------------------------------------

    def _sum_up(self) -> None:
        """Bring everybody's sums up to date."""
        newcomers = self.persons - len(self._slopes)
        if newcomers:
            self._slopes = np.concatenate([self._slopes, np.zeros(newcomers, np.float32)])
            self._rests = np.concatenate([self._rests, np.zeros((newcomers, len(_ORDERS)), np.float32)])
        others: dict[tuple[Share, ...], list[tuple[_Cell, NDArray[np.float64]]]] = {}
        for cell in self._cells[self._summed :]:
            slope, rest = _curve(cell.paid)
            members = np.unpackbits(cell.bits, bitorder="little")[: self.persons]
            self._slopes[: len(members)] += np.multiply(members, slope, dtype=np.float32)
            if rest.any():
                others.setdefault(cell.shares, []).append((cell, rest))
        for found in others.values():
            _add(self._rests, [cell for cell, _ in found], np.array([rest for _, rest in found], np.float32))
        self._summed = len(self._cells)

    def _bounds(self, group: Group) -> NDArray[np.float64]:
        """Upper bounds on ε with the plan, shape (people + 1,); the last is that of a newcomer, -1 if there is none."""
        self._sum_up()
        # Sums in float32 of terms >= 0, times the most that they may have lost.
        margin = 1 + (len(self._cells) + 8) * 2.0**-22
        plan = sum((renyi.curve(m) for m in group.plan), np.zeros(len(renyi.ORDERS)))
        bounds = np.full(len(group.numbers) + 1, -1.0)
        for start in range(0, len(group.numbers), _BLOCK):
            block = group.numbers[start : start + _BLOCK]
            curves = np.full((len(block), len(renyi.ORDERS)), np.inf)
            slopes, rests = self._slopes[block].astype(np.float64), self._rests[block].astype(np.float64)
            curves[:, _CHOSEN] = (slopes[:, None] * _ORDERS + rests) * margin + plan[_CHOSEN]
            bounds[start : start + len(block)] = renyi.epsilon(curves, delta=self.delta)
        if group.newcomers:
            bounds[-1] = renyi.epsilon(plan, delta=self.delta)
        return bounds

    def _worst_cleared(
        self, groups: Sequence[Group], bounds: Sequence[NDArray[np.float64]], *, cap: float
    ) -> Verdict:
        """Where the worst-off of those stands whom the curves clear: bounds, before and after."""
        worst = Verdict(True, 0.0, 0.0)
        for group, bound in zip(groups, bounds, strict=True):
            clear = np.where(bound <= cap, bound, -1.0)
            at = int(clear.argmax())
            if clear[at] > worst.epsilon_after:
                alone = Group(group.numbers[at : at + 1], False, ())
                before = max(0.0, float(self._bounds(alone).max()))
                worst = Verdict(True, before, float(clear[at]))
        return worst

    # --- histories -------------------------------------------------------------------------------

    def _histories(self, groups: Sequence[Group]) -> Histories:
        """The different histories of some people, with the plan of their group."""
        keys: dict[_Key, int] = {}
        paid = [_counts(cell.paid, keys) for cell in self._cells]
        plans = [_counts(group.plan, keys) for group in groups]
        table, added = _table(paid, len(keys)), _table(plans, len(keys))
        befores, afters = [], []
        for group, plan in zip(groups, added, strict=True):
            rows = self._memberships(group.numbers)
            before = np.concatenate(
                [(rows[s : s + _BLOCK].astype(np.float64) @ table) for s in range(0, len(rows), _BLOCK)]
                + [np.zeros((int(group.newcomers), len(keys)))]
            )
            before = np.unique(np.rint(before).astype(np.int64), axis=0)
            befores.append(before)
            afters.append(before + plan.astype(np.int64))
        nothing = np.zeros((0, len(keys)), dtype=np.int64)
        return Histories(
            mechanisms=tuple(
                Mechanism(kind=kind, noise_multiplier=z, sample_rate=q)  # type: ignore[arg-type]
                for kind, z, q in keys
            ),
            before=np.concatenate([nothing, *befores]),
            after=np.concatenate([nothing, *afters]),
        )

    def _memberships(self, numbers: Numbers) -> NDArray[np.uint8]:
        """The different memberships of some people, shape (memberships, cells), 0 or 1."""
        found = [np.zeros((0, -(-len(self._cells) // 8)), dtype=np.uint8)]
        matrix = _matrix(self._cells, self.persons)
        for block in np.unique(numbers // _BLOCK).tolist():
            columns = numbers[numbers // _BLOCK == block] - block * _BLOCK
            packed = matrix[:, block * _BLOCK // 8 : (block + 1) * _BLOCK // 8]
            members = np.unpackbits(packed, axis=1, bitorder="little")[:, columns]
            found.append(np.unique(np.packbits(members, axis=0, bitorder="little").T, axis=0))
        rows = np.unique(np.concatenate(found), axis=0)
        return np.unpackbits(rows, axis=1, bitorder="little", count=len(self._cells))


def _cells(sets: Mapping[Share, Bits]) -> Iterator[tuple[tuple[Share, ...], Bits]]:
    """People by the shares that touch them, as bits; who is in none is left out."""
    shares = sorted(sets)
    for code in range(1, 1 << len(shares)):
        inside = [share for position, share in enumerate(shares) if code >> position & 1]
        bits = np.bitwise_and.reduce([sets[share] for share in inside])
        for share in shares:
            if share not in inside:
                bits &= ~sets[share]
        if bits.any():
            yield tuple(inside), bits


def _longer(bits: Bits, size: int) -> Bits:
    return np.concatenate([bits, np.zeros(size - len(bits), dtype=np.uint8)])


def _paid(shares: Sequence[Share], charges: Sequence[Charge]) -> tuple[Mechanism, ...]:
    return tuple(m for charge in charges if charge.share in shares for m in charge.mechanisms)


def _those(group: Group, chosen: NDArray[np.bool_]) -> Group:
    return Group(group.numbers[chosen[:-1]], bool(chosen[-1]), group.plan)


def _only_the_worst(groups: Sequence[Group], bounds: Sequence[NDArray[np.float64]]) -> list[Group]:
    group, bound = max(zip(groups, bounds, strict=True), key=lambda pair: float(pair[1].max()))
    chosen = np.zeros(len(bound), dtype=bool)
    chosen[int(bound.argmax())] = True
    return [_those(group, chosen)]


def _matrix(cells: Sequence[_Cell], persons: int) -> Bits:
    """The cells' bits, shape (cells, bytes): whole blocks, zero where a cell is older than a person."""
    matrix = np.zeros((len(cells), -(-persons // _BLOCK) * _BLOCK // 8), dtype=np.uint8)
    for row, cell in zip(matrix, cells, strict=True):
        row[: len(cell.bits)] = cell.bits
    return matrix


def _curve(mechanisms: Sequence[Mechanism]) -> tuple[np.float32, NDArray[np.float64]]:
    """The sum of Rényi curves: the slope of the linear ones, and the others, shape (orders,)."""
    slope, rest = 0.0, np.zeros(len(_ORDERS))
    for mechanism in mechanisms:
        slopes = renyi.curve(mechanism)[_CHOSEN] / _ORDERS
        if np.ptp(slopes) <= 1e-12 * slopes[0]:
            slope += float(slopes.max())
        else:
            rest += slopes * _ORDERS
    return np.float32(slope), rest


def _add(sums: NDArray[np.float32], cells: Sequence[_Cell], curves: NDArray[np.float32]) -> None:
    """Add the curves of cells, shape (cells, orders), to their members' sums, shape (persons, orders)."""
    matrix = _matrix(cells, len(sums))
    for start in range(0, len(sums), _BLOCK):
        packed = matrix[:, start // 8 : (start + _BLOCK) // 8]
        anybody = np.flatnonzero(np.unpackbits(np.bitwise_or.reduce(packed, axis=0), bitorder="little"))
        if len(anybody):
            members = np.unpackbits(packed, axis=1, bitorder="little")[:, anybody].astype(np.float32)
            sums[start + anybody] += members.T @ curves


def _counts(mechanisms: Sequence[Mechanism], keys: dict[_Key, int]) -> dict[int, int]:
    """How often each mechanism runs, by its column; new ones get the next column."""
    counts: dict[int, int] = {}
    for m in mechanisms:
        column = keys.setdefault((m.kind, m.noise_multiplier, m.sample_rate), len(keys))
        counts[column] = counts.get(column, 0) + m.count
    return counts


def _table(rows: Sequence[Mapping[int, int]], columns: int) -> NDArray[np.float64]:
    table = np.zeros((len(rows), columns))
    for number, counted in enumerate(rows):
        for column, count in counted.items():
            table[number, column] = count
    return table
