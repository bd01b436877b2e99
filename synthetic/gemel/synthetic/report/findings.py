"""What was measured of a virtual cohort, as a row of its report: a value with its interval, what it is held against, and a verdict.

Everything that is measured on training patients without noise is internal: for the hospital's officer, never for a public
report, for exact distances and success rates can give people away (ReconSyn, arXiv:2312.05114).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """What a row says. `NOT_TESTED` too where too little was tried to tell; `INFORMATION` holds against no threshold."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    NOT_TESTED = "not tested"
    INFORMATION = "for information"


@dataclass(frozen=True)
class Finding:
    """One row.

    Attributes:
        block: The family, as "membership".
        measure: What was measured, in words.
        value, low, high: The measurement with its 95 % interval; None where there is none.
        baseline: The same where nothing can be known of the people: control patients, or guesses made without the cohort.
        threshold: What the verdict holds the measurement against, in words.
        internal: Exact numbers about patients: never in a public report.
        control: An attack aimed at something unprotected, which has to succeed.
        attacks: How many guesses, records or refits the numbers rest on.
        detail: What else a reader wants to know, in words.
        gates: Whether the release gate looks at it; a row that does not is printed, and never decides.
    """

    block: str
    measure: str
    value: float | None
    low: float | None
    high: float | None
    baseline: float | None
    threshold: str
    verdict: Verdict
    internal: bool
    control: bool = False
    attacks: int = 0
    detail: str = ""
    gates: bool = True

    @property
    def passed(self) -> bool:
        """True for a pass only: what was not tested has not passed."""
        return self.verdict is Verdict.PASS

    def as_dict(self) -> dict[str, Any]:
        """The form that goes into a report's JSON."""
        return asdict(self)


def published(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """What a public report may show: nothing that was measured on training patients without noise."""
    return tuple(finding for finding in findings if not finding.internal)
