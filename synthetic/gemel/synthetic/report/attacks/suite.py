"""All attacks on the cohorts of one model, each with its positive control: a copy of the training data, which must be caught."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gemel.core.errors import GemelError
from gemel.privacy.noise import NoiseSource
from gemel.synthetic.domain import Codes, Domain
from gemel.synthetic.report.attacks import (
    inference,
    linkability,
    mechanism,
    membership,
    planted_faults,
    singling_out,
)
from gemel.synthetic.report.attacks.federation import subject_for
from gemel.synthetic.report.attacks.people import People, people_of_values
from gemel.synthetic.report.evidence import Columns, Evidence
from gemel.synthetic.report.findings import Finding
from gemel.synthetic.report.measures import untested

_ATTACKERS = 3


@dataclass(frozen=True)
class Effort:
    """How hard attackers try.

    Attributes:
        attacks: Conditions for singling out of each draw, and candidates for membership on each side.
        people: The most patients on each side who are linked and inferred.
        shadows: Shadow cohorts.
        releases: With and without the canary, each; 0 leaves only those checks that need few.
    """

    attacks: int
    people: int
    shadows: int
    releases: int


QUICK = Effort(attacks=300, people=600, shadows=4, releases=120)
FULL = Effort(attacks=2000, people=6000, shadows=16, releases=300)


@dataclass(frozen=True)
class Sides:
    """Virtual people of several draws of one model, the patients it was made from, and patients who were kept out.

    Attributes:
        domain: The public columns.
        draws, training, holdout: Levels (n,) by column.
        virtual, people: Virtual people, and training and hold-out patients, side by side as attackers lay them.
    """

    domain: Domain
    draws: tuple[Codes, ...]
    training: Codes
    holdout: Codes
    virtual: tuple[People, ...]
    people: tuple[People, People]

    @classmethod
    def of(cls, evidence: Evidence, draws: Sequence[Columns]) -> Sides:
        """From people by column."""
        domain = evidence.domain
        real = (evidence.training, evidence.holdout)
        training, holdout = (domain.encode_columns(columns) for columns in real)
        return cls(
            domain,
            tuple(domain.encode_columns(columns) for columns in draws),
            training,
            holdout,
            tuple(people_of_values(domain, columns) for columns in draws),
            (people_of_values(domain, real[0]), people_of_values(domain, real[1])),
        )

    def copied(self) -> Sides:
        """The positive control: the training patients themselves as the one virtual cohort."""
        copy = (self.training,), (self.people[0],)
        return Sides(self.domain, copy[0], self.training, self.holdout, copy[1], self.people)


def attack_findings(
    evidence: Evidence,
    draws: Sequence[Columns],
    *,
    secrets: Sequence[str],
    effort: Effort = FULL,
    seed: int = 0,
    generator: membership.Generator | None = None,
) -> Iterator[Finding]:
    """Every attack on all draws together, then every attack on the copy of the training data; a row each, as they are done.

    Args:
        evidence: Who is attacked, and who serves as control.
        draws: Virtual people of one model, each from another seed: whoever has several knows more.
        secrets: The columns that are inferred; an outcome's are "NAME, time" and "NAME, event".
        effort: How hard to try.
        seed: Of the attacker's choices.
        generator: Makes a cohort from patients; without one the attack with shadow cohorts is left out.
    """
    sides = Sides.of(evidence, draws)
    yield from _membership(sides, effort, seed, generator)
    yield from _triad(sides, secrets, effort, seed, positive=False)
    copied, copying = sides.copied(), (lambda codes, _: codes) if generator else None
    yield from _membership(copied, effort, seed, copying, positive=True)
    yield from _triad(copied, secrets, effort, seed, positive=True)


def mechanism_findings(
    domain: Domain,
    *,
    epsilon: float,
    delta: float,
    sites: int = 2,
    effort: Effort = FULL,
    seed: int = 0,
    noise: NoiseSource | None = None,
) -> Iterator[Finding]:
    """The rounds of measuring under attack, release by release and as masked sums, their controls, and planted faults.

    Args:
        domain: The public columns of the cohort.
        epsilon: What the rounds together cost a person.
        delta: The other half of that.
        sites: At how many hospitals one person may be.
        effort: How many releases.
        seed: Of the made-up patients.
        noise: The operating system's, unless a test gives its own.

    A domain whose rounds have nothing to choose is measured in one place only: one row says that nothing was tested.
    """
    try:
        subjects = {
            about: subject_for(domain, epsilon=epsilon, delta=delta, sites=sites, shared=shared, seed=seed)
            for about, shared in (("each release, ", False), ("masked sums, ", True))
        }
    except GemelError as error:
        if error.code != "GEM720":
            raise
        yield untested(mechanism.BLOCK, "canaries and planted faults", "as written", internal=False)
        return
    for about, subject in subjects.items():
        checks = mechanism.attack(subject, releases=effort.releases, noise=noise)
        yield from mechanism.findings(checks, about=about)
        if effort.releases:
            quiet = mechanism.control(subject, releases=effort.releases, noise=noise)
            yield from mechanism.findings(quiet, about=about)
        yield from planted_faults.findings(subject, noise=noise, about=about)


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
    yield from membership.attack(candidates, sides.draws, positive=positive)
    if generator is not None:
        yield from membership.attack_with_shadows(
            candidates,
            sides.draws,
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
    training, holdout = sides.people
    yield from singling_out.attack(
        sides.virtual, training, holdout, attacks=effort.attacks, seed=seed, positive=positive
    )
    random = np.random.default_rng(seed)
    targets, others = (
        people.rows(random.permutation(len(people))[: effort.people]) for people in sides.people
    )
    names = training.names
    count = len(names)
    orders = [random.permutation(count).tolist() for _ in range(_ATTACKERS)]
    yield from linkability.attack(
        sides.virtual,
        targets,
        others,
        splits=[(order[: count // 2], order[count // 2 :]) for order in orders],
        positive=positive,
    )
    for secret in secrets:
        knowledge = _knowledge(names, secret, random)
        yield from inference.attack(
            sides.virtual,
            targets,
            others,
            secret=secret,
            knowledge=knowledge,
            seed=seed,
            positive=positive,
        )


def _knowledge(names: Sequence[str], secret: str, random: np.random.Generator) -> list[list[int]]:
    """Every other column, and two random halves of them. Who knows when something happened knows that it did."""
    whole = secret.split(", ")[0]
    others = [j for j, name in enumerate(names) if name.split(", ")[0] != whole]
    half = (len(others) + 1) // 2
    return [others, *(random.permutation(others)[:half].tolist() for _ in range(_ATTACKERS - 1))]
