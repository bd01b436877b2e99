"""Conditions of a virtual cohort as they are typed: `age_years>=70`, `male=0`, `outcome/death=no event`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gemel.core.errors import GemelError

if TYPE_CHECKING:
    from gemel.synthetic.domain import Domain

_FORM = re.compile(r"\s*(?P<name>[^\s<>=!]+)\s*(?P<sign><=|>=|!=|==|=|<|>)\s*(?P<value>.+?)\s*", re.DOTALL)


def read_conditions(domain: Domain, typed: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """The levels that columns must have, for `cohort.sample(given=...)`; several conditions on a column hold together.

    Raises GEM704 for what is no condition, a column or level that there is not, or a bound within a public bin.
    """
    given: dict[str, tuple[int, ...]] = {}
    for text in typed:
        found = _FORM.fullmatch(text)
        if found is None:
            raise GemelError(
                "GEM704", f"{text!r} is no condition: write COLUMN=VALUE, COLUMN>=BOUND or COLUMN<BOUND."
            )
        name = _column(domain, found["name"])
        levels = _levels(domain, name, found["sign"], found["value"])
        kept = [level for level in given.get(name, levels) if level in set(levels)]
        if not kept:
            raise GemelError("GEM704", f"No level of {name} meets all conditions on it.")
        given[name] = tuple(kept)
    return given


def _column(domain: Domain, typed: str) -> str:
    """A column by its name, or by what follows the slash of one."""
    names = [name for name in domain.names if name == typed or name.partition("/")[2] == typed]
    if len(names) != 1:
        raise GemelError("GEM704", f"There is no column {typed!r}: there are {', '.join(domain.names)}.")
    return names[0]


def _levels(domain: Domain, name: str, sign: str, value: str) -> tuple[int, ...]:
    if sign in ("<=", ">"):
        # The public bins contain their lower edge, not their upper one.
        other = {"<=": "<", ">": ">="}[sign]
        raise GemelError(
            "GEM704", f"{name}{sign}{value}: bins start at their lower edge, so say {other} a bound."
        )
    if sign in ("<", ">="):
        bound = _number(value)
        if bound is None:
            raise GemelError("GEM704", f"{name}{sign}{value}: {value!r} is no number.")
        return domain.within(name, bound) if sign == ">=" else domain.within(name, high=bound)
    number = _number(value)
    try:
        levels = domain.equal(name, value)
    except GemelError:
        if number is None:
            raise
        levels = domain.equal(name, number)
    if sign == "!=":
        return tuple(level for level in range(domain.sizes[name]) if level not in levels)
    return levels


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
