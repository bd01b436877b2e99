"""Singling out: does a condition read off the virtual cohort hold for exactly one training patient?

One of the three risks of WP29 opinion 05/2014; after anonymeter (Giomi et al., PoPETs 2023): conditions on one column at its rare values and extremes, and on several columns
that hold for exactly one virtual person. How often a condition holds for exactly one depends on how many people there are, so
it is tried on as many training patients as there are control patients, on another part of them each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemel.synthetic.report.attacks.excess import Attacked, excess_finding
from gemel.synthetic.report.attacks.people import Floats, People
from gemel.synthetic.report.findings import Finding

BLOCK = "singling out"
_EXTREMES = 3
_COLUMNS = (3, 4, 5, 6)
# Of the conditions on several columns that are drawn for each that is asked for; most hold for more than one, or for none.
_DRAWS = 12

EQUAL, AT_MOST, AT_LEAST, MISSING = range(4)


@dataclass(frozen=True)
class Condition:
    """All of its parts hold: columns, how each is compared (EQUAL, AT_MOST, AT_LEAST, MISSING), and with what."""

    columns: tuple[int, ...]
    signs: tuple[int, ...]
    bounds: tuple[float, ...]

    def holds(self, values: Floats) -> NDArray[np.bool_]:
        """For whom of (n, d), (n,)."""
        found = np.ones(len(values), np.bool_)
        for column, sign, bound in zip(self.columns, self.signs, self.bounds, strict=True):
            value = values[:, column]
            if sign == EQUAL:
                found &= value == bound
            elif sign == AT_MOST:
                found &= value <= bound
            elif sign == AT_LEAST:
                found &= value >= bound
            else:
                found &= np.isnan(value)
        return found


def attack(
    draws: Sequence[People],
    training: People,
    control: People,
    *,
    attacks: int,
    seed: int,
    positive: bool = False,
) -> Iterator[Finding]:
    """Conditions on one column, then on several, so many of each draw: a row each."""
    generator = np.random.default_rng(seed)
    # Conditions that know the public columns but not the cohort: bounds from people drawn column by column.
    blind = _shuffled(draws[0], generator)
    kinds = {"by one column": _on_one_column, "by three to six columns": _on_columns}
    for name, conditions_of in kinds.items():
        # The same condition read off two draws is one attack.
        conditions = {one: None for draw in draws for one in conditions_of(draw, attacks, generator)}
        baseline = conditions_of(blind, attacks, generator)
        attacked = try_conditions(list(conditions), training, control, baseline=baseline)
        yield excess_finding(BLOCK, f"singled out {name}: excess over control", attacked, control=positive)


def try_conditions(
    conditions: list[Condition], training: People, control: People, *, baseline: list[Condition]
) -> Attacked:
    """How many conditions hold for exactly one of the training and of the control patients."""
    parts = max(1, len(training) // max(len(control), 1))
    size = min(len(control), len(training))
    hits, control_hits = (
        np.array(
            [_singles(c, people.values[i % n * size : (i % n + 1) * size]) for i, c in enumerate(conditions)]
        )
        for people, n in ((training, parts), (control, 1))
    )
    chance = sum(_singles(c, control.values[:size]) for c in baseline) / max(len(baseline), 1)
    return Attacked(hits.astype(float), control_hits.astype(float), chance)


def _singles(condition: Condition, values: Floats) -> bool:
    return int(np.count_nonzero(condition.holds(values))) == 1


def _on_one_column(virtual: People, attacks: int, generator: np.random.Generator) -> list[Condition]:
    """Values that one virtual person has, the only one who has none, and what lies beyond all but a few."""
    found = []
    for j, span in enumerate(virtual.spans):
        column = virtual.values[:, j]
        if np.count_nonzero(np.isnan(column)) == 1:
            found.append(Condition((j,), (MISSING,), (np.nan,)))
        values, counts = np.unique(column[~np.isnan(column)], return_counts=True)
        found += [Condition((j,), (EQUAL,), (float(v),)) for v in values[counts == 1]]
        if span > 0:
            found += [Condition((j,), (AT_MOST,), (float(v),)) for v in values[:_EXTREMES]]
            found += [Condition((j,), (AT_LEAST,), (float(v),)) for v in values[-_EXTREMES:]]
    chosen = generator.permutation(len(found))[:attacks]
    return [found[i] for i in chosen]


def _on_columns(virtual: People, attacks: int, generator: np.random.Generator) -> list[Condition]:
    """What some virtual person has in a few columns, and no other virtual person."""
    middle = np.array([np.nanmedian(c) if not np.isnan(c).all() else 0.0 for c in virtual.values.T])
    found: list[Condition] = []
    for _ in range(_DRAWS * attacks):
        if len(found) == attacks:
            break
        width = min(int(generator.choice(_COLUMNS)), len(virtual.names))
        columns = generator.choice(len(virtual.names), width, replace=False)
        person = virtual.values[generator.integers(len(virtual))]
        signs = tuple(_sign(person[j], virtual.spans[j], middle[j]) for j in columns)
        condition = Condition(tuple(columns.tolist()), signs, tuple(person[columns].tolist()))
        if _singles(condition, virtual.values):
            found.append(condition)
    return found


def _sign(value: float, span: float, middle: float) -> int:
    if np.isnan(value):
        return MISSING
    if span == 0:
        return EQUAL
    return AT_LEAST if value >= middle else AT_MOST


def _shuffled(people: People, generator: np.random.Generator) -> People:
    values = np.column_stack([generator.permutation(column) for column in people.values.T])
    return People(people.names, values, people.spans)
