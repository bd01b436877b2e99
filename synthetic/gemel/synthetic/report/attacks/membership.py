"""Membership: was this patient among those whom the virtual cohort was made from?

Two attackers who see one cohort and other patients of the same kind, and compare densities (DOMIAS, van Breugel et al., AISTATS
2023): by the distance to the nearest, and by how frequent a patient's values are two by two, which is what a mechanism of
marginals can give away (Golob et al., arXiv:2402.06699). A third can run the generator: shadow cohorts from random halves say how
these scores fall for each patient in and out (Carlini et al., IEEE S&P 2022; for the most isolated, Meeus et al., arXiv:2306.10308).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from gemel.privacy.audit.intervals import at_least, at_most
from gemel.privacy.audit.membership import Attacked
from gemel.synthetic.domain import Codes, Domain
from gemel.synthetic.report.attacks.people import Flags, Floats, People, Rows, people_of_codes
from gemel.synthetic.report.findings import Finding, Verdict
from gemel.twins.evaluation.estimate import Estimate

BLOCK = "membership"
MOST_AUC, MOST_AUC_ISOLATED, MOST_TRUE_POSITIVES = 0.55, 0.60, 0.02
LEAST_AUC_OF_COPY = 0.95
ISOLATED, FALSE_POSITIVES = 0.05, 0.01
_TWO_SIDED, _NORMAL = 0.975, 1.959964
_FEWEST = 10
# Distances smaller than this are the same person, of which a ratio says enough.
_SAME = 0.01

# A virtual cohort from patients: fit and sample, another one for each seed.
Generator = Callable[[Codes, int], Codes]


@dataclass(frozen=True)
class Candidates:
    """Patients to be told apart, members first, and the others from whom the attacker knows what is usual.

    Attributes:
        codes: Levels (n,) by column of members and control patients.
        present: Who is a member (n,).
        half: 0 or 1 (n,): by which of the references the attacker knows what is usual beside this candidate.
        references: The two halves of those kept out. A control patient is in the other one than is held against them.
    """

    domain: Domain
    codes: Codes
    present: Flags
    half: Rows
    references: tuple[Codes, Codes]

    @classmethod
    def of(cls, domain: Domain, training: Codes, holdout: Codes, *, most: int, seed: int) -> Candidates:
        """At most so many members, and as many control patients of the hold-out; members get a half by lot."""
        generator = np.random.default_rng(seed)
        members = generator.permutation(size_of(training))[:most]
        others = generator.permutation(size_of(holdout))
        halves = others[: len(others) // 2], others[len(others) // 2 :]
        control = generator.permutation(others)[:most]
        in_second = np.isin(control, halves[1])
        codes = together(rows_of(training, members), rows_of(holdout, control))
        half = np.concatenate([generator.integers(0, 2, len(members)), np.where(in_second, 0, 1)])
        present = np.arange(len(half)) < len(members)
        return cls(domain, codes, present, half, (rows_of(holdout, halves[0]), rows_of(holdout, halves[1])))

    def isolated(self) -> Flags:
        """The 5 % who are farthest from the reference: the same rule for members and others."""
        away = self._usual
        return np.argsort(np.argsort(-away, kind="stable")) < max(1, round(ISOLATED * len(away)))

    def scores(self, cohort: Codes) -> Floats:
        """Log density ratios (n, 2) of a cohort: by the nearest person, and by all two columns; higher says "was in"."""
        near = np.log(self._usual + _SAME) - np.log(self._away(cohort) + _SAME)
        return np.column_stack([near, self._by_pairs(cohort)])

    @cached_property
    def _usual(self) -> Floats:
        each = np.stack([self._away(reference) for reference in self.references])
        found: Floats = each[self.half, np.arange(len(self.half))]
        return found

    @cached_property
    def _people(self) -> People:
        return people_of_codes(self.domain, self.codes)

    def _away(self, cohort: Codes) -> Floats:
        mine, theirs = self._people, people_of_codes(self.domain, cohort)
        return mine.nearest(theirs, range(len(mine.names)))[0][:, 0]

    def _by_pairs(self, cohort: Codes) -> Floats:
        total = np.zeros(len(self.present))
        for first, second in combinations(self.domain.names, 2):
            columns = self.domain.sizes[second]
            cells = self.domain.sizes[first] * columns
            mine, virtual, *usual = (
                c[first] * columns + c[second] for c in (self.codes, cohort, *self.references)
            )
            told, *known = (
                np.log((np.bincount(c, minlength=cells) + 0.5) / (len(c) + 0.5 * cells))
                for c in (virtual, *usual)
            )
            total += told[mine] - np.stack(known)[self.half, mine]
        return total


def attack(candidates: Candidates, draws: Sequence[Codes], *, positive: bool = False) -> Iterator[Finding]:
    """What can be told from several draws of one model: scores are their means, of which each draw knows a part.

    As a `positive` control the one draw is the training data, and must be caught.
    """
    scores = np.mean([candidates.scores(cohort) for cohort in draws], axis=0)
    isolated = candidates.isolated()
    names = ("nearest person", "two columns at a time")
    for number, name in enumerate(names[:1] if positive else names):
        yield from rows(
            f"density ratio, {name}", scores[:, number], candidates.present, isolated, positive=positive
        )


def attack_with_shadows(
    candidates: Candidates,
    draws: Sequence[Codes],
    generator: Generator,
    training: Codes,
    holdout: Codes,
    *,
    shadows: int,
    seed: int,
    positive: bool = False,
) -> Iterator[Finding]:
    """What an attacker can tell who runs the generator on random patients, the size of the training set, `shadows` times."""
    random = np.random.default_rng(seed)
    keys = np.concatenate([_keys(candidates.codes), _keys(training), _keys(holdout)])
    pool = together(training, holdout)
    # The same levels in every column are the same to every attacker here.
    same = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
    mine, theirs = same[: len(candidates.present)], same[len(candidates.present) :]
    found, was_in = [], []
    for number in range(shadows):
        drawn = random.permutation(size_of(pool))[: size_of(training)]
        found.append(candidates.scores(generator(rows_of(pool, drawn), seed + number)))
        was_in.append(np.isin(mine, theirs[drawn]))
    shadow, inside = np.stack(found), np.stack(was_in)
    ratio = np.mean([likelihood_ratio(candidates.scores(cohort), shadow, inside) for cohort in draws], axis=0)
    isolated = candidates.isolated()
    yield from rows(f"{shadows} shadow cohorts", ratio, candidates.present, isolated, positive=positive)


def rows(
    name: str,
    scores: Floats,
    present: Flags,
    isolated: Flags,
    *,
    positive: bool = False,
) -> Iterator[Finding]:
    """AUC over all, AUC over the most isolated, true positives at 1 % false ones; of a positive control the first alone."""
    everybody = auc(scores, present)
    if positive:
        caught = everybody is not None and everybody.value >= LEAST_AUC_OF_COPY
        verdict = Verdict.PASS if caught else Verdict.FAIL
        threshold = f"a copy of the training data: ≥ {LEAST_AUC_OF_COPY:g}"
        yield _row(f"AUC ({name})", everybody, 0.5, threshold, verdict, len(scores), control=True)
        return
    yield _at_most(f"AUC ({name})", everybody, 0.5, MOST_AUC, len(scores))
    few = auc(scores[isolated], present[isolated])
    measure = f"AUC of the most isolated {ISOLATED:.0%} ({name})"
    yield _at_most(measure, few, 0.5, MOST_AUC_ISOLATED, int(isolated.sum()))
    rate = _true_positives(Attacked(scores, present))
    members = int(present.sum())
    measure = f"true positives at {FALSE_POSITIVES:.0%} false ones ({name})"
    yield _at_most(measure, rate, FALSE_POSITIVES, MOST_TRUE_POSITIVES, members)


def _true_positives(attacked: Attacked) -> Estimate | None:
    """The rate at `FALSE_POSITIVES`, with an interval for which the cut that few false positives set is uncertain as well."""
    hits, members, _, strangers = attacked.true_positives_at(FALSE_POSITIVES)
    if strangers * FALSE_POSITIVES < 1:
        return None
    off = _NORMAL * math.sqrt(FALSE_POSITIVES / strangers)
    few, many = (
        attacked.true_positives_at(rate)[0]
        for rate in (max(FALSE_POSITIVES - off, 0.0), FALSE_POSITIVES + off)
    )
    low, high = at_least(few, members, confidence=_TWO_SIDED), at_most(many, members, confidence=_TWO_SIDED)
    return Estimate(hits / members, low, high)


def auc(scores: Floats, present: Flags) -> Estimate | None:
    """P(a member's score is above another's), ties half, with DeLong's 95 % interval; None with too few of either."""
    members, others = scores[present], scores[~present]
    if min(len(members), len(others)) < _FEWEST:
        return None
    of_member, of_other = _share_below(members, others), 1 - _share_below(others, members)
    value = float(of_member.mean())
    error = float(np.sqrt(of_member.var(ddof=1) / len(members) + of_other.var(ddof=1) / len(others)))
    return Estimate.plain(value, error)


def size_of(codes: Codes) -> int:
    """How many people there are."""
    return len(next(iter(codes.values())))


def rows_of(codes: Codes, index: Rows) -> dict[str, Rows]:
    """Some of the people."""
    return {name: levels[index] for name, levels in codes.items()}


def together(*parts: Codes) -> dict[str, Rows]:
    """People of several tables as one."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _keys(codes: Codes) -> NDArray[np.intp]:
    return np.column_stack([codes[name] for name in sorted(codes)])


def _share_below(scores: Floats, others: Floats) -> Floats:
    ordered = np.sort(others)
    below, upto = (np.searchsorted(ordered, scores, side=side) for side in ("left", "right"))
    share: Floats = (below + upto) / (2 * len(others))
    return share


def likelihood_ratio(scores: Floats, shadows: Floats, was_in: Flags) -> Floats:
    """Log ratios (n,) of normals of one spread, whose means are those of the shadows with and without each patient.

    Of the cohort under attack `scores` are (n, s); those of `shadows` are (k, n, s), and `was_in` is (k, n).
    """
    inside, weight = was_in[:, :, None], [np.maximum(w.sum(axis=0), 1)[:, None] for w in (was_in, ~was_in)]
    means = [(shadows * inside).sum(axis=0) / weight[0], (shadows * ~inside).sum(axis=0) / weight[1]]
    residual = shadows - np.where(inside, means[0], means[1])
    spread = np.square(residual).sum(axis=0) / max(len(shadows) - 2, 1) + 1e-12
    # A patient who was in all shadows, or in none, says nothing.
    times = was_in.sum(axis=0)
    known = ((times > 0) & (times < len(was_in)))[:, None]
    ratio = (np.square(scores - means[1]) - np.square(scores - means[0])) / (2 * spread)
    result: Floats = np.where(known, ratio, 0.0).sum(axis=1)
    return result


def _at_most(measure: str, found: Estimate | None, baseline: float, most: float, count: int) -> Finding:
    """A pass is a value within the threshold; a fail one whose whole interval is beyond; between the two nothing is known."""
    if found is None or found.low <= most < found.value:
        verdict = Verdict.NOT_TESTED
    else:
        verdict = Verdict.PASS if found.value <= most else Verdict.FAIL
    return _row(measure, found, baseline, f"≤ {most:g}", verdict, count)


def _row(
    measure: str,
    found: Estimate | None,
    baseline: float,
    threshold: str,
    verdict: Verdict,
    count: int,
    *,
    control: bool = False,
) -> Finding:
    value, low, high = (found.value, found.low, found.high) if found is not None else (None, None, None)
    return Finding(
        BLOCK,
        measure,
        value,
        low,
        high,
        baseline,
        threshold,
        verdict,
        internal=True,
        control=control,
        attacks=count,
    )
