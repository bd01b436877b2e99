"""Attribute inference: is what the nearest virtual person has in a column what the patient has?

What is true of patients in general is found for control patients as well: only what goes beyond is a risk (Giomi et al., PoPETs 2023).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gemel.synthetic.report.attacks.excess import Attacked, excess_finding
from gemel.synthetic.report.attacks.people import People
from gemel.synthetic.report.findings import Finding

BLOCK = "inference"
# A number is found when the guess lies within this share of its public span.
_NEAR = 0.05


def attack(
    virtual: People,
    training: People,
    control: People,
    *,
    secret: str,
    knowledge: Sequence[Sequence[int]],
    attacks: int,
    seed: int,
    positive: bool = False,
) -> Iterator[Finding]:
    """A row for each attacker, who has the columns in one of `knowledge` and wants `secret`."""
    generator = np.random.default_rng(seed)
    targets, others = (
        people.rows(generator.permutation(len(people))[:attacks]) for people in (training, control)
    )
    wanted = virtual.names.index(secret)
    guessed = virtual.rows(generator.integers(len(virtual), size=len(others)))
    chance = _found(guessed, others, wanted) / max(len(others), 1)
    for number, known in enumerate(knowledge, start=1):
        if wanted in known:
            raise ValueError(f"an attacker who knows {secret} does not guess it")
        hits, control_hits = (
            _found(virtual.rows(people.nearest(virtual, known)[1][:, 0]), people, wanted)
            for people in (targets, others)
        )
        attacked = Attacked(hits, len(targets), control_hits, len(others), chance)
        measure = f"{secret} inferred from {len(known)} columns (attacker {number}): excess over control"
        yield excess_finding(BLOCK, measure, attacked, control=positive)


def _found(guess: People, truth: People, column: int) -> int:
    one, other = guess.values[:, column], truth.values[:, column]
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    near = np.abs(one - other) <= _NEAR * truth.spans[column]
    return int(np.count_nonzero(same | near))
