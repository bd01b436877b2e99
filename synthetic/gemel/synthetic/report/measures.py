"""A measure over several draws as one row: the median, the range over the draws, and the verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from gemel.synthetic.report.findings import Finding, Verdict

# Equal but for rounding is equal.
_CLOSE = 1e-9


@dataclass(frozen=True)
class Limit:
    """What a value must lie within; a bound that is None does not bind, and without any the row is for information."""

    least: float | None = None
    most: float | None = None

    @property
    def words(self) -> str:
        """As a reader sees it."""
        if self.least is not None and self.most is not None:
            return f"{self.least:g} to {self.most:g}"
        if self.least is not None:
            return f"≥ {self.least:g}"
        return "none" if self.most is None else f"≤ {self.most:g}"

    def beyond(self, value: float) -> float:
        """How far a value lies outside; 0 within."""
        below = 0.0 if self.least is None else self.least - value
        above = 0.0 if self.most is None else value - self.most
        return max(0.0, below, above)

    def verdict(self, value: float, by_chance: float | None = None) -> Verdict:
        """Of one value. One that lies outside no farther than chance puts hold-out patients is not told from chance."""
        if self.least is None and self.most is None:
            return Verdict.INFORMATION
        if self.beyond(value) <= _CLOSE:
            return Verdict.PASS
        is_chance = by_chance is not None and self.beyond(value) <= self.beyond(by_chance)
        return Verdict.NOT_TESTED if is_chance else Verdict.FAIL


NO_LIMIT = Limit()


def measured(
    block: str,
    measure: str,
    values: Sequence[float],
    limit: Limit = NO_LIMIT,
    *,
    internal: bool,
    baseline: float | None = None,
    detail: str = "",
    gates: bool = True,
    against_chance: bool = False,
) -> Finding:
    """The row of one value for each draw. A value that is not finite in any of them is "not tested".

    With `against_chance` the baseline is what hold-out patients have, and a median that fails no worse than they do is "not tested".
    """
    if not values or not all(map(math.isfinite, values)):
        return untested(block, measure, limit.words, internal=internal, detail=detail, gates=gates)
    value = statistics.median(values)
    several = len(values) > 1
    low, high = (min(values), max(values)) if several else (None, None)
    known = baseline is not None and math.isfinite(baseline)
    verdict = limit.verdict(value, baseline if known and against_chance else None)
    if verdict is Verdict.NOT_TESTED:
        detail = f"{detail}; too few patients to tell it from chance".removeprefix("; ")
    return Finding(
        block,
        measure,
        value,
        low,
        high,
        baseline if known else None,
        limit.words,
        verdict,
        internal=internal,
        detail=detail,
        gates=gates and verdict is not Verdict.INFORMATION,
    )


def untested(
    block: str, measure: str, threshold: str, *, internal: bool, detail: str = "", gates: bool = True
) -> Finding:
    """The row of what could not be measured."""
    return Finding(
        block,
        measure,
        None,
        None,
        None,
        None,
        threshold,
        Verdict.NOT_TESTED,
        internal=internal,
        detail=detail,
        gates=gates,
    )
