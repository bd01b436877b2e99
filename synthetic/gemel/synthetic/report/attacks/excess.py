"""How much better an attack does on training patients than on people who were never in: what the cohort gives away."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from gemel.synthetic.report.attacks.people import Floats
from gemel.synthetic.report.findings import Finding, Verdict
from gemel.twins.evaluation.estimate import Estimate, wilson

# The risk of disclosure that is usual for shared health data (EMA and Health Canada; SynQP, arXiv:2601.12124).
MOST_EXCESS = 0.09
# With fewer the interval is too wide for that threshold: what then looks bad may be chance.
ENOUGH_ATTACKS = 2000
_FEWEST_FAILURES = 20
_NORMAL = 1.959964


@dataclass(frozen=True)
class Attacked:
    """One attack, on several draws of one model.

    Attributes:
        training, control: For each target (n,) the share of draws in which the attack succeeds.
        baseline: The share of right guesses that know nothing of the cohort.
        usual: What could be expected of each target without the cohort, one row for each number that tells (k, n); of training and
            of control targets by the same rule.
    """

    training: Floats
    control: Floats
    baseline: float
    usual: tuple[Floats, Floats] | None = None

    @classmethod
    def of_counts(
        cls, hits: int, tries: int, control_hits: int, control_tries: int, baseline: float
    ) -> Attacked:
        """Of an attack on one draw that was counted only."""
        return cls(
            (np.arange(tries) < hits).astype(float),
            (np.arange(control_tries) < control_hits).astype(float),
            baseline,
        )

    @property
    def control_rate(self) -> float:
        """The share of control targets on whom the attack succeeds."""
        return float(self.control.mean()) if len(self.control) else 0.0

    @property
    def excess(self) -> tuple[float, float, float] | None:
        """(value, low, high): the difference of the rates over what the control leaves to find, with its 95 % interval.

        Targets are independent, draws are not: a target counts once, with its share. None where the attack fails on so few
        control targets, or was tried so little, that nothing can be said.
        """
        failures = float(np.sum(1 - self.control))
        if failures < _FEWEST_FAILURES or len(self.training) < _FEWEST_FAILURES:
            return None
        left = failures / len(self.control)
        found = self._difference() if self.usual is None else self._adjusted(*self.usual)
        return found.value / left, found.low / left, found.high / left

    def _difference(self) -> Estimate:
        """Newcombe's interval (Stat Med 1998;17:873, method 10), of two Wilson intervals."""
        mine, other = (_share(successes) for successes in (self.training, self.control))
        difference = mine.value - other.value
        down = math.hypot(mine.value - mine.low, other.high - other.value)
        up = math.hypot(mine.high - mine.value, other.value - other.low)
        return Estimate(difference, difference - down, difference + up)

    def _adjusted(self, mine: Floats, others: Floats) -> Estimate:
        """The difference of what is left once `usual` is taken out by least squares within the two groups.

        Whom it is easy to guess of is left to chance when people are kept out: that is as much as `usual` tells taken out, which
        leaves the expected difference as it is and narrows its interval (Yang & Tsiatis, Am Stat 2001;55:314).
        """
        pairs = ((self.training, mine), (self.control, others))
        slopes = np.linalg.lstsq(
            np.concatenate([(usual - usual.mean(axis=1, keepdims=True)).T for _, usual in pairs]),
            np.concatenate([successes - successes.mean() for successes, _ in pairs]),
        )[0]
        rest = [successes - slopes @ usual for successes, usual in pairs]
        error = math.sqrt(sum(float(one.var(ddof=1)) / len(one) for one in rest))
        difference = float(rest[0].mean() - rest[1].mean())
        return Estimate(difference, difference - _NORMAL * error, difference + _NORMAL * error)


def excess_finding(block: str, measure: str, attacked: Attacked, *, control: bool = False) -> Finding:
    """The row of one attack. As a `control` it was aimed at a copy of the training data, and has to succeed."""
    found = attacked.excess
    tries = min(len(attacked.training), len(attacked.control))
    if control:
        threshold = f"a copy of the training data: lower limit > {MOST_EXCESS:g}"
    else:
        threshold = f"upper limit of the excess ≤ {MOST_EXCESS:g}"
    value, low, high = found if found is not None else (None, None, None)
    plain = None if attacked.usual is None else replace(attacked, usual=None).excess
    return Finding(
        block,
        measure,
        value,
        low,
        high,
        attacked.control_rate,
        threshold,
        _verdict(found, tries, control=control),
        internal=True,
        control=control,
        attacks=len(attacked.training),
        detail=f"succeeds for {_rate(attacked.training)} of {len(attacked.training)} training and "
        f"{_rate(attacked.control)} of {len(attacked.control)} control targets; {attacked.baseline:.1%} without the cohort"
        + ("" if plain is None else f"; not adjusted: {plain[0]:.3f} ({plain[1]:.3f} to {plain[2]:.3f})"),
    )


def _verdict(found: tuple[float, float, float] | None, tries: int, *, control: bool) -> Verdict:
    if found is None:
        return Verdict.NOT_TESTED
    value, low, high = found
    if control:
        return Verdict.PASS if low > MOST_EXCESS else Verdict.FAIL
    if high <= MOST_EXCESS:
        return Verdict.PASS
    beyond = low > MOST_EXCESS or (value > MOST_EXCESS and tries >= ENOUGH_ATTACKS)
    return Verdict.FAIL if beyond else Verdict.NOT_TESTED


def _share(successes: Floats) -> Estimate:
    """A mean of shares with Wilson's interval, of as many yes-or-no targets as would vary as much."""
    mean, count = float(successes.mean()), len(successes)
    variance = float(successes.var())
    as_many = count if variance == 0 else count * mean * (1 - mean) / variance
    found = wilson(mean * as_many, as_many)
    return Estimate(mean, min(found.low, mean), max(found.high, mean))


def _rate(successes: Floats) -> str:
    return f"{successes.mean() if len(successes) else 0.0:.1%}"
