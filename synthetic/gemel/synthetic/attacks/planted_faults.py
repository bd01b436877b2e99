"""Four faults that somebody could make in the measuring, each of which ends the promise: an audit has to find every one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from gemel.privacy.audit.report import Check
from gemel.privacy.noise import NoiseSource
from gemel.synthetic.attacks.findings import Finding, Verdict
from gemel.synthetic.attacks.mechanism import (
    BLOCK,
    Hospitals,
    Released,
    Subject,
    attack,
    releasing,
    sum_scores,
    sum_tables,
)
from gemel.synthetic.attacks.membership import size_of
from gemel.synthetic.columns import Categories, Column
from gemel.synthetic.domain import Domain

Fault = Callable[[Subject], Subject]


def exact_number_of_patients(subject: Subject) -> Subject:
    """The cohort is as large as the hospitals are: n is told as it is."""

    def release(hospitals: Hospitals, noise: NoiseSource) -> Released:
        told = float(sum(size_of(codes) for codes in hospitals))
        return replace(subject.release(hospitals, noise), total=told)

    return replace(subject, release=release)


def domain_from_data(subject: Subject) -> Subject:
    """Levels that nobody has are left out: which there are then tells who is there."""

    def release(hospitals: Hospitals, noise: NoiseSource) -> Released:
        domain = subject.plan.domain
        seen = {n: np.unique(np.concatenate([codes[n] for codes in hospitals])) for n in domain.names}
        kept = Domain(tuple(_only(column, seen[column.name].tolist()) for column in domain.columns))
        released = subject.release(hospitals, noise)
        levels = {q.name: released.arrays[q.name][seen[q.columns[0]]] for q in subject.plan.one_ways}
        return replace(released, domain=kept, arrays={**released.arrays, **levels})

    return replace(subject, release=release)


def sensitivity_of_one(subject: Subject) -> Subject:
    """The noise is that for patients who are at one hospital, and they may be at several."""
    return replace(subject, release=releasing(subject.plan, sites=1))


def float_noise(subject: Subject) -> Subject:
    """Normal noise in floats, whose last bits tell what it was added to."""

    def release(hospitals: Hospitals, noise: NoiseSource) -> Released:
        released, plan = subject.release(hospitals, noise), subject.plan
        exact = {
            **sum_tables(released.queries, plan.domain, hospitals),
            "scores": sum_scores(plan, hospitals),
        }
        sigmas = {q.name: q.sigma for q in released.queries} | {"scores": plan.score_sigma * subject.sites}
        noisy = {n: table + sigmas[n] * noise.gaussian(table.shape) for n, table in exact.items()}
        return replace(released, arrays=noisy)

    return replace(subject, release=release)


FAULTS: Mapping[str, Fault] = {
    "exact n": exact_number_of_patients,
    "data-derived domain": domain_from_data,
    "sensitivity 1 instead of m": sensitivity_of_one,
    "float noise": float_noise,
}


def caught_by(
    fault: Fault, subject: Subject, *, refits: int, noise: NoiseSource | None = None
) -> tuple[Check, ...]:
    """The checks that a planted fault fails."""
    return tuple(check for check in attack(fault(subject), refits=refits, noise=noise) if not check.passed)


def findings(subject: Subject, *, refits: int, noise: NoiseSource | None = None) -> Iterator[Finding]:
    """A row for each planted fault: caught, or not."""
    for name, fault in FAULTS.items():
        broken = caught_by(fault, subject, refits=refits, noise=noise)
        yield Finding(
            BLOCK,
            f"planted fault: {name}",
            float(len(broken)),
            None,
            None,
            None,
            "caught by at least one check",
            Verdict.PASS if broken else Verdict.FAIL,
            internal=False,
            control=True,
            attacks=2 * refits,
            detail="; ".join(f"{check.promise} {check.measured}" for check in broken) or "not caught",
        )


def _only(column: Column, levels: list[int]) -> Column:
    names = tuple(column.levels[level] for level in levels)
    return replace(column, form=Categories(names, names[0]))
