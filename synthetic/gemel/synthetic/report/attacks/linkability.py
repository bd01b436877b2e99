"""Linkability: do two sources, each with some columns of the same person, meet in the virtual cohort?

After anonymeter (Giomi et al., PoPETs 2023): a link is made where the virtual people nearest by the one source's columns and
those nearest by the other's have somebody in common.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gemel.synthetic.report.attacks.excess import Attacked, excess_finding
from gemel.synthetic.report.attacks.people import Flags, People
from gemel.synthetic.report.findings import Finding

BLOCK = "linkability"
NEIGHBOURS = 5


def attack(
    draws: Sequence[People],
    training: People,
    control: People,
    *,
    splits: Sequence[tuple[Sequence[int], Sequence[int]]],
    positive: bool = False,
) -> Iterator[Finding]:
    """A row for each of the `splits` of the columns into those of the one source and those of the other."""
    for number, (first, second) in enumerate(splits, start=1):
        links, control_links = (
            np.mean([_links(people, draw, first, second) for draw in draws], axis=0)
            for people in (training, control)
        )
        # Two random groups of virtual people meet so often.
        chance = 1 - (1 - NEIGHBOURS / len(draws[0])) ** NEIGHBOURS
        attacked = Attacked(links, control_links, chance)
        yield excess_finding(
            BLOCK,
            f"linked, {len(first)} and {len(second)} columns (attacker {number}): excess over control",
            attacked,
            control=positive,
        )


def _links(people: People, virtual: People, first: Sequence[int], second: Sequence[int]) -> Flags:
    one, other = (people.nearest(virtual, columns, NEIGHBOURS)[1] for columns in (first, second))
    found: Flags = (one[:, :, None] == other[:, None, :]).any(axis=(1, 2))
    return found
