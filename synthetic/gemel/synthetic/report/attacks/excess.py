"""How much better an attack does on training patients than on people who were never in: what the cohort gives away."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gemel.synthetic.report.findings import Finding, Verdict
from gemel.twins.evaluation.estimate import wilson

# The risk of disclosure that is usual for shared health data (EMA and Health Canada; SynQP, arXiv:2601.12124).
MOST_EXCESS = 0.09
# With fewer the interval is too wide for that threshold: what then looks bad may be chance.
ENOUGH_ATTACKS = 2000
_FEWEST_FAILURES = 20


@dataclass(frozen=True)
class Attacked:
    """One attack: successes and tries on training patients and on control patients; `baseline` of guesses without the cohort."""

    hits: int
    tries: int
    control_hits: int
    control_tries: int
    baseline: float

    @property
    def control_rate(self) -> float:
        """The share of the control patients on whom the attack succeeds."""
        return self.control_hits / max(self.control_tries, 1)

    @property
    def excess(self) -> tuple[float, float, float] | None:
        """(value, low, high): the difference of the rates over what the control leaves to find, with its 95 % interval.

        The difference has Newcombe's interval (Stat Med 1998;17:873, method 10), of two Wilson intervals. None where the
        attack fails on so few control patients, or was tried so little, that nothing can be said.
        """
        failures = self.control_tries - self.control_hits
        if failures < _FEWEST_FAILURES or self.tries < _FEWEST_FAILURES:
            return None
        mine, control = wilson(self.hits, self.tries), wilson(self.control_hits, self.control_tries)
        difference = mine.value - control.value
        down = math.hypot(mine.value - mine.low, control.high - control.value)
        up = math.hypot(mine.high - mine.value, control.value - control.low)
        left = failures / self.control_tries
        return difference / left, (difference - down) / left, (difference + up) / left


def excess_finding(block: str, measure: str, attacked: Attacked, *, control: bool = False) -> Finding:
    """The row of one attack. As a `control` it was aimed at a copy of the training data, and has to succeed."""
    found = attacked.excess
    tries = min(attacked.tries, attacked.control_tries)
    if control:
        threshold = f"a copy of the training data: lower limit > {MOST_EXCESS:g}"
    else:
        threshold = f"upper limit of the excess ≤ {MOST_EXCESS:g}"
    value, low, high = found if found is not None else (None, None, None)
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
        attacks=attacked.tries,
        detail=f"succeeds for {attacked.hits} of {attacked.tries} training and {attacked.control_hits} of "
        f"{attacked.control_tries} control patients; {attacked.baseline:.1%} without the cohort",
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
