"""Parts of SQL that cohorts, features and targets share: which statements count, and what a bound is worth."""

from __future__ import annotations

from collections.abc import Sequence

from gemel.core.programme import Bounds, Comparison, Threshold

# What the laboratory's own bound must be for all that it allows to meet a condition; of "<", "<=" and no bound.
_STRICT = {Comparison.BELOW: ("<", "<="), Comparison.ABOVE: (">", ">=")}
_WIDE = {Comparison.AT_MOST: ("<", "<="), Comparison.AT_LEAST: (">", ">=")}


def of_concepts(names: Sequence[str]) -> str:
    """A condition on the column `concept`."""
    return f"concept IN ({', '.join(quote(name) for name in names)})"


def quote(text: str) -> str:
    """A text literal."""
    return "'" + text.replace("'", "''") + "'"


def double(value: float) -> str:
    """A DOUBLE literal (a decimal point alone would make it a DECIMAL)."""
    return f"CAST('{float(value)!r}' AS DOUBLE)"


def within(start_days: int | None, end_days: int | None, *, last: str = "day") -> str:
    """A condition on days from the index date, both ends included; `last` may be the column where a statement ends."""
    parts = [f"{last} >= {start_days:d}"] if start_days is not None else []
    parts += [f"day <= {end_days:d}"] if end_days is not None else []
    return " AND ".join(parts) or "TRUE"


def meets(threshold: Threshold | None) -> str:
    """A condition on `value` and `bound`: a bound meets a threshold when every value that it allows does.

    "<7" meets "at most 7" and "below 7", but not "below 6"; ">7" meets neither.
    """
    if threshold is None:
        return "TRUE"
    limit = double(threshold.value)
    comparison = threshold.comparison
    if comparison in _STRICT:
        strict, wide = _STRICT[comparison]
        return (
            f"((bound IS NULL OR bound = '{wide}') AND value {strict} {limit} "
            f"OR bound = '{strict}' AND value {wide} {limit})"
        )
    strict, wide = _WIDE[comparison]
    return f"((bound IS NULL OR bound IN ('{strict}', '{wide}')) AND value {wide} {limit})"


def number(bounds: Bounds) -> str:
    """The value that a statement counts as; NULL when it has none."""
    if bounds is Bounds.LEAVE_OUT:
        return "CASE WHEN bound IS NULL THEN value END"
    if bounds is Bounds.HALF:
        return "CASE WHEN bound IN ('<', '<=') AND value > 0 THEN value / 2 ELSE value END"
    return "value"
