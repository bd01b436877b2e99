"""The report's rows: each with its value, the control beside it, the threshold written down here, and a verdict.

A threshold is never lowered to pass, and what was not measured says "not tested".
"""

from __future__ import annotations

from typing import Literal

import msgspec

from gemel.synthetic.cohort import VirtualCohort
from gemel.synthetic.report.comparison import Comparison, Neighbours

Verdict = Literal["pass", "fail", "not tested", "for information"]

MOST_EPSILON = 3.0
MOST_PAIR_RATIO = 1.1
MOST_CURVE_DIFFERENCE = 0.02
MOST_MEAN_SURVIVAL_DIFFERENCE = 0.05
MOST_RANK_ERROR = 0.05
MOST_TARGET_DIFFERENCE = 0.05
NEIGHBOUR_SHARE, NEIGHBOUR_TOLERANCE = 0.5, 0.03


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report. `control` is the same measure on hold-out patients: what chance alone does."""

    block: str
    measure: str
    value: float | None
    control: float | None
    threshold: str
    verdict: Verdict


NOT_TESTED: tuple[tuple[str, str, str], ...] = (
    ("Audit", "canary lower bound of ε", "at most the stated ε"),
    ("Attacks", "membership inference, AUC overall and on the most isolated 5 %", "≤ 0.55 and ≤ 0.60"),
    ("Attacks", "singling out, linkability, inference: excess over control", "≤ 0.09"),
    ("Usefulness", "train on virtual, test on real: AUC over AUC of training on real", "≥ 0.97"),
    ("Usefulness", "Cox coefficients, mean absolute difference", "≤ 0.04"),
    ("Usefulness", "feature × time × event, distance over hold-out's", "≤ 1.25"),
    ("Fairness", "each measure by sex, age band and site: worst over best", "≥ 0.9"),
)


def verdicts(cohort: VirtualCohort, comparison: Comparison | None) -> tuple[Row, ...]:
    """Every row of the report, in order."""
    whole = cohort.provenance.whole
    secure = all(s.noise == "secure" for s in (cohort.provenance.synthesis, cohort.provenance.twin, whole))
    privacy = (
        _row("Privacy", "ε of the whole study, per hospital", whole.epsilon, None, MOST_EPSILON),
        Row(
            block="Privacy",
            measure="noise from the operating system's secure source",
            value=None,
            control=None,
            threshold="yes",
            verdict="pass" if secure else "fail",
        ),
    )
    measured = _untested_likeness() if comparison is None else _likeness(comparison)
    untested = (
        Row(block=block, measure=measure, value=None, control=None, threshold=threshold, verdict="not tested")
        for block, measure, threshold in NOT_TESTED
    )
    return (*privacy, *measured, *untested)


def _likeness(comparison: Comparison) -> tuple[Row, ...]:
    rows = [
        _row(
            "Likeness",
            "pairs of features: mean distance over hold-out's",
            comparison.pairs_virtual / max(comparison.pairs_holdout, 1e-12),
            1.0,
            MOST_PAIR_RATIO,
        ),
        _row(
            "Likeness",
            "rank correlations: mean absolute difference",
            comparison.rank_correlation_error,
            comparison.rank_correlation_error_holdout,
            MOST_RANK_ERROR,
        ),
    ]
    for curve in comparison.curves:
        title = curve.outcome.replace("_", " ")
        rows += [
            _row(
                "Survival",
                f"{title}: largest difference of the curves",
                curve.largest_difference,
                curve.holdout_difference,
                MOST_CURVE_DIFFERENCE,
            ),
            _row(
                "Survival",
                f"{title}: mean free time, relative difference",
                curve.mean_survival_difference,
                None,
                MOST_MEAN_SURVIVAL_DIFFERENCE,
            ),
        ]
    rows += [
        _row(
            "Likeness",
            f"{target.target.replace('_', ' ')}: largest difference of the distributions",
            target.virtual,
            target.holdout,
            MOST_TARGET_DIFFERENCE,
        )
        for target in comparison.targets
    ]
    return (*rows, *_smoke_test(comparison.neighbours))


def _smoke_test(near: Neighbours) -> tuple[Row, ...]:
    """Nearest neighbours: they notice a copy, and prove nothing when they notice none."""
    off = abs(near.share_nearer_to_real - NEIGHBOUR_SHARE)
    return (
        Row(
            block="Smoke test",
            measure="virtual patients nearer to a patient used than to one held out",
            value=near.share_nearer_to_real,
            control=NEIGHBOUR_SHARE,
            threshold=f"{NEIGHBOUR_SHARE} ± {NEIGHBOUR_TOLERANCE}",
            verdict="pass" if off <= NEIGHBOUR_TOLERANCE else "fail",
        ),
        Row(
            block="Smoke test",
            measure="exact copies of a patient used",
            value=near.copies_virtual,
            control=near.copies_holdout,
            threshold="at most hold-out's rate",
            verdict="pass" if near.copies_virtual <= near.copies_holdout else "fail",
        ),
        Row(
            block="Smoke test",
            measure="median distance to the nearest patient used",
            value=near.median_virtual_to_real,
            control=near.median_holdout_to_real,
            threshold="none",
            verdict="for information",
        ),
    )


def _untested_likeness() -> tuple[Row, ...]:
    names = (
        ("Likeness", "distances of marginals to real patients", f"≤ {MOST_PAIR_RATIO} × hold-out's"),
        ("Survival", "survival curves against real patients", f"≤ {MOST_CURVE_DIFFERENCE}"),
        ("Smoke test", "nearest neighbours against hold-out", f"{NEIGHBOUR_SHARE} ± {NEIGHBOUR_TOLERANCE}"),
    )
    return tuple(
        Row(block=b, measure=m, value=None, control=None, threshold=t, verdict="not tested")
        for b, m, t in names
    )


def _row(block: str, measure: str, value: float, control: float | None, most: float) -> Row:
    # Rounded away from luck: an ε that accounting rounded up by 1e-6 still is the ε that was planned.
    verdict: Verdict = "pass" if value <= most + 1e-6 else "fail"
    return Row(
        block=block, measure=measure, value=value, control=control, threshold=f"≤ {most:g}", verdict=verdict
    )
