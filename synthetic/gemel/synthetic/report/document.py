"""A finished report, and its two documents: one for the officer who releases a cohort, one for everybody."""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemel.synthetic.report.findings import Finding, Verdict, published
from gemel.synthetic.report.gate import FORMAT

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
class Line:
    """One line of a plot: where it comes from (`real`, `virtual`, `holdout`, `released`, `fan`), and points."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Figure:
    """What a plot shows; drawing is left to others.

    Attributes:
        kind: "survival" (x in days, y a share), "marginal" (y a share per level in `levels`), "fan" (x in days).
        name, title: The column, and what it is called.
        lines: Virtual ones and what they are held against; `internal` ones are exact numbers about patients.
        levels: Of a marginal.
    """

    kind: str
    name: str
    title: str
    lines: tuple[Line, ...]
    internal: bool
    levels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """All that was found out about the cohorts of one model.

    Attributes:
        title: Of the study or the data.
        model_sha256: The model that was drawn from.
        findings: Every row, in order.
        statement: The privacy statement as JSON values; all of it is public.
        provenance: Where the model comes from and what made the report, as JSON values; all of it is public.
        figures: What people look at.
        salt: Goes into the internal document, so that its hash, which is published, tells nobody what the exact numbers are.
    """

    title: str
    model_sha256: str
    findings: tuple[Finding, ...]
    statement: Mapping[str, Any]
    provenance: Mapping[str, Any]
    figures: tuple[Figure, ...] = ()
    salt: str = field(default_factory=lambda: secrets.token_hex(16))

    def document(self, audience: Audience) -> dict[str, Any]:
        """The report as JSON values. The public one holds no exact number about patients, and two digits of all others."""
        internal = audience is Audience.INTERNAL
        findings = self.findings if internal else published(self.findings)
        figures = tuple(figure for figure in self.figures if internal or not figure.internal)
        document = {
            "format": FORMAT,
            "audience": audience.value,
            "title": self.title,
            "model_sha256": self.model_sha256,
            "statement": dict(self.statement),
            "findings": [_row(finding, audience) for finding in findings],
            "counts": {v.value: n for v, n in sorted(Counter(f.verdict for f in findings).items())},
            "figures": [_figure(figure, audience) for figure in figures],
            "provenance": dict(self.provenance),
            "not_for": list(NOT_FOR),
        }
        return {**document, "salt": self.salt} if internal else {**document, "withheld": WITHHELD}

    @property
    def worst(self) -> Verdict:
        """Fail if a row that decides failed, not tested if one was not tested, else pass."""
        found = {finding.verdict for finding in self.findings if finding.gates}
        order = (Verdict.FAIL, Verdict.NOT_TESTED)
        return next((verdict for verdict in order if verdict in found), Verdict.PASS)


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


def _figure(figure: Figure, audience: Audience) -> dict[str, Any]:
    document = asdict(figure)
    document["levels"] = list(figure.levels)
    document["lines"] = [
        {"name": line.name, **{axis: [_number(v, audience) for v in getattr(line, axis)] for axis in "xy"}}
        for line in figure.lines
    ]
    return document


def line(name: str, x: NDArray[np.floating], y: NDArray[np.floating]) -> Line:
    """A line of arrays."""
    return Line(name, tuple(np.asarray(x, float).tolist()), tuple(np.asarray(y, float).tolist()))
