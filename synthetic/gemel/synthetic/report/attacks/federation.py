"""Made-up hospitals that carry out a study's rounds of measuring, and what somebody sees of them who sides with the coordinator.

Without masks that is each hospital's release. With shares of noise it is a masked sum: of the study's hospitals some are gone and some
have told what they sent, so what is left is the sum of the honest ones. Only these are here; what the others sent is known anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Generic, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from gemel.core.arrays import Arrays
from gemel.core.study import SCHEMA, AggregationPlan, Masking, PrivacyPlan, Study, TrainingPlan
from gemel.core.synthesis_plan import ROUNDS
from gemel.privacy.noise import NoiseSource
from gemel.privacy.secure_aggregation.plan import as_added
from gemel.synthetic import protocol
from gemel.synthetic.anchored_tree import plan_for
from gemel.synthetic.domain import Codes, Domain
from gemel.synthetic.report.attacks.membership import rows_of, together

P = TypeVar("P")
Flat = NDArray[np.float64]

_KEPT_OUT = 0.2
_LEAVE_OUT = 8
_SMALL = (2, 3, 7)
# Of a study with shares of noise: one hospital may be missing and one may tell what it added.
_DROPOUTS, _COLLUDERS = 1, 1
_HOSPITALS = 3


@dataclass(frozen=True)
class Hospital:
    """Made-up patients: levels (n,) by column, and who of them is kept out of all counting (n,)."""

    codes: Codes
    held_out: NDArray[np.bool_]

    @cached_property
    def counted(self) -> Codes:
        """The levels of those who are counted."""
        return rows_of(self.codes, np.flatnonzero(~self.held_out))

    def with_patient(self, patient: Codes, *, held_out: bool = False) -> Hospital:
        """The hospital with one patient more."""
        return Hospital(together(self.codes, patient), np.append(self.held_out, held_out))

    def without_patient(self, number: int) -> Hospital:
        """The hospital with one patient less."""
        kept = np.delete(np.arange(len(self.held_out)), number)
        return Hospital(rows_of(self.codes, kept), self.held_out[kept])


@dataclass(frozen=True)
class Neighbours(Generic[P]):
    """Two hospitals, of which the second has one patient more; `counted`: who is not held out."""

    without: P
    with_one: P
    counted: bool


# One hospital's release of a round: the task, the hospital's number, its patients, what the round takes, the noise.
Task = Callable[[str, int, P, Arrays, NoiseSource], Arrays]


def nothing(_hospitals: Sequence[object]) -> Mapping[str, object]:
    """What an honest study tells beside its arrays."""
    return {}


@dataclass(frozen=True)
class Subject(Generic[P]):
    """The measuring on trial.

    Attributes:
        study: Noise, masks and at how many hospitals a person may be.
        domain: The public columns.
        hospitals: The honest ones that are there. with_canary: The same when the canary is at the first of them.
        neighbours: Single hospitals with and without one patient.
        epsilon, delta: What is claimed for the canary, over all its hospitals.
        task: A hospital's task, under a multiplier of all of synthesis.
        counted: The levels of a hospital's patients who may be counted.
        beside: What is told beside the arrays.
    """

    study: Study
    domain: Domain
    hospitals: tuple[P, ...]
    with_canary: tuple[P, ...]
    neighbours: tuple[Neighbours[P], ...]
    epsilon: float
    delta: float
    task: Callable[[float], Task[P]]
    counted: Callable[[P], Codes]
    beside: Callable[[Sequence[P]], Mapping[str, object]] = nothing

    @property
    def is_summed(self) -> bool:
        """Whether only sums are seen."""
        return self.study.aggregation.distributed_noise

    @cached_property
    def whole(self) -> float:
        """The multiplier of all of synthesis that one hospital adds."""
        return as_added(self.study).privacy.synthesis_noise_multiplier

    @cached_property
    def carry_out(self) -> Task[P]:
        """A hospital's task under the study's own noise."""
        return self.task(self.whole)

    def at_price(self, epsilon: float) -> Subject[P]:
        """The same rounds under a study of another price."""
        whole = plan_for(self.domain, epsilon=epsilon, delta=self.delta).whole_multiplier
        privacy = msgspec.structs.replace(self.study.privacy, synthesis_noise_multiplier=whole)
        study = msgspec.structs.replace(self.study, privacy=privacy)
        return replace(self, study=study, epsilon=epsilon)

    def count(self, task: str, codes: Codes, choice: Arrays) -> tuple[Flat, Flat]:
        """One hospital's exact cells of a round, and the σ that each of them gets."""
        counted = protocol.count_round(task, self.domain, codes, whole=self.whole, choice=choice)
        sigmas = [np.full(table.size, sigma) for table, sigma in counted]
        return np.concatenate([table.ravel() for table, _ in counted]).astype(np.float64), np.concatenate(
            sigmas
        )


@dataclass(frozen=True)
class Released:
    """Everything that is seen of all rounds.

    Attributes:
        seen: By task the arrays: one sum, or one of each hospital in order.
        sent: By task what each hospital sent.
        choices: By task what it took.
        beside: What is told beside.
    """

    seen: Mapping[str, tuple[NDArray[np.generic], ...]]
    sent: Mapping[str, tuple[NDArray[np.generic], ...]]
    choices: Mapping[str, Arrays]
    beside: Mapping[str, object] = field(default_factory=dict)


def carry_out_rounds(subject: Subject[P], hospitals: Sequence[P], noise: NoiseSource) -> Released:
    """All rounds once: releases, their sum, what the next round counts."""
    sums: dict[str, protocol.Summed] = {}
    seen, sent, choices = {}, {}, {}
    outcome: Mapping[str, NDArray[np.generic]] = {}
    for task in ROUNDS:
        choice = {name: outcome[name] for name in protocol.declared_choice(task, subject.domain)}
        (name,) = protocol.declared_tables(task, subject.domain)
        releases = tuple(
            subject.carry_out(task, number, hospital, choice, noise)[name]
            for number, hospital in enumerate(hospitals)
        )
        total = np.sum(
            [release.astype(np.promote_types(release.dtype, np.int64)) for release in releases], axis=0
        )
        sums[task] = protocol.Summed({name: total}, len(hospitals))
        outcome = protocol.outcome(subject.study, subject.domain, sums)
        seen[task], sent[task], choices[task] = (total,) if subject.is_summed else releases, releases, choice
    return Released(seen, sent, choices, subject.beside(hospitals))


def counting(domain: Domain) -> Callable[[float], Task[Hospital]]:
    """The task of a hospital of made-up patients: `protocol.release`, on those who may be counted."""

    def with_noise(whole: float) -> Task[Hospital]:
        def carry_out(
            task: str, _number: int, hospital: Hospital, choice: Arrays, noise: NoiseSource
        ) -> Arrays:
            return protocol.release(task, domain, hospital.counted, whole=whole, choice=choice, noise=noise)

        return carry_out

    return with_noise


def subject_for(
    domain: Domain,
    *,
    epsilon: float,
    delta: float,
    shared: bool = False,
    sites: int = 2,
    patients: int = 100,
    seed: int = 0,
) -> Subject[Hospital]:
    """The real rounds over a domain on made-up patients: nobody has the last level of a column, only the canary does.

    Args:
        domain: The public columns. GEM720 for one whose rounds have nothing to choose.
        epsilon: What the rounds together cost a person at `sites` hospitals.
        delta: The other half of that.
        shared: Masked sums with shares of noise, of as many honest hospitals as the canary is at; else whole noise at three.
        sites: At how many hospitals the canary is.
        patients: At each hospital.
        seed: Of the made-up patients.
    """
    study = study_for(domain, epsilon=epsilon, delta=delta, shared=shared, sites=sites)
    random = np.random.default_rng(seed)
    honest = sites if shared else max(_HOSPITALS, sites)
    hospitals = tuple(_made_up(domain, patients, random) for _ in range(honest))
    canary = {column.name: np.array([column.size - 1]) for column in domain.columns}
    with_canary = tuple(h.with_patient(canary) if n < sites else h for n, h in enumerate(hospitals))
    return Subject(
        study,
        domain,
        hospitals,
        with_canary,
        tuple(_neighbours(domain, hospitals[0], canary, random)),
        epsilon,
        delta,
        counting(domain),
        lambda hospital: hospital.counted,
    )


def study_for(domain: Domain, *, epsilon: float, delta: float, shared: bool, sites: int) -> Study:
    """A study whose rounds of measuring cost (epsilon, delta), and which does nothing else."""
    shares = AggregationPlan(
        masking=Masking.SECURE, distributed_noise=True, dropouts=_DROPOUTS, colluders=_COLLUDERS
    )
    return study_of_synthesis(
        domain,
        epsilon=epsilon,
        delta=delta,
        hospitals=sites + _DROPOUTS + _COLLUDERS if shared else max(_HOSPITALS, sites),
        aggregation=shares if shared else AggregationPlan(),
        sites_of_a_person=sites,
    )


def study_of_synthesis(
    domain: Domain,
    *,
    epsilon: float,
    delta: float,
    hospitals: int,
    aggregation: AggregationPlan,
    sites_of_a_person: int,
) -> Study:
    """A study of virtual cohorts alone, over made-up hospitals: all else in it has so much noise that it costs next to nothing."""
    return Study(
        schema=SCHEMA,
        study_id="synthesis-alone",
        title="Virtual cohorts alone",
        purpose="To look at what is released for virtual cohorts.",
        programme="made-up",
        programme_version="1",
        training=TrainingPlan(
            rounds=1,
            local_steps=1,
            learning_rate=1.0,
            momentum=0.0,
            max_grad_norm=1.0,
            sample_rate=1.0,
            noise_multiplier=1e3,
        ),
        privacy=PrivacyPlan(
            epsilon=epsilon,
            delta=delta,
            count_noise_multiplier=1e3,
            metrics_noise_multiplier=1e3,
            synthesis_noise_multiplier=plan_for(domain, epsilon=epsilon, delta=delta).whole_multiplier,
        ),
        metrics_tables=1,
        synthesis=protocol.synthesis_plan(domain, sites_of_a_person=sites_of_a_person),
        minimum_patients=1,
        quorum=1,
        round_timeout_s=60.0,
        sites={f"site{number}": f"{number:064x}" for number in range(1, hospitals + 1)},
        aggregation=aggregation,
    )


def _made_up(domain: Domain, patients: int, random: np.random.Generator) -> Hospital:
    codes = {c.name: random.integers(0, max(1, c.size - 1), patients) for c in domain.columns}
    return Hospital(codes, random.random(patients) < _KEPT_OUT)


def _neighbours(
    domain: Domain, hospital: Hospital, canary: Codes, random: np.random.Generator
) -> list[Neighbours[Hospital]]:
    """The canary beside many and beside few, some patients left out, and somebody more who is held out."""
    few = [_made_up(domain, count, random) for count in _SMALL]
    found = [Neighbours(h, h.with_patient(canary), counted=True) for h in (hospital, *few)]
    found += [
        Neighbours(hospital.without_patient(int(n)), hospital, counted=True)
        for n in random.permutation(np.flatnonzero(~hospital.held_out))[:_LEAVE_OUT]
    ]
    return [*found, Neighbours(hospital, hospital.with_patient(canary, held_out=True), counted=False)]
