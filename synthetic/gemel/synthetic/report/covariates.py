"""Columns of people as the covariates of a regression: numbers on a common scale, categories and "missing" as yes-or-no.

What is encoded, and how, is read off one table and then the same for all: for what is compared between real and virtual people
that one is a virtual one, so that the choice is public.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gemel.synthetic.columns import Categories, Column, Numbers, Role
from gemel.synthetic.report.people_table import Floats, PeopleTable

_FLAT = 1e-9


@dataclass(frozen=True)
class Covariate:
    """One number for each person: (value - center) / scale, or whether the column has a level.

    Attributes:
        column: Its name.
        level: The level's number; None for the value itself.
        center, scale: Of the value, or of the yes-or-no.
    """

    column: str
    level: int | None
    center: float
    scale: float

    def of(self, people: PeopleTable) -> Floats:
        """(n,): a missing value counts as the center."""
        if self.level is not None:
            raw = (people.codes[self.column] == self.level).astype(np.float64)
        else:
            raw = known_numbers(people, self.column)
            raw = np.where(np.isnan(raw), self.center, raw)
        scaled: Floats = (raw - self.center) / self.scale
        return scaled


def known_numbers(people: PeopleTable, name: str) -> Floats:
    """A number column (n,) within its public bounds; NaN where missing, or the public stand-in where none can be."""
    form = people.domain.column(name).form
    if not isinstance(form, Numbers):
        raise TypeError(f"{name} is no number")
    values = np.clip(people.numbers(name), form.edges[0], form.edges[-1])
    return values if form.stand_in is None else np.where(np.isnan(values), form.stand_in, values)


def covariates(
    people: PeopleTable, names: Sequence[str], *, least_share: float = 0.0
) -> tuple[Covariate, ...]:
    """The covariates of some columns, scaled by these people to a standard deviation of one.

    A number gives its value, and whether it is missing where that is a level. A category gives each level but the most
    frequent. Yes-or-no ones that fewer than `least_share` have, or all, are left out, as is what does not vary.
    """
    found = []
    for name in names:
        column = people.domain.column(name)
        for level in _levels(people, column):
            raw = known_numbers(people, name) if level is None else people.codes[name] == level
            known = np.asarray(raw, np.float64)[~np.isnan(raw)]
            spread = float(known.std()) if len(known) else 0.0
            rare = level is not None and not least_share <= known.mean() <= 1 - least_share
            if spread > _FLAT and not rare:
                found.append(Covariate(name, level, float(known.mean()), spread))
    return tuple(found)


def matrix(people: PeopleTable, chosen: Sequence[Covariate]) -> Floats:
    """(n, p) of people."""
    found = np.empty((len(people), len(chosen)))
    for number, covariate in enumerate(chosen):
        found[:, number] = covariate.of(people)
    return found


def predictors(people: PeopleTable) -> list[str]:
    """The columns that are known before an outcome: features and treatments."""
    chosen = people.domain.with_roles(Role.FEATURE, Role.TREATMENT)
    return [column.name for column in chosen if isinstance(column.form, Numbers | Categories)]


def share_missing(people: PeopleTable, name: str) -> float:
    """The share of people whose value is not known, where "missing" is a level."""
    form = people.domain.column(name).form
    if not isinstance(form, Numbers | Categories) or form.stand_in is not None:
        return 0.0
    return float(np.mean(people.codes[name] == len(form.levels) - 1))


def _levels(people: PeopleTable, column: Column) -> list[int | None]:
    form = column.form
    if isinstance(form, Numbers):
        return [None] if form.stand_in is not None else [None, len(form.levels) - 1]
    counts = np.bincount(people.codes[column.name], minlength=column.size)
    return [level for level in range(column.size) if level != int(counts.argmax())]
