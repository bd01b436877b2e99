"""FHIRPath's lowBoundary() and highBoundary(): what a value of limited precision may stand for at the least and most.

Source: FHIRPath 2.0 (2.0.0-ballot) section "Boundary functions"; dates without a zone range over UTC+14 to UTC-12.
"""

from __future__ import annotations

from sqlglot import exp

from gemel.data_adapters.views import sql_tree as sql
from gemel.data_adapters.views.sql_tree import Tree


def _length(value: Tree) -> Tree:
    return sql.function("length", value)


def _filled(value: Tree, pattern: str) -> Tree:
    """The text, and what of the pattern stands behind its length."""
    start = exp.Add(this=_length(value), expression=sql.number(1))
    return sql.joined(value, sql.function("substring", sql.text(pattern), start))


def time_boundary(value: Tree, *, high: bool) -> Tree:
    """Of a time `hh:mm[:ss[.fff]]`: to the millisecond."""
    return _filled(value, "23:59:59.999" if high else "00:00:00.000")


def date_boundary(value: Tree, *, high: bool) -> Tree:
    """Of a date `YYYY[-MM[-DD]]`: to the day."""
    if not high:
        return _filled(value, "0000-01-01")
    first = sql.call("date", sql.joined(value, sql.text("-01")))
    last = exp.cast(sql.function("last_day", first), "VARCHAR")
    return sql.when(
        (exp.EQ(this=_length(value), expression=sql.number(7)), last), otherwise=_filled(value, "0000-12-31")
    )


def instant_boundary(value: Tree, *, high: bool) -> Tree:
    """Of a dateTime: to the millisecond, with a zone."""
    zone = sql.function("regexp_extract", value, sql.text("(Z|[+-][0-9]{2}:[0-9]{2})$"), sql.number(1))
    time = sql.function("regexp_extract", value, sql.text("T([0-9:.]*)"), sql.number(1))
    day = date_boundary(sql.function("substring", value, sql.number(1), sql.number(10)), high=high)
    unknown = "-12:00" if high else "+14:00"
    known = sql.function("coalesce", sql.function("nullif", zone, sql.text("")), sql.text(unknown))
    joined = sql.joined(day, sql.text("T"), time_boundary(time, high=high), known)
    return sql.when((sql.present(value), joined))


def decimal_boundary(value: Tree, *, high: bool) -> Tree:
    """Of a decimal as it was written: half a unit of its last digit below or above."""
    fraction = _length(sql.function("regexp_extract", value, sql.text("[.]([0-9]+)"), sql.number(1)))
    power = sql.function("regexp_extract", value, sql.text("[eE]([+-]?[0-9]+)$"), sql.number(1))
    exponent = sql.function(
        "coalesce", exp.cast(sql.function("nullif", power, sql.text("")), "BIGINT"), sql.number(0)
    )
    digits = sql.binary(exp.Sub, fraction, exponent)
    # In units of a tenth of the last digit, so that the sum is a whole number and its quotient the nearest double.
    tenths = sql.function(
        "power", exp.cast(sql.number(10), "DOUBLE"), sql.binary(exp.Add, digits, sql.number(1))
    )
    scaled = sql.function("round", sql.binary(exp.Mul, exp.cast(value, "DOUBLE"), tenths))
    half = sql.number(5)
    return sql.binary(exp.Div, sql.binary(exp.Add if high else exp.Sub, scaled, half), tenths)
