"""Faults that somebody could make in the rounds of measuring, each of which ends the promise: an audit has to find every one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from gemel.core.arrays import Arrays
from gemel.core.synthesis_plan import ROUNDS
from gemel.privacy.audit.report import Check
from gemel.privacy.noise import NoiseSource
from gemel.privacy.statistics import noisy_counts
from gemel.synthetic import protocol
from gemel.synthetic.domain import Domain
from gemel.synthetic.report.attacks.federation import Hospital, Subject, Task
from gemel.synthetic.report.attacks.mechanism import BLOCK, attack
from gemel.synthetic.report.attacks.membership import together
from gemel.synthetic.report.findings import Finding, Verdict

Fault = Callable[[Subject[Hospital]], Subject[Hospital]]
# Adds noise to a round's exact tables: the task, a table, σ, where noise comes from.
_Adding = Callable[[str, NDArray[np.int64], float, NoiseSource], NDArray[np.generic]]

_HARDLY_ANY = 1e-3


def exact_number_of_patients(subject: Subject[Hospital]) -> Subject[Hospital]:
    """The cohort is as large as the hospitals are: n is told as it is."""

    def beside(hospitals: Sequence[Hospital]) -> Mapping[str, object]:
        return {"number of patients": sum(int(np.sum(~hospital.held_out)) for hospital in hospitals)}

    return replace(subject, beside=beside)


def domain_from_data(subject: Subject[Hospital]) -> Subject[Hospital]:
    """Levels that nobody has are left out: which there are then tells who is there."""

    def beside(hospitals: Sequence[Hospital]) -> Mapping[str, object]:
        everybody = together(*(hospital.counted for hospital in hospitals))
        return {f"levels of {name}": tuple(np.unique(found).tolist()) for name, found in everybody.items()}

    return replace(subject, beside=beside)


def sensitivity_of_one(subject: Subject[Hospital]) -> Subject[Hospital]:
    """The study makes noise for patients who are at one hospital, and they may be at several."""
    plan = msgspec.structs.replace(subject.study.synthesis, sites_of_a_person=1)
    return replace(subject, study=msgspec.structs.replace(subject.study, synthesis=plan))


def float_noise(subject: Subject[Hospital]) -> Subject[Hospital]:
    """Normal noise in floats, whose last bits tell what it was added to."""

    def add(_task: str, table: NDArray[np.int64], sigma: float, noise: NoiseSource) -> NDArray[np.generic]:
        return table + sigma * noise.gaussian(table.shape)

    return replace(subject, task=_adding(subject.domain, add))


def held_out_counted(subject: Subject[Hospital]) -> Subject[Hospital]:
    """The patients who are kept for the report's control are counted with the others."""

    def with_noise(whole: float) -> Task[Hospital]:
        honest = subject.task(whole)

        def carry_out(
            task: str, number: int, hospital: Hospital, choice: Arrays, noise: NoiseSource
        ) -> Arrays:
            everybody = Hospital(hospital.codes, np.zeros_like(hospital.held_out))
            return honest(task, number, everybody, choice, noise)

        return carry_out

    return replace(subject, task=with_noise)


def one_without_noise(subject: Subject[Hospital]) -> Subject[Hospital]:
    """One hospital leaves its noise to the others. Where they add shares, those were made to be enough together."""

    def with_noise(whole: float) -> Task[Hospital]:
        honest, silent = subject.task(whole), subject.task(_HARDLY_ANY)

        def carry_out(
            task: str, number: int, hospital: Hospital, choice: Arrays, noise: NoiseSource
        ) -> Arrays:
            return (honest if number else silent)(task, number, hospital, choice, noise)

        return carry_out

    return replace(subject, task=with_noise)


def score_not_rounded_down(subject: Subject[Hospital]) -> Subject[Hospital]:
    """What a division leaves over stays in a score: whole noise hides whole numbers, and the fraction is told as it is."""

    def add(task: str, table: NDArray[np.int64], sigma: float, noise: NoiseSource) -> NDArray[np.generic]:
        noisy = noisy_counts(table, noise_multiplier=sigma, noise=noise)
        return noisy + (table % 4) / 4 if task == ROUNDS[1] else noisy

    return replace(subject, task=_adding(subject.domain, add))


def score_not_divided(subject: Subject[Hospital]) -> Subject[Hospital]:
    """A score is the whole distance, of which a patient changes four times as much as its noise is made for."""

    def add(task: str, table: NDArray[np.int64], sigma: float, noise: NoiseSource) -> NDArray[np.generic]:
        factor = 4 if task == ROUNDS[1] else 1
        return noisy_counts(factor * table, noise_multiplier=sigma, noise=noise)

    return replace(subject, task=_adding(subject.domain, add))


FAULTS: Mapping[str, Fault] = {
    "exact n": exact_number_of_patients,
    "data-derived domain": domain_from_data,
    "sensitivity 1 instead of m": sensitivity_of_one,
    "float noise": float_noise,
    "held-out patients counted": held_out_counted,
    "one hospital without noise": one_without_noise,
    "score not rounded down": score_not_rounded_down,
    "score not divided by its sensitivity": score_not_divided,
}


def caught_by(fault: Fault, subject: Subject[Hospital], *, noise: NoiseSource | None = None) -> Check | None:
    """The first check that a planted fault fails, none of which is left to chance; None for one that is not found."""
    checks = attack(fault(subject), releases=0, noise=noise)
    return next((check for check in checks if not check.passed), None)


def findings(
    subject: Subject[Hospital], *, noise: NoiseSource | None = None, about: str = ""
) -> Iterator[Finding]:
    """A row for each planted fault: caught, or not."""
    for name, fault in FAULTS.items():
        broken = caught_by(fault, subject, noise=noise)
        yield Finding(
            BLOCK,
            f"{about}planted fault: {name}",
            float(broken is not None),
            None,
            None,
            None,
            "caught by at least one check",
            Verdict.PASS if broken is not None else Verdict.FAIL,
            internal=False,
            control=True,
            detail="not caught" if broken is None else f"{broken.promise} {broken.measured}",
        )


def _adding(domain: Domain, add: _Adding) -> Callable[[float], Task[Hospital]]:
    """The task that adds noise in another way than `protocol.release` does."""

    def with_noise(whole: float) -> Task[Hospital]:
        def carry_out(
            task: str, _number: int, hospital: Hospital, choice: Arrays, noise: NoiseSource
        ) -> Arrays:
            counted = protocol.count_round(task, domain, hospital.counted, whole=whole, choice=choice)
            ((name, spec),) = protocol.declared_tables(task, domain).items()
            flat = np.concatenate([add(task, table, sigma, noise).ravel() for table, sigma in counted])
            room = np.zeros(spec.shape, flat.dtype)
            room[: len(flat)] = flat
            return {name: room}

        return carry_out

    return with_noise
