"""Four faults that somebody could make in the measuring, each of which ends the promise: an audit has to find every one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from gemel.privacy.audit.report import Check
from gemel.privacy.noise import NoiseSource
from gemel.synthetic.columns import Categories, Column
from gemel.synthetic.domain import Domain
from gemel.synthetic.report.attacks.mechanism import (
    BLOCK,
    Draw,
    Hospitals,
    Released,
    Subject,
    attack,
    releasing,
    sum_scores,
    sum_tables,
)
from gemel.synthetic.report.attacks.membership import size_of, together
from gemel.synthetic.report.findings import Finding, Verdict

Fault = Callable[[Subject], Subject]


def exact_number_of_patients(subject: Subject) -> Subject:
    """The cohort is as large as the hospitals are: n is told as it is."""

    def release(hospitals: Hospitals) -> Draw:
        told, draw = float(sum(size_of(codes) for codes in hospitals)), subject.release(hospitals)
        return lambda noise: replace(draw(noise), total=told)

    return replace(subject, release=release)


def domain_from_data(subject: Subject) -> Subject:
    """Levels that nobody has are left out: which there are then tells who is there."""

    def release(hospitals: Hospitals) -> Draw:
        seen = {name: np.unique(levels) for name, levels in together(*hospitals).items()}
        kept = Domain(tuple(_only(c, seen[c.name].tolist()) for c in subject.plan.domain.columns))
        whole = subject.release(hospitals)

        def draw(noise: NoiseSource) -> Released:
            released = whole(noise)
            levels = {q.name: released.arrays[q.name][seen[q.columns[0]]] for q in subject.plan.one_ways}
            return replace(released, domain=kept, arrays={**released.arrays, **levels})

        return draw

    return replace(subject, release=release)


def sensitivity_of_one(subject: Subject) -> Subject:
    """The noise is that for patients who are at one hospital, and they may be at several."""
    return replace(subject, release=releasing(subject.plan, sites=1))


def float_noise(subject: Subject) -> Subject:
    """Normal noise in floats, whose last bits tell what it was added to."""
    plan = subject.plan

    def release(hospitals: Hospitals) -> Draw:
        whole, scores = subject.release(hospitals), sum_scores(plan, hospitals)

        def draw(noise: NoiseSource) -> Released:
            released = whole(noise)
            exact = {**sum_tables(released.queries, plan.domain, hospitals), "scores": scores}
            sigmas = {q.name: q.sigma for q in released.queries} | {
                "scores": plan.score_sigma * subject.sites
            }
            noisy = {n: table + sigmas[n] * noise.gaussian(table.shape) for n, table in exact.items()}
            return replace(released, arrays=noisy)

        return draw

    return replace(subject, release=release)


FAULTS: Mapping[str, Fault] = {
    "exact n": exact_number_of_patients,
    "data-derived domain": domain_from_data,
    "sensitivity 1 instead of m": sensitivity_of_one,
    "float noise": float_noise,
}


def caught_by(
    fault: Fault, subject: Subject, *, refits: int, noise: NoiseSource | None = None
) -> Check | None:
    """The first check that a planted fault fails; None for one that is not found."""
    checks = attack(fault(subject), refits=refits, noise=noise)
    return next((check for check in checks if not check.passed), None)


def findings(subject: Subject, *, refits: int, noise: NoiseSource | None = None) -> Iterator[Finding]:
    """A row for each planted fault: caught, or not."""
    for name, fault in FAULTS.items():
        broken = caught_by(fault, subject, refits=refits, noise=noise)
        yield Finding(
            BLOCK,
            f"planted fault: {name}",
            float(broken is not None),
            None,
            None,
            None,
            "caught by at least one check",
            Verdict.PASS if broken is not None else Verdict.FAIL,
            internal=False,
            control=True,
            attacks=2 * refits,
            detail="not caught" if broken is None else f"{broken.promise} {broken.measured}",
        )


def _only(column: Column, levels: list[int]) -> Column:
    names = tuple(column.levels[level] for level in levels)
    return replace(column, form=Categories(names, names[0]))
