"""A finished report, and its two documents: one for the officer who releases a cohort, one for everybody."""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from gemel.core.canonical import document_hash
from gemel.synthetic.report.findings import Finding, Verdict, published
from gemel.synthetic.report.gate import FORMAT, standing

NOT_FOR = (
    "training a twin",
    "a decision about any one person",
    "rare subgroups: noise and coarse bins hide or invent them",
    "testing a hypothesis as if these were observed patients",
)
WITHHELD = (
    "Exact numbers about patients stand in the internal report, which stays with who holds the patients' data: attacks, likeness to "
    "patients, fairness. Numbers here are of released tables, of made-up people or of open data, to two digits."
)
_DIGITS = 2


class Audience(StrEnum):
    """Who reads: the officer who holds the patients' data, or anybody."""

    INTERNAL = "internal"
    PUBLIC = "public"


@dataclass(frozen=True)
class Report:
    """All that was found out about the cohorts of one model.

    Attributes:
        title, question: Of the study or the data.
        model_sha256: The model that was drawn from.
        findings: Every row, in order.
        statement: The privacy statement as JSON values; all of it is public.
        provenance: Where the model comes from and what made the report, as JSON values; all of it is public.
        seeds: Of the draws.
        virtual_patients: In each draw.
        attacks: How many of each kind were tried, where there were as many people.
        source_patients: About how many patients were counted, from the noisy tables; None where there are none.
        figures: What people look at, as JSON values, for each audience.
        salt: Goes into the internal document, so that its hash, which is published, tells nobody what the exact numbers are.
    """

    title: str
    model_sha256: str
    findings: tuple[Finding, ...]
    statement: Mapping[str, Any]
    provenance: Mapping[str, Any]
    question: str = ""
    seeds: tuple[int, ...] = ()
    virtual_patients: int = 0
    attacks: int = 0
    source_patients: float | None = None
    figures: Mapping[Audience, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    salt: str = field(default_factory=lambda: secrets.token_hex(16))

    def document(self, audience: Audience) -> dict[str, Any]:
        """The report as JSON values. The public one holds no exact number about patients, and two digits of all others.

        Of the internal one it says which rows stand against a release, and its hash.
        """
        if audience is Audience.INTERNAL:
            return {**self._body(audience, self.findings), "salt": self.salt}
        internal = self.document(Audience.INTERNAL)
        failed, untested = standing(internal)
        gate = {
            "passed": not failed and not untested,
            "failed": list(failed),
            "untested": list(untested),
            "internal_report_sha256": document_hash(internal),
        }
        return {**self._body(audience, published(self.findings)), "withheld": WITHHELD, "gate": gate}

    def _body(self, audience: Audience, findings: Sequence[Finding]) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "audience": audience.value,
            "title": self.title,
            "question": self.question,
            "verdict": worst(findings).value,
            "model_sha256": self.model_sha256,
            "seeds": list(self.seeds),
            "virtual_patients": self.virtual_patients,
            "attacks": self.attacks,
            "source_patients_about": None if self.source_patients is None else rounded(self.source_patients),
            "statement": dict(self.statement),
            "findings": [_row(finding, audience) for finding in findings],
            "counts": {v.value: n for v, n in sorted(Counter(f.verdict for f in findings).items())},
            "figures": [dict(figure) for figure in self.figures.get(audience, ())],
            "provenance": dict(self.provenance),
            "not_for": list(NOT_FOR),
        }


def worst(findings: Iterable[Finding]) -> Verdict:
    """Fail if a row that decides failed, not tested if one was not tested, else pass."""
    found = {finding.verdict for finding in findings if finding.gates}
    return next((v for v in (Verdict.FAIL, Verdict.NOT_TESTED) if v in found), Verdict.PASS)


def rounded(value: float, digits: int = _DIGITS) -> float:
    """A number to so many significant digits.

    >>> rounded(0.012345), rounded(1234.5)
    (0.012, 1200.0)
    """
    return float(f"{value:.{digits}g}")


def _row(finding: Finding, audience: Audience) -> dict[str, Any]:
    row = finding.as_dict()
    for name in ("value", "low", "high", "baseline"):
        row[name] = _number(row[name], audience)
    return row


def _number(value: float | None, audience: Audience) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(value) if audience is Audience.INTERNAL else rounded(value)
