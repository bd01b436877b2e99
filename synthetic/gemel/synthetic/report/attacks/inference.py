"""Attribute inference: is what the nearest virtual person has in a column what the patient has?

What is true of patients in general is found for control patients as well: only what goes beyond is a risk (Giomi et al., PoPETs 2023).
How easy it is to guess of a patient at all is told by other control patients, and taken out of the comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gemel.synthetic.report.attacks.excess import Attacked, excess_finding
from gemel.synthetic.report.attacks.people import Flags, Floats, People, Rows
from gemel.synthetic.report.findings import Finding

BLOCK = "inference"
# A number is found when the guess lies within this share of its public span.
_NEAR = 0.05
_NEIGHBOURS = (10, 50)
_FEWEST_OTHERS = 200


def attack(
    draws: Sequence[People],
    training: People,
    control: People,
    *,
    secret: str,
    knowledge: Sequence[Sequence[int]],
    seed: int,
    positive: bool = False,
) -> Iterator[Finding]:
    """A row for each attacker, who has the columns in one of `knowledge` and wants `secret`."""
    generator = np.random.default_rng(seed)
    wanted = training.names.index(secret)
    title = secret.rsplit("/", 1)[-1].replace("_", " ")
    guessed = draws[0].rows(generator.integers(len(draws[0]), size=len(control)))
    chance = float(_found(guessed.values[:, wanted], control, wanted).mean())
    folds = generator.permutation(len(control)) % 2
    for number, known in enumerate(knowledge, start=1):
        if wanted in known:
            raise ValueError(f"an attacker who knows {secret} does not guess it")
        successes = [
            np.mean(
                [
                    _found(draw.values[people.nearest(draw, known)[1][:, 0], wanted], people, wanted)
                    for draw in draws
                ],
                axis=0,
            )
            for people in (training, control)
        ]
        usual = None
        if len(control) >= _FEWEST_OTHERS:
            usual = _usual(training, control, folds, known, wanted)
        attacked = Attacked(successes[0], successes[1], chance, usual)
        measure = f"{title} inferred from {len(known)} columns (attacker {number}): excess over control"
        yield excess_finding(BLOCK, measure, attacked, control=positive)


def _usual(
    training: People, control: People, folds: Rows, known: Sequence[int], wanted: int
) -> tuple[Floats, Floats]:
    """How many of the nearest control patients have what each target has (k, n); control patients are told by the other half."""
    halves = [control.rows(np.flatnonzero(folds == fold)) for fold in (0, 1)]
    told = [_alike(training, half, known, wanted) for half in halves]
    others = np.empty((len(told[0]), len(control)))
    for fold in (0, 1):
        others[:, folds == fold] = _alike(halves[fold], halves[1 - fold], known, wanted)
    return (told[0] + told[1]) / 2, others


def _alike(people: People, others: People, known: Sequence[int], wanted: int) -> Floats:
    which = people.nearest(others, known, max(_NEIGHBOURS))[1]
    same = _found(others.values[which, wanted], people, wanted)
    shares = [same[:, :count].mean(axis=1) for count in _NEIGHBOURS]
    return np.stack([*shares, *(share**2 for share in shares)])


def _found(guess: Floats, truth: People, column: int) -> Flags:
    """Which guesses (n,) or (n, k) are right."""
    own = truth.values[:, column]
    other = own[:, None] if guess.ndim == 2 else own
    same = (guess == other) | (np.isnan(guess) & np.isnan(other))
    found: Flags = same | (np.abs(guess - other) <= _NEAR * truth.spans[column])
    return found
