"""Attacks on virtual cohorts and on the mechanism that measures them: what a cohort gives away beyond what is true of patients."""

from __future__ import annotations

from gemel.synthetic.attacks.findings import Finding, Verdict, published
from gemel.synthetic.attacks.suite import FULL, QUICK, Effort, Sides, examine

__all__ = ["FULL", "QUICK", "Effort", "Finding", "Sides", "Verdict", "examine", "published"]
