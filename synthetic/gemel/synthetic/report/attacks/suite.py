"""All attacks on one virtual cohort, each with its positive control: a copy of the training data, which must be caught."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gemel.synthetic.domain import Codes, Domain
from gemel.synthetic.report.attacks import inference, linkability, membership, singling_out
from gemel.synthetic.report.attacks.people import People, people_of_codes, people_of_values
from gemel.synthetic.report.findings import Finding

_ATTACKERS = 3


@dataclass(frozen=True)
class Sides:
    """Virtual people, the training patients they were made from, and patients who were kept out.

    Attributes:
        virtual, training, holdout: Levels (n,) by column.
        values: The same three as values by column, as `Domain.encode_columns` takes them: a column (n,), or (days, event).
            Without them people are laid side by side by their levels.
    """

    domain: Domain
    virtual: Codes
    training: Codes
    holdout: Codes
    values: tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]] | None = None

    @property
    def people(self) -> tuple[People, People, People]:
        """Virtual, training, holdout."""
        if self.values is not None:
            virtual, training, holdout = (people_of_values(self.domain, raw) for raw in self.values)
        else:
            sides = (self.virtual, self.training, self.holdout)
            virtual, training, holdout = (people_of_codes(self.domain, codes) for codes in sides)
        return virtual, training, holdout

    def copied(self) -> Sides:
        """The positive control: the training patients themselves as the virtual cohort."""
        values = None if self.values is None else (self.values[1], self.values[1], self.values[2])
        return replace(self, virtual=self.training, values=values)


@dataclass(frozen=True)
class Effort:
    """How many guesses of each kind, and how many shadow cohorts."""

    attacks: int
    shadows: int


QUICK = Effort(attacks=300, shadows=4)
FULL = Effort(attacks=2000, shadows=16)


def examine(
    sides: Sides,
    *,
    secrets: Sequence[str],
    effort: Effort = FULL,
    seed: int = 0,
    generator: membership.Generator | None = None,
) -> Iterator[Finding]:
    """Every attack, then every attack on the copy of the training data; a row each, as they are done.

    Args:
        sides: Who is attacked.
        secrets: The columns that are inferred; an outcome's are "NAME, time" and "NAME, event".
        effort: How hard to try.
        seed: Of the attacker's choices.
        generator: Makes a cohort from patients; without one the attack with shadow cohorts is left out.
    """
    yield from _membership(sides, effort, seed, generator)
    yield from _triad(sides, secrets, effort, seed, positive=False)
    copied = sides.copied()
    yield from _membership(
        copied, effort, seed, (lambda codes, _: codes) if generator else None, positive=True
    )
    yield from _triad(copied, secrets, effort, seed, positive=True)


def _membership(
    sides: Sides,
    effort: Effort,
    seed: int,
    generator: membership.Generator | None,
    *,
    positive: bool = False,
) -> Iterator[Finding]:
    training, holdout = sides.training, sides.holdout
    candidates = membership.Candidates.of(sides.domain, training, holdout, most=effort.attacks, seed=seed)
    yield from membership.attack(candidates, sides.virtual, positive=positive)
    if generator is not None:
        yield from membership.attack_with_shadows(
            candidates,
            sides.virtual,
            generator,
            training,
            holdout,
            shadows=effort.shadows,
            seed=seed,
            positive=positive,
        )


def _triad(
    sides: Sides, secrets: Sequence[str], effort: Effort, seed: int, *, positive: bool
) -> Iterator[Finding]:
    """Singling out, linking, inference, against three attackers with other columns each."""
    virtual, training, holdout = sides.people
    yield from singling_out.attack(
        virtual, training, holdout, attacks=effort.attacks, seed=seed, positive=positive
    )
    random = np.random.default_rng(seed)
    count = len(virtual.names)
    orders = [random.permutation(count).tolist() for _ in range(_ATTACKERS)]
    yield from linkability.attack(
        virtual,
        training,
        holdout,
        splits=[(order[: count // 2], order[count // 2 :]) for order in orders],
        attacks=effort.attacks,
        seed=seed,
        positive=positive,
    )
    for secret in secrets:
        yield from inference.attack(
            virtual,
            training,
            holdout,
            secret=secret,
            knowledge=_knowledge(virtual.names, secret, random),
            attacks=effort.attacks,
            seed=seed,
            positive=positive,
        )


def _knowledge(names: Sequence[str], secret: str, random: np.random.Generator) -> list[list[int]]:
    """Every other column, and two random halves of them. Who knows when something happened knows that it did."""
    whole = secret.split(", ")[0]
    others = [j for j, name in enumerate(names) if name.split(", ")[0] != whole]
    half = (len(others) + 1) // 2
    return [others, *(random.permutation(others)[:half].tolist() for _ in range(_ATTACKERS - 1))]
