"""The rounds of measuring under attack: what leaves, again and again, with and without a canary.

The attacker knows every patient but one, the canary, who has a level in each column that nobody else has, and sees everything
that is seen of the rounds; the model is not fitted, for what is made of the releases gives away no more. Patients are made up, so
nothing here is internal. Style and limits are those of `gemel.privacy.audit`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Generic

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gemel.core.arrays import Arrays
from gemel.core.synthesis_plan import ROUNDS
from gemel.privacy.audit.canaries import distance_at_least
from gemel.privacy.audit.charges import gaussian_epsilon
from gemel.privacy.audit.intervals import at_least, at_most, normal_limit, variance_ratio_limits
from gemel.privacy.audit.report import Check
from gemel.privacy.noise import NoiseSource
from gemel.synthetic import protocol
from gemel.synthetic.report.attacks.federation import Flat, P, Released, Subject, carry_out_rounds
from gemel.synthetic.report.attacks.masked import sum_through_masks
from gemel.synthetic.report.attacks.membership import together
from gemel.synthetic.report.findings import Finding, Verdict

BLOCK = "mechanism"
_CONFIDENCE_OF_EACH = 0.975
# How often a fact of a release is looked at before it counts as one that does not change.
_LOOKS = 6
_MASKED_LOOKS = 1
# The control's noise is a third, which so many releases find.
_LOUD, _ENOUGH, _CONTROL_EPSILON = 3.0, 120, 3.0
# A score is whole, and sums of squares of whole numbers over σ² are exact but for this.
_ROUNDING = 1e-9
# An accountant's ε and the closed form differ by less.
_ACCOUNTED = 1e-4


def attack(subject: Subject[P], *, releases: int, noise: NoiseSource | None = None) -> Iterator[Check]:
    """Every check of the rounds; the canaries' so many times with and so many times without them, or not at all.

    The noise is the operating system's, unless a test gives its own.
    """
    noise = noise or NoiseSource.secure()
    without, with_one = (
        [carry_out_rounds(subject, hospitals, noise) for _ in range(_LOOKS)]
        for hospitals in (subject.hospitals, subject.with_canary)
    )
    told = _told_exactly(without, with_one)
    yield _nothing(
        "Nothing that is seen, neither a number nor a shape, tells without noise that one patient more is there.",
        told,
        "facts",
    )
    floats = [
        task for task, arrays in without[0].sent.items() if any(a.dtype.kind not in "iu" for a in arrays)
    ]
    yield _nothing(
        "What is released are whole numbers: floats tell by their last bits what noise was added to (Mironov 2012).",
        floats,
        "arrays of floats",
    )
    yield from _changes(subject)
    yield _distance(subject)
    if floats:
        return  # neither masks nor the likelihood ratio below take them
    if subject.is_summed:
        yield _masks(subject, without[:_MASKED_LOOKS])
    yield from _spread(subject, without)
    if releases:
        yield from canaries(subject, releases=releases, noise=noise)


def control(subject: Subject[P], *, releases: int, noise: NoiseSource | None = None) -> Iterator[Check]:
    """The canaries where the noise is a third of what is said: they have to find it out.

    At a small ε a third of the noise still hides a lot: the control is made at ε = 3 then.
    """
    subject = subject.at_price(max(subject.epsilon, _CONTROL_EPSILON))
    quiet = replace(subject, task=lambda whole: subject.task(whole / _LOUD))
    noise = noise or NoiseSource.secure()
    for check in canaries(quiet, releases=min(releases, _ENOUGH), noise=noise):
        promise = "With a third of the noise the canary is seen above the claim" + (
            " (rates)." if "rates" in check.promise else " (scores taken for normal)."
        )
        yield replace(
            check, promise=promise, claimed=f"> {check.claimed}", passed=not check.passed, control=True
        )


def canaries(subject: Subject[P], *, releases: int, noise: NoiseSource) -> Iterator[Check]:
    """Lower bounds on ε from so many releases with and without the canary.

    The score is the likelihood ratio of everything seen, cut half-way between the two. Rates with Clopper and Pearson's
    limits, 95 % together, bound the distance μ of the two normals, and μ bounds ε (Nasr et al., USENIX Security 2023).
    """
    score = scoring(subject)
    scores = [
        np.array([score(carry_out_rounds(subject, hospitals, noise)) for _ in range(releases)])
        for hospitals in (subject.hospitals, subject.with_canary)
    ]
    alarms, hits = (int(np.count_nonzero(s > 0.5)) for s in scores)
    apart = _normal_of(at_least(hits, releases, confidence=_CONFIDENCE_OF_EACH))
    apart -= _normal_of(at_most(alarms, releases, confidence=_CONFIDENCE_OF_EACH))
    bound = gaussian_epsilon(apart, delta=subject.delta) if apart > 0 else 0.0
    numbers = {"claimed": subject.epsilon, "releases": float(2 * releases)}
    yield Check(
        BLOCK,
        "Who sees everything tells no better than ε allows whether the canary is there (rates).",
        f"ε = {subject.epsilon:.3f}",
        f"ε >= {bound:.3f} (95 %): {hits} of {releases} found, {alarms} of {releases} false alarms",
        bound <= subject.epsilon,
        numbers={**numbers, "measured": bound},
    )
    distance = distance_at_least(np.concatenate(scores), np.repeat([False, True], releases))
    least = gaussian_epsilon(distance, delta=subject.delta) if distance > 0 else 0.0
    yield Check(
        BLOCK,
        "Taken for normal, the scores with and without the canary lie no further apart than ε allows.",
        f"ε = {subject.epsilon:.3f}",
        f"ε >= {least:.3f}: {distance:.3f} standard deviations at least (limit of {normal_limit():.1f} errors)",
        least <= subject.epsilon,
        numbers={**numbers, "measured": least},
    )


def scoring(subject: Subject[P]) -> Callable[[Released], float]:
    """How a release is scored: its likelihood ratio, scaled; 0 is expected without the canary, 1 with it."""
    before, after = Expected(subject, subject.hospitals), Expected(subject, subject.with_canary)

    def score(released: Released) -> float:
        along = length = 0.0
        for task in ROUNDS:
            choice = released.choices[task]
            for number, array in enumerate(released.seen[task]):
                if not subject.is_summed and subject.hospitals[number] is subject.with_canary[number]:
                    continue
                (without, sigma), (with_one, _) = (e.of(task, choice, number) for e in (before, after))
                step = (with_one - without) / sigma
                found = array[: len(without)].astype(np.float64) - without
                length += float(step @ step)
                along += float(step @ (found / sigma))
        return along / length

    return score


class Expected(Generic[P]):
    """What the attacker works out: the exact cells of everything that is seen, and the σ of their noise."""

    def __init__(self, subject: Subject[P], hospitals: Sequence[P]) -> None:
        self._subject = subject
        each = [subject.counted(hospital) for hospital in hospitals]
        # All rounds count sums over patients: those of several hospitals are those of their patients as one.
        self._codes = [together(*each)] if subject.is_summed else each
        self._shares = math.sqrt(len(each)) if subject.is_summed else 1.0
        self._fixed: dict[tuple[str, int], tuple[Flat, Flat]] = {}

    def of(self, task: str, choice: Arrays, number: int) -> tuple[Flat, Flat]:
        """Cells and σ of one array that is seen."""
        key = (task, number)
        if choice or key not in self._fixed:
            cells, sigma = self._subject.count(task, self._codes[number], choice)
            self._fixed[key] = (cells, sigma * self._shares)
        return self._fixed[key]


def _changes(subject: Subject[P]) -> Iterator[Check]:
    """What one patient more changes in a hospital's releases, exactly: the noise is drawn twice from one seed."""
    plan, worst, kept_out = subject.study.synthesis, 0.0, 0
    choices = carry_out_rounds(subject, subject.hospitals, NoiseSource.for_tests(0)).choices
    for neighbours in subject.neighbours:
        for task in ROUNDS:
            (name,) = protocol.declared_tables(task, subject.domain)
            before, after = (
                subject.carry_out(task, 0, hospital, choices[task], NoiseSource.for_tests(1))[name]
                for hospital in (neighbours.without, neighbours.with_one)
            )
            change = np.abs(after.astype(np.float64) - before.astype(np.float64))
            if not neighbours.counted:
                kept_out += int(np.count_nonzero(change))
                continue
            _, sigmas = subject.count(task, subject.counted(neighbours.without), choices[task])
            charged = plan.mechanism(task, subject.whole)
            moved = float(np.sum((change[: len(sigmas)] / sigmas) ** 2))
            worst = max(worst, math.sqrt(moved * charged.noise_multiplier**2 / charged.count))
    yield Check(
        BLOCK,
        "One patient more moves a hospital's release by no more than is charged for.",
        "1 sensitivity",
        f"{worst:.4f}, of {len(subject.neighbours) - 1} patients in {len(ROUNDS)} rounds",
        worst <= 1 + _ROUNDING,
        numbers={"claimed": 1.0, "measured": worst},
    )
    yield Check(
        BLOCK,
        "A patient who is held out moves nothing.",
        "0 cells",
        f"{kept_out} cells",
        kept_out == 0,
        numbers={"claimed": 0.0, "measured": float(kept_out)},
    )


def _distance(subject: Subject[P]) -> Check:
    """How far apart what is seen lies with and without the canary, worked out: the noise is drawn twice from one seed."""
    choices = carry_out_rounds(subject, subject.hospitals, NoiseSource.for_tests(0)).choices
    expected, squared = Expected(subject, subject.hospitals), 0.0
    for task in ROUNDS:
        (name,) = protocol.declared_tables(task, subject.domain)
        moved = [
            subject.carry_out(task, number, after, choices[task], NoiseSource.for_tests(1))[name].astype(
                float
            )
            - subject.carry_out(task, number, before, choices[task], NoiseSource.for_tests(1))[name]
            for number, (before, after) in enumerate(zip(subject.hospitals, subject.with_canary, strict=True))
        ]
        for number, cells in enumerate([np.sum(moved, axis=0)] if subject.is_summed else moved):
            sigma = expected.of(task, choices[task], number)[1]
            squared += float(np.sum((cells[: len(sigma)] / sigma) ** 2))
    epsilon = gaussian_epsilon(math.sqrt(squared), delta=subject.delta)
    return Check(
        BLOCK,
        "Worked out from what the canary moves, everything that is seen together tells no better than ε allows.",
        f"ε = {subject.epsilon:.3f}",
        f"ε = {epsilon:.3f}: {math.sqrt(squared):.3f} standard deviations",
        epsilon <= subject.epsilon + _ACCOUNTED,
        numbers={"claimed": subject.epsilon, "measured": epsilon},
    )


def _masks(subject: Subject[P], looks: Sequence[Released]) -> Check:
    """Whether what the coordinator gets through masks is what was sent, added up."""
    wrong = sum(
        not np.array_equal(
            sum_through_masks(subject.study, subject.domain, task, released.sent[task]),
            released.seen[task][0],
        )
        for released in looks
        for task in ROUNDS
    )
    return Check(
        BLOCK,
        "Through masks the coordinator gets the sum of what was sent, to the last bit.",
        "0 sums differ",
        f"{wrong} of {len(looks) * len(ROUNDS)} differ",
        wrong == 0,
        numbers={"claimed": 0.0, "measured": float(wrong)},
    )


def _spread(subject: Subject[P], looks: Sequence[Released]) -> Iterator[Check]:
    """Whether what is seen has the noise that it should have; once in ten million audits a sound one does not."""
    expected = Expected(subject, subject.hospitals)
    for task in ROUNDS:
        squares: list[NDArray[np.float64]] = []
        for released in looks:
            for number, array in enumerate(released.seen[task]):
                exact, sigma = expected.of(task, released.choices[task], number)
                squares.append(((array[: len(exact)].astype(np.float64) - exact) / sigma) ** 2)
        found = np.concatenate(squares)
        ratio = math.sqrt(float(found.mean()))
        low, high = (math.sqrt(limit) for limit in variance_ratio_limits(found.size))
        yield Check(
            BLOCK,
            f"What is seen of {task} carries the noise that is charged for.",
            f"1; {low:.3f} to {high:.3f} allowed",
            f"{ratio:.3f} of it, {found.size} cells",
            low <= ratio <= high,
            numbers={"claimed": 1.0, "measured": ratio},
        )


def findings(checks: Iterator[Check], *, about: str = "") -> Iterator[Finding]:
    """Checks of the rounds as rows of a report. Made-up patients were attacked, so they are public."""
    for check in checks:
        measured, claimed = check.numbers.get("measured"), check.numbers.get("claimed")
        is_bound = check.claimed.removeprefix("> ").startswith("ε")
        yield Finding(
            BLOCK,
            f"{about}{check.promise}",
            measured,
            measured if is_bound else None,
            None,
            claimed,
            f"{'≤ ' if is_bound and not check.control else ''}{check.claimed}",
            Verdict.PASS if check.passed else Verdict.FAIL,
            internal=False,
            control=check.control,
            attacks=int(check.numbers.get("releases", 2 * _LOOKS)),
            detail=check.measured,
        )


def _nothing(promise: str, found: Sequence[str], what: str) -> Check:
    return Check(
        BLOCK,
        promise,
        f"0 {what}",
        f"{len(found)} {what}" + (f": {', '.join(found[:3])}" if found else ""),
        not found,
        numbers={"claimed": 0.0, "measured": float(len(found))},
    )


def _told_exactly(without: Sequence[Released], with_one: Sequence[Released]) -> list[str]:
    """Names of facts that are the same in every release of one kind, the same in every one of the other, and differ."""
    sides = [[_facts(released) for released in side] for side in (without, with_one)]
    names = set.intersection(*(set(facts) for side in sides for facts in side))
    first, second = ({n: {facts[n] for facts in side} for n in names} for side in sides)
    told = [n for n in names if len(first[n]) == len(second[n]) == 1 and first[n] != second[n]]
    return sorted([*told, *_cells_told(without, with_one)])


def _facts(released: Released) -> dict[str, object]:
    facts: dict[str, object] = dict(released.beside)
    for task, arrays in released.seen.items():
        for number, array in enumerate(arrays):
            facts[f"shape of {task}, array {number}"] = array.shape
            facts[f"sum of {task}, array {number}"] = array.sum().item()
    return facts


def _cells_told(without: Sequence[Released], with_one: Sequence[Released]) -> Iterator[str]:
    for task, arrays in without[0].seen.items():
        for number in range(len(arrays)):
            first, second = (
                [released.seen[task][number] for released in side] for side in (without, with_one)
            )
            if len({array.shape for array in (*first, *second)}) == 1:
                one, other = np.stack(first), np.stack(second)
                told = (one == one[0]).all(axis=0) & (other == other[0]).all(axis=0) & (one[0] != other[0])
                yield from (f"{task}, array {number}, cell {cell}" for cell in np.flatnonzero(told))


def _normal_of(rate: float) -> float:
    return float(stats.norm.ppf(min(max(rate, 1e-9), 1 - 1e-9))) if math.isfinite(rate) else 0.0
