"""The report of virtual cohorts and the gate that reads it: what they promise, what attacks find, what they are good for."""

from __future__ import annotations

from gemel.synthetic.report.document import Audience, Report
from gemel.synthetic.report.evidence import Columns, Evidence
from gemel.synthetic.report.findings import Finding, Verdict, published
from gemel.synthetic.report.gate import Decision, Outcome, Override, decide
from gemel.synthetic.report.making import Source, make
from gemel.synthetic.report.statement import Statement

__all__ = [
    "Audience",
    "Columns",
    "Decision",
    "Evidence",
    "Finding",
    "Outcome",
    "Override",
    "Report",
    "Source",
    "Statement",
    "Verdict",
    "decide",
    "make",
    "published",
]
