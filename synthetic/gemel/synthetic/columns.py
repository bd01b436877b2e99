"""Columns of a public domain: how a value becomes a level, and how a level becomes a value again.

Every bin is public: by unit and physiology, never from a hospital's data. A level drawn from a model becomes a value
within its bin by rules that look at no data either.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemel.core.dataset import CENSORED, OCCURRED, PREVALENT

Levels = NDArray[np.intp]
Floats = NDArray[np.float64]

MISSING = "missing"
# A bin as wide as this many times its lower edge is drawn evenly in log days: hazards fall over such spans.
_WIDE = 2.0


class Role(StrEnum):
    """What a column is to the question: all but features are anchors, that every table may be tied to."""

    FEATURE = "feature"
    TREATMENT = "treatment"
    OUTCOME = "outcome"
    TARGET = "target"


@dataclass(frozen=True)
class Numbers:
    """A number in public bins [edge, next edge), the last one closed.

    Attributes:
        edges: Strictly increasing. Values beyond them count as in the outermost bins.
        step: The finest step at which a value is told; 1 for whole numbers.
        stand_in: What a missing value counts as where none can be missing; None makes "missing" a level, the last.
    """

    edges: tuple[float, ...]
    step: float
    stand_in: float | None = None

    def __post_init__(self) -> None:
        if len(self.edges) < 2 or any(a >= b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError(f"edges must increase strictly: {self.edges}")

    @property
    def levels(self) -> tuple[str, ...]:
        """The names of the bins."""
        bins = zip(self.edges, self.edges[1:], strict=False)
        return (*(f"{a:g} to {b:g}" for a, b in bins), *([MISSING] if self.stand_in is None else []))

    def encode(self, values: NDArray[Any]) -> Levels:
        """Levels (n,) of values (n,), NaN where missing. Never fails on data: that would tell about them."""
        # In the precision in which values are kept, so that a value on an edge stays on its side.
        edges, found = np.asarray(self.edges, np.float32), np.asarray(values, np.float32)
        missing = np.isnan(found)
        filled = np.where(
            missing, np.float32(self.edges[0] if self.stand_in is None else self.stand_in), found
        )
        level = np.clip(np.searchsorted(edges, filled, side="right") - 1, 0, len(edges) - 2)
        return (np.where(missing, len(edges) - 1, level) if self.stand_in is None else level).astype(np.intp)

    def decode(self, levels: Levels, generator: np.random.Generator) -> Floats:
        """Values (n,) evenly within their bins, on multiples of the step; NaN where missing."""
        edges = np.asarray(self.edges, np.float64)
        inside = np.minimum(levels, len(edges) - 2)
        # The multiples of the step that lie in each bin; the last bin has its upper edge too.
        first = np.ceil(edges[:-1] / self.step - 1e-9)
        last = np.ceil(edges[1:] / self.step - 1e-9) - 1
        last[-1] = np.floor(edges[-1] / self.step + 1e-9)
        count = np.maximum(last - first + 1, 1)
        drawn = first[inside] + np.floor(generator.random(len(levels)) * count[inside])
        values: Floats = np.clip(drawn * self.step, edges[inside], edges[inside + 1])
        return np.where(levels == len(edges) - 1, np.nan, values)

    def within(self, low: float, high: float) -> tuple[int, ...]:
        """The levels that make up [low, high]. Raises ValueError when a bound cuts a bin."""
        low, high = max(low, self.edges[0]), min(high, self.edges[-1])
        if low not in self.edges or high not in self.edges or low >= high:
            raise ValueError(f"[{low:g}, {high:g}] is no run of the public bins {self.edges}")
        return tuple(range(self.edges.index(low), self.edges.index(high)))


@dataclass(frozen=True)
class Categories:
    """One of a public list of values. `stand_in` as for `Numbers`: one of the values, or None."""

    values: tuple[Any, ...]
    stand_in: Any = None

    @property
    def levels(self) -> tuple[str, ...]:
        """The values as text."""
        return (*(str(v) for v in self.values), *([MISSING] if self.stand_in is None else []))

    def encode(self, values: NDArray[Any]) -> Levels:
        """Levels (n,); what is not on the public list counts as missing."""
        absent = len(self.values) if self.stand_in is None else self.values.index(self.stand_in)
        found = np.asarray(values)
        level = np.full(len(found), absent, np.intp)
        for number, value in enumerate(self.values):
            level[found == value] = number
        return level

    def decode(self, levels: Levels, generator: np.random.Generator) -> NDArray[Any]:
        """Values (n,): float64 with NaN where all are numbers, else objects with None."""
        numeric = all(isinstance(v, int | float) for v in self.values)
        table = np.array([*self.values, np.nan if numeric else None], dtype=np.float64 if numeric else object)
        result: NDArray[Any] = table[levels]
        return result


@dataclass(frozen=True)
class Times:
    """Time and event as one column: in which public bin the event came, or in which one follow-up ended without it.

    Attributes:
        event_days: Edges from 0 on; an event belongs to the bin (edge, next edge].
        censor_days: Edges from 0 on of the end of follow-up, likewise; () when it ends with another column's time.
        to_the_end: One more level: followed, without the event, to the last edge. What happens later is not looked at.
        prevalent: One more level: had it before the index date.
    """

    event_days: tuple[float, ...]
    censor_days: tuple[float, ...] = ()
    to_the_end: bool = True
    prevalent: bool = False

    def __post_init__(self) -> None:
        if not (self.to_the_end or self.censor_days):
            raise ValueError("who has no event needs a level")

    @property
    def events(self) -> int:
        """The number of event bins: the first levels."""
        return len(self.event_days) - 1

    @property
    def levels(self) -> tuple[str, ...]:
        """Events first, then ends of follow-up, then the whole of it, then prevalent."""
        events = [
            f"event {a:g} to {b:g} d" for a, b in zip(self.event_days, self.event_days[1:], strict=False)
        ]
        ends = [
            f"left {a:g} to {b:g} d" for a, b in zip(self.censor_days, self.censor_days[1:], strict=False)
        ]
        whole = ["no event"] if self.to_the_end else []
        return (*events, *ends, *whole, *(["prevalent"] if self.prevalent else []))

    @property
    def span(self) -> tuple[Floats, Floats]:
        """(lowest, highest) day (levels,) of each level; the highest belongs to it. Prevalent: 0."""
        events, ends = np.asarray(self.event_days), np.asarray(self.censor_days or (0.0,))
        last = self.event_days[-1]
        tail_low = [last if self.censor_days else 0.0] * self.to_the_end + [0.0] * self.prevalent
        tail_high = [last] * self.to_the_end + [0.0] * self.prevalent
        low = np.concatenate([events[:-1], ends[:-1], tail_low])
        # Who was followed to the last edge left in no bin: that is the next level.
        left = np.minimum(ends[1:], last - self.to_the_end)
        return low, np.concatenate([events[1:], left, tail_high])

    def encode(self, days: NDArray[Any], event: NDArray[Any]) -> Levels:
        """Levels (n,) of days (n,) and of 1 occurred, 0 left, -1 prevalent (n,)."""
        days = np.nan_to_num(np.asarray(days, np.float64), nan=0.0)
        occurred = np.clip(np.searchsorted(self.event_days, days, side="left") - 1, 0, self.events - 1)
        left = np.full(len(days), self.events)
        if self.censor_days:
            ends = len(self.censor_days) - 1
            bins = np.clip(np.searchsorted(self.censor_days, days, side="left") - 1, 0, ends - 1)
            left += np.where(self.to_the_end & (days >= self.event_days[-1]), ends, bins)
        late = self.to_the_end & (days > self.event_days[-1])
        level = np.where((np.asarray(event) == OCCURRED) & ~late, occurred, left)
        if self.prevalent:
            level = np.where(np.asarray(event) == PREVALENT, len(self.levels) - 1, level)
        return level.astype(np.intp)

    def decode(
        self, levels: Levels, generator: np.random.Generator, follow_up: Floats | None = None
    ) -> tuple[Floats, NDArray[np.int8]]:
        """Whole days (n,) and 1, 0 or -1 (n,).

        `follow_up` (n,) days is the end of follow-up where another column has it: no event comes after it.
        """
        low, high = (edge[levels] for edge in self.span)
        if follow_up is not None:
            low, high = np.minimum(low, follow_up - 1), np.minimum(high, follow_up)
        fraction = _spread(levels, generator)
        even = low + fraction * (high - low)
        in_logs = np.exp((1 - fraction) * np.log(np.maximum(low, 1)) + fraction * np.log(np.maximum(high, 1)))
        days = np.where((low > 0) & (high > _WIDE * low), in_logs, even)
        days = np.minimum(np.floor(days) + 1, np.maximum(high, 1))
        status = np.where(levels < self.events, OCCURRED, CENSORED).astype(np.int8)
        if follow_up is not None:
            days = np.where(levels < self.events, np.minimum(days, follow_up), follow_up)
        if self.prevalent:
            before = levels == len(self.levels) - 1
            days, status = np.where(before, 0.0, days), np.where(before, np.int8(PREVALENT), status)
        return days, status


def _spread(levels: Levels, generator: np.random.Generator) -> Floats:
    """Numbers in [0, 1) (n,), those of each level spread evenly: one in each of as many equal parts as it has rows."""
    shuffle = generator.permutation(len(levels))
    order = shuffle[np.argsort(levels[shuffle], kind="stable")]
    ordered, count = levels[order], np.bincount(levels)
    rank = np.arange(len(levels)) - (np.cumsum(count) - count)[ordered]
    found = np.empty(len(levels))
    found[order] = (rank + generator.random(len(levels))) / count[ordered]
    return found


Form = Numbers | Categories | Times


@dataclass(frozen=True)
class Column:
    """One column of a domain."""

    name: str
    title: str
    role: Role
    form: Form

    @property
    def levels(self) -> tuple[str, ...]:
        """The names of its levels, in their order."""
        return self.form.levels

    @property
    def size(self) -> int:
        """How many levels there are."""
        return len(self.levels)

    @property
    def is_ordered(self) -> bool:
        """Whether neighbouring levels are neighbouring values ("missing" aside)."""
        return not isinstance(self.form, Categories)
