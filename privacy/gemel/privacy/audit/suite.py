"""The whole suite of the privacy room: every attack that needs a model, a plan and made-up patients, and no node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import msgspec

from gemel.core.study import Study, TrainingPlan
from gemel.core.synthesis_plan import ROUNDS
from gemel.privacy.audit import (
    added_noise,
    canaries,
    charges,
    inversion,
    membership,
    sampling,
    sensitivity,
    tables,
)
from gemel.privacy.audit.probes import logistic_subject, visits_subject
from gemel.privacy.audit.report import Check, carry_out
from gemel.privacy.audit.subject import Subject, one_thread


@dataclass(frozen=True)
class Effort:
    """How hard an audit tries. More of each makes smaller faults visible, and takes longer.

    `steps` is the most that is trained at once; a longer plan is shortened, and then claims less.
    """

    victims: int
    releases: int
    calls: int
    draws: int
    canaries: int
    shadows: int
    steps: int


QUICK = Effort(victims=24, releases=80, calls=200, draws=20_000, canaries=1200, shadows=24, steps=12)
FULL = Effort(victims=120, releases=400, calls=600, draws=200_000, canaries=3000, shadows=128, steps=400)

_Named = tuple[str, Callable[[], Iterable[Check]]]


def examine(subject: Subject, study: Study, *, effort: Effort, seed: int = 0) -> Iterator[Check]:
    """Run every attack on a subject and on the probes, one after the other, and give each check as it is done.

    Args:
        subject: The model that studies train, with made-up patients.
        study: What it is trained under, with what else the study releases.
        effort: How hard to try.
        seed: Of the attacker's choices. The noise under attack is always the operating system's.
    """
    with one_thread():
        for name, run in _attacks(subject, study, effort, seed):
            yield from carry_out(name, run)


def _attacks(subject: Subject, study: Study, effort: Effort, seed: int) -> Iterator[_Named]:
    plan, delta = study.training, study.privacy.delta
    probe = visits_subject(plan, delta=delta, seed=seed)
    for one in (subject, probe):
        yield sensitivity.ATTACK, partial(sensitivity.attack, one, victims=effort.victims, seed=seed)
        yield added_noise.ATTACK, partial(added_noise.attack, one, repeats=effort.releases)
    yield added_noise.ATTACK, partial(added_noise.attack_source, plan)
    yield sampling.ATTACK, partial(sampling.attack, plan, steps=effort.calls)
    privacy = study.privacy
    for z in sorted(
        {
            privacy.count_noise_multiplier,
            privacy.metrics_noise_multiplier,
            *(m.noise_multiplier for task in ROUNDS[:2] for m in study.charge(task).mechanisms),
        }
    ):
        yield tables.NOISE, partial(tables.attack, z, delta=delta, draws=effort.draws)
    yield charges.ATTACK, partial(charges.attack, study)
    yield from _guessers(subject, plan, effort, seed)


def _guessers(subject: Subject, plan: TrainingPlan, effort: Effort, seed: int) -> Iterator[_Named]:
    """The attacks that guess: who was in, and what a patient looks like; each with its control."""
    short = replace(subject, plan=shortened(plan, effort.steps))
    textbook = logistic_subject(short.plan, delta=subject.delta, seed=seed)
    count = effort.canaries
    yield canaries.ATTACK, partial(canaries.attack, short, canaries=count, seed=seed)
    yield canaries.ATTACK, partial(canaries.control, short, canaries=count, seed=seed)
    yield membership.ATTACK, partial(membership.attack, short, shadows=effort.shadows, seed=seed)
    yield membership.ATTACK, partial(membership.control, textbook, seed=seed)
    yield inversion.ATTACK, partial(inversion.attack, subject.plan, delta=subject.delta, seed=seed)
    if subject.features:
        yield inversion.ATTACK, partial(inversion.attack_by_search, subject, seed=seed)


def shortened(plan: TrainingPlan, steps: int) -> TrainingPlan:
    """The plan with at most so many steps, over fewer rounds and then fewer steps in each."""
    local = min(plan.local_steps, steps)
    return msgspec.structs.replace(plan, local_steps=local, rounds=max(1, min(plan.rounds, steps // local)))
