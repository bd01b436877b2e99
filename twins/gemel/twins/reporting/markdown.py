"""A report as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gemel.twins.evaluation.estimate import Estimate
from gemel.twins.evaluation.evaluation import RiskEvaluation, ValueEvaluation
from gemel.twins.evaluation.subgroups import RULE
from gemel.twins.reporting.audience import NOTES
from gemel.twins.reporting.tripod_ai import Status
from gemel.twins.uncertainty.coverage import RULE as COVERAGE_RULE

if TYPE_CHECKING:
    from gemel.twins.reporting.report import Report


def report_markdown(report: Report) -> str:
    """The whole report."""
    programme = report.known.programme
    lines = [f"# {programme.title}", "", f"**{NOTES[report.audience]}**", ""]
    lines += [f"Programme `{programme.name}` version {programme.version}. {programme.question}", ""]
    lines += [
        *_context(report),
        *_performance(report),
        *_coverage(report),
        *_claims(report),
        *_tripod(report),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _context(report: Report) -> Iterator[str]:
    context, found = report.known.definition.context, report.credibility
    validation = report.known.definition.validation
    yield from ("## Context of use (ASME V&V 40)", "", context.question, "")
    yield from (f"- Role: {context.role}", f"- Users: {context.users}")
    yield f"- Risk: **{found.risk}** (influence {found.influence} x consequence {found.consequence}; our matrix)"
    yield f"- Grade: {validation.grade}. Checked on: {validation.data}"
    yield from (f"- Not for: {text}" for text in context.not_for)
    yield ""
    yield from _table(
        ("credibility factor", "evidence"),
        [(factor.title, factor.evidence or "**missing**") for factor in found.factors],
    )


def _performance(report: Report) -> Iterator[str]:
    evaluation = report.known.evaluation
    if evaluation is None:
        return
    yield from ("## Performance on held-out patients", "", f"{evaluation.patients} patients.", "")
    for scored in evaluation.endpoints:
        yield from _risk(scored) if isinstance(scored, RiskEvaluation) else _value(scored)
    yield from ("### Groups", "", RULE, "")
    flagged = evaluation.flagged
    if not flagged:
        yield from ("No group is flagged.", "")
        return
    yield from _table(
        ("endpoint", "group", "patients", "observed over expected, or mean error"),
        [
            (f"{name}, day {day}", f"{g.by}: {g.name}", str(g.patients), _shown(_worst(g.ratio, g.bias)))
            for name, day, g in flagged
        ],
    )


def _risk(scored: RiskEvaluation) -> Iterator[str]:
    yield from (f"### {scored.title} by day {scored.day}", "")
    yield f"{scored.known} known of {scored.patients} at risk, {scored.events} events, incidence {scored.incidence:.3f}."
    yield ""
    bent = scored.calibration
    rows = [
        ("AUC", _shown(scored.auc)),
        ("C over time", _shown(scored.concordance)),
        ("Brier score", _shown(scored.brier, 4)),
        ("scaled Brier score", _shown(scored.scaled_brier)),
        ("observed over expected", _shown(bent.observed_over_expected)),
        ("calibration intercept", _shown(bent.intercept)),
        ("calibration slope", _shown(bent.slope)),
        ("ICI", _number(bent.ici, 4)),
    ]
    if scored.ordinal is not None:
        rows.append(("ranked probability score", _shown(scored.ordinal[0], 4)))
        rows.append(("the same of everybody's mean shares", _shown(scored.ordinal[1], 4)))
    yield from _table(("measure", "value (95 % interval)"), [row for row in rows if row[1]])
    yield from _baselines(scored)


def _value(scored: ValueEvaluation) -> Iterator[str]:
    yield from (f"### {scored.title} ({scored.unit})", "", f"{scored.scores.patients} measured.", "")
    found = scored.scores
    rows = [("RMSE", found.rmse), ("MAE", found.mae), ("mean error", found.bias), ("CRPS", found.crps)]
    yield from _table(("measure", "value (95 % interval)"), [(name, _shown(of)) for name, of in rows])
    yield from _baselines(scored)


def _baselines(scored: RiskEvaluation | ValueEvaluation) -> Iterator[str]:
    if not scored.baselines:
        return
    yield from _table(
        ("baseline", "mark", "computable", "measure", "twin", "baseline", "difference"),
        [
            (
                f"{b.title} ({b.source})",
                b.mark,
                f"{b.share:.0%}",
                b.measure,
                _shown(b.twin),
                _shown(b.baseline),
                _shown(b.difference),
            )
            for b in scored.baselines
        ],
    )


def _coverage(report: Report) -> Iterator[str]:
    if not report.coverage:
        return
    yield from ("## Coverage of intervals and sets", "", COVERAGE_RULE, "")
    yield from _table(
        ("group", "patients", "nominal", "held", "flagged"),
        [
            (
                f"{c.by}: {c.name}",
                str(c.patients),
                f"{c.nominal:.0%}",
                _shown(c.share),
                "yes" if c.flagged else "",
            )
            for c in report.coverage
        ],
    )


def _claims(report: Report) -> Iterator[str]:
    if not report.claims:
        return
    yield from ("## Claims", "")
    yield from _table(
        ("gate", "claim", "published", "computed", "verdict", "source"),
        [
            (
                str(c.claim.gate),
                c.claim.statement,
                f"{c.claim.value:g} ({c.claim.low:g} to {c.claim.high:g}) {c.claim.unit}",
                "" if c.computed is None else f"{c.computed:.4g}",
                str(c.verdict),
                f"{c.claim.source} [{c.claim.mark}]",
            )
            for c in report.claims
        ],
    )


def _tripod(report: Report) -> Iterator[str]:
    yield from ("## TRIPOD+AI (Collins et al., BMJ 2024;385:e078378)", "")
    counts = ", ".join(f"{report.count(status)} {status}" for status in Status)
    yield from (f"Filled in by the code: {counts}. What is missing is for the authors to add.", "")
    yield from _table(
        ("item", "asks for", "status", "text"),
        [(f.item.number, f.item.asks, str(f.status), f.text) for f in report.items],
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(_cell(text) for text in row)} |"
    yield ""


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _shown(estimate: Estimate | None, digits: int = 3) -> str:
    if estimate is None:
        return ""
    if not math.isfinite(estimate.low):
        return _number(estimate.value, digits)
    low, high = _number(estimate.low, digits), _number(estimate.high, digits)
    return f"{_number(estimate.value, digits)} ({low} to {high})"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "not computable"


def _worst(ratio: Estimate, bias: Estimate) -> Estimate:
    return ratio if math.isfinite(ratio.value) else bias
