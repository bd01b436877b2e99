"""The measuring of the anchored tree under attack: what leaves in its three rounds, again and again, with and without a canary.

The attacker knows every patient but one, the canary, who has a level in each column that nobody else has, and sees everything
that is released; the model is not fitted, for what is made of the releases gives away no more. Patients are made up, so nothing
here is internal. Style and limits are those of `gemel.privacy.audit`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gemel.privacy.audit.canaries import distance_at_least
from gemel.privacy.audit.charges import gaussian_epsilon
from gemel.privacy.audit.intervals import at_least, at_most, normal_limit
from gemel.privacy.audit.report import Check
from gemel.privacy.noise import NoiseSource
from gemel.synthetic.anchored_tree import (
    MeasurePlan,
    Query,
    add_noise,
    count,
    count_scores,
    pair_queries,
    plan_for,
    tree_of,
)
from gemel.synthetic.anchored_tree.queries import total_of
from gemel.synthetic.domain import Codes, Domain
from gemel.synthetic.report.attacks.membership import together
from gemel.synthetic.report.findings import Finding, Verdict

BLOCK = "mechanism"
_CONFIDENCE_OF_EACH = 0.975
# How often a fact of a release is looked at before it counts as one that does not change.
_LOOKS = 12
_LOUD = 3.0

Floats = NDArray[np.float64]
Hospitals = Sequence[Codes]
Tables = dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Released:
    """Everything that leaves: the noisy arrays by name, what they answer, and the number of patients that sampling starts from."""

    domain: Domain
    queries: tuple[Query, ...]
    arrays: Mapping[str, NDArray[Any]]
    total: float


Draw = Callable[[NoiseSource], Released]
# Counts once; what it gives then adds noise, as often as it is asked.
Release = Callable[[Hospitals], Draw]


@dataclass(frozen=True)
class Subject:
    """A mechanism on trial.

    Attributes:
        plan: What was fixed beforehand, for a sensitivity of one.
        hospitals: Made-up patients of each.
        canary: One patient more, who is at the first `sites` hospitals.
        epsilon, delta: What is claimed for that patient.
        release: The mechanism.
    """

    plan: MeasurePlan
    hospitals: tuple[Codes, ...]
    canary: Codes
    sites: int
    epsilon: float
    delta: float
    release: Release

    @property
    def with_canary(self) -> tuple[Codes, ...]:
        """The hospitals when the canary is there."""
        return tuple(
            together(codes, self.canary) if number < self.sites else codes
            for number, codes in enumerate(self.hospitals)
        )


def subject_for(
    domain: Domain,
    *,
    epsilon: float,
    delta: float,
    sites: int = 2,
    hospitals: int = 3,
    patients: int = 100,
    seed: int = 0,
) -> Subject:
    """The real mechanism over a domain, on made-up patients: nobody has the last level of a column, only the canary does."""
    random = np.random.default_rng(seed)
    made_up = tuple(
        {c.name: random.integers(0, max(1, c.size - 1), patients) for c in domain.columns}
        for _ in range(hospitals)
    )
    canary = {column.name: np.array([column.size - 1]) for column in domain.columns}
    plan = plan_for(domain, epsilon=epsilon, delta=delta)
    return Subject(plan, made_up, canary, sites, epsilon, delta, releasing(plan, sites=sites))


def releasing(plan: MeasurePlan, *, sites: int, noise_scale: float = 1.0) -> Release:
    """The three rounds over several hospitals, the noise for patients who are at `sites` of them.

    `noise_scale` is for controls: what is said of the noise stays, the noise is so much of it.
    """
    domain, one_ways = plan.domain, scaled(plan.one_ways, sites)
    sigma = plan.score_sigma * sites * noise_scale

    def noisy(queries: tuple[Query, ...], exact: Tables, noise: NoiseSource) -> Tables:
        quieter = tuple(replace(query, sigma=query.sigma * noise_scale) for query in queries)
        return add_noise(quieter, exact, noise)

    def release(hospitals: Hospitals) -> Draw:
        exact_levels, exact_scores = sum_tables(one_ways, domain, hospitals), sum_scores(plan, hospitals)

        def draw(noise: NoiseSource) -> Released:
            levels = noisy(one_ways, exact_levels, noise)
            scores = exact_scores
            if len(scores):
                scores = scores + noise.discrete_gaussian(sigma, scores.shape)
            tree = tree_of(plan, scores) if len(scores) else {}
            queries = scaled(pair_queries(plan, levels, tree), sites)
            pairs = noisy(queries, sum_tables(queries, domain, hospitals), noise)
            everything = (*one_ways, *queries)
            total = total_of({**levels, **pairs}, everything)
            return Released(domain, everything, {**levels, "scores": scores, **pairs}, total)

        return draw

    return release


def scaled(queries: tuple[Query, ...], sites: int) -> tuple[Query, ...]:
    """The queries with noise for a patient who is counted at so many hospitals."""
    return tuple(replace(query, sigma=query.sigma * sites) for query in queries)


def sum_tables(queries: tuple[Query, ...], domain: Domain, hospitals: Hospitals) -> Tables:
    """The exact tables of all hospitals together: those of all their patients as one."""
    return count(queries, domain, together(*hospitals))


def sum_scores(plan: MeasurePlan, hospitals: Hospitals) -> NDArray[np.int64]:
    """The exact scores of all hospitals together."""
    each = [count_scores(plan.domain, codes, plan.score_pairs) for codes in hospitals]
    total: NDArray[np.int64] = np.sum(each, axis=0)
    return total


def attack(subject: Subject, *, refits: int, noise: NoiseSource | None = None) -> Iterator[Check]:
    """Every check of a mechanism, so many releases with and without the canary.

    The noise is the operating system's, unless a test gives its own.
    """
    noise = noise or NoiseSource.secure()
    draws = [subject.release(hospitals) for hospitals in (subject.hospitals, subject.with_canary)]
    looks = [[draw(noise) for _ in range(_LOOKS)] for draw in draws]
    told = _told_exactly(*looks)
    yield Check(
        BLOCK,
        "Nothing that is released, neither a number nor a shape, tells without noise that one patient more is there.",
        "0 facts",
        f"{len(told)} facts" + (f": {', '.join(told[:3])}" if told else ""),
        not told,
        numbers={"claimed": 0.0, "measured": float(len(told))},
    )
    floats = [name for name, array in looks[0][0].arrays.items() if array.dtype.kind not in "iu"]
    yield Check(
        BLOCK,
        "What is released are whole numbers: floats tell by their last bits what noise was added to (Mironov 2012).",
        "0 arrays of floats",
        f"{len(floats)}",
        not floats,
        numbers={"claimed": 0.0, "measured": float(len(floats))},
    )
    if looks[0][0].domain != subject.plan.domain:
        # Tables over another domain than the public one answer other questions: there is nothing to compare.
        return
    yield from canaries(subject, refits=refits, noise=noise)


def control(subject: Subject, *, refits: int, noise: NoiseSource | None = None) -> Iterator[Check]:
    """The canaries where the noise is a third of what is said: they have to find it out."""
    quiet = replace(subject, release=releasing(subject.plan, sites=subject.sites, noise_scale=1 / _LOUD))
    for check in canaries(quiet, refits=refits, noise=noise or NoiseSource.secure()):
        promise = "With a third of the noise the canary is seen above the claim" + (
            " (rates)." if "rates" in check.promise else " (scores taken for normal)."
        )
        yield replace(
            check, promise=promise, claimed=f"> {check.claimed}", passed=not check.passed, control=True
        )


def canaries(subject: Subject, *, refits: int, noise: NoiseSource) -> Iterator[Check]:
    """Lower bounds on ε from so many releases with and without the canary.

    The score is the likelihood ratio of everything released, cut half-way between the two. Rates with Clopper and Pearson's
    limits, 95 % together, bound the distance μ of the two normals, and μ bounds ε (Nasr et al., USENIX Security 2023).
    """
    score = scoring(subject)
    draws = [subject.release(hospitals) for hospitals in (subject.hospitals, subject.with_canary)]
    scores = [np.array([score(draw(noise)) for _ in range(refits)]) for draw in draws]
    alarms, hits = (int(np.count_nonzero(s > 0.5)) for s in scores)
    apart = _normal_of(at_least(hits, refits, confidence=_CONFIDENCE_OF_EACH))
    apart -= _normal_of(at_most(alarms, refits, confidence=_CONFIDENCE_OF_EACH))
    bound = gaussian_epsilon(apart, delta=subject.delta) if apart > 0 else 0.0
    yield Check(
        BLOCK,
        f"Who sees everything tells no better than ε allows whether the canary is there (rates; {subject.sites} sites).",
        f"ε = {subject.epsilon:.3f}",
        f"ε >= {bound:.3f} (95 %): {hits} of {refits} found, {alarms} of {refits} false alarms",
        bound <= subject.epsilon,
        numbers={"claimed": subject.epsilon, "measured": bound, "refits": float(refits)},
    )
    present = np.repeat([False, True], refits)
    distance = distance_at_least(np.concatenate(scores), present)
    least = gaussian_epsilon(distance, delta=subject.delta) if distance > 0 else 0.0
    yield Check(
        BLOCK,
        "Taken for normal, the scores with and without the canary lie no further apart than ε allows.",
        f"ε = {subject.epsilon:.3f}",
        f"ε >= {least:.3f}: {distance:.3f} standard deviations at least (limit of {normal_limit():.1f} errors)",
        least <= subject.epsilon,
        numbers={"claimed": subject.epsilon, "measured": least, "refits": float(refits)},
    )


def scoring(subject: Subject) -> Callable[[Released], float]:
    """How a release is scored: its likelihood ratio, scaled; 0 is expected without the canary, 1 with it."""
    plan, domain = subject.plan, subject.plan.domain
    sides = (subject.hospitals, subject.with_canary)
    scores = [sum_scores(plan, hospitals) for hospitals in sides]

    def score(released: Released) -> float:
        without, with_one = (
            {**sum_tables(released.queries, domain, hospitals), "scores": exact}
            for hospitals, exact in zip(sides, scores, strict=True)
        )
        sigmas = {query.name: query.sigma for query in released.queries}
        along = length = 0.0
        for name, sigma in {**sigmas, "scores": plan.score_sigma * subject.sites}.items():
            step = (with_one[name] - without[name]).astype(np.float64) / sigma
            length += float(np.sum(step**2))
            along += float(np.sum(step * (released.arrays[name].astype(np.float64) - without[name]) / sigma))
        return along / length

    return score


def findings(checks: Iterator[Check]) -> Iterator[Finding]:
    """Checks of a mechanism as rows of a report. Made-up patients were attacked, so they are public."""
    for check in checks:
        measured, claimed = check.numbers.get("measured"), check.numbers.get("claimed")
        verdict = Verdict.PASS if check.passed else Verdict.FAIL
        is_bound = check.claimed.removeprefix("> ").startswith("ε")
        yield Finding(
            BLOCK,
            check.promise,
            measured,
            measured if is_bound else None,
            None,
            claimed,
            f"{'≤ ' if is_bound and not check.control else ''}{check.claimed}",
            verdict,
            internal=False,
            control=check.control,
            attacks=2 * int(check.numbers.get("refits", _LOOKS)),
            detail=check.measured,
        )


def _told_exactly(without: list[Released], with_one: list[Released]) -> list[str]:
    """Names of facts that are the same in every release of one kind, the same in every one of the other, and differ."""
    sides = [[_facts(released) for released in side] for side in (without, with_one)]
    names = set.intersection(*(set(facts) for side in sides for facts in side))
    first, second = ({n: {facts[n] for facts in side} for n in names} for side in sides)
    return sorted(n for n in names if len(first[n]) == len(second[n]) == 1 and first[n] != second[n])


def _facts(released: Released) -> dict[str, object]:
    facts: dict[str, object] = {"number of patients": released.total}
    facts |= {f"levels of {column.name}": column.levels for column in released.domain.columns}
    for name, array in released.arrays.items():
        facts[f"shape of {name}"] = array.shape
        facts[f"sum of {name}"] = array.sum().item()
        facts |= {f"{name}, cell {i}": value for i, value in enumerate(array.ravel().tolist())}
    return facts


def _normal_of(rate: float) -> float:
    return float(stats.norm.ppf(min(max(rate, 1e-9), 1 - 1e-9))) if math.isfinite(rate) else 0.0
