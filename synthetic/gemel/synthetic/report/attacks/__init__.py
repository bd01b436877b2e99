"""Attacks on virtual cohorts and on the mechanism that measures them: what a cohort gives away beyond what is true of patients."""

from __future__ import annotations

from gemel.synthetic.report.attacks.suite import (
    FULL,
    QUICK,
    Effort,
    Sides,
    attack_findings,
    mechanism_findings,
)
from gemel.synthetic.report.findings import Finding, Verdict, published

__all__ = [
    "FULL",
    "QUICK",
    "Effort",
    "Finding",
    "Sides",
    "Verdict",
    "attack_findings",
    "mechanism_findings",
    "published",
]
