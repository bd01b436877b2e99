"""The effect of a treatment on an outcome by a day, weighted by the inverse chance of the treatment given: real and virtual.

Whether it is the effect that a trial would find is another question: here the same analysis has to give the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from gemel.synthetic.columns import Categories, Column, Role
from gemel.synthetic.report.covariates import covariates, matrix, predictors
from gemel.synthetic.report.findings import Finding, Verdict
from gemel.synthetic.report.logistic import logistic
from gemel.synthetic.report.measures import measured, untested
from gemel.synthetic.report.people_table import PeopleTable
from gemel.synthetic.report.prediction import FEWEST, Question, enough, questions
from gemel.twins.evaluation.estimate import Estimate

BLOCK = "treatment effect"
THRESHOLD = "within the real 95 % interval, of the same sign where that excludes 0"
# Nobody stands for more than fifty others.
_LEAST_CHANCE = 0.02


def effect_rows(
    training: PeopleTable, holdout: PeopleTable, draws: Sequence[PeopleTable], *, internal: bool
) -> Iterator[Finding]:
    """A row for each treatment and question."""
    treatments = [c for c in training.domain.with_roles(Role.TREATMENT) if _is_yes_or_no(c)]
    for column in treatments:
        for question in questions(training):
            measure = f"{column.title} on {question.title}: difference of risks"
            if not all(_both_arms(column, question, people) for people in (training, *draws)):
                detail = f"fewer than {FEWEST} in an arm, or with the answer"
                yield untested(BLOCK, measure, THRESHOLD, internal=internal, detail=detail)
                continue
            real = effect(column, question, training)
            found = [effect(column, question, draw).value for draw in draws]
            held = (
                effect(column, question, holdout).value if _both_arms(column, question, holdout) else math.nan
            )
            row = measured(
                BLOCK,
                measure,
                found,
                internal=internal,
                baseline=held,
                detail=f"real {real.value:.3f} ({real.low:.3f} to {real.high:.3f})",
            )
            yield _judged(row, real)


def effect(column: Column, question: Question, people: PeopleTable) -> Estimate:
    """Weighted risk with the treatment less that without it, by Hájek's estimator.

    The weights count as known, which makes the interval too wide rather than too narrow (Lunceford & Davidian, Stat Med 2004).
    """
    known, yes = question.answers(people)
    mine = people.take(known & (people.codes[column.name] < 2))
    known, yes = question.answers(mine)
    treated = mine.codes[column.name] == 1
    others = [name for name in predictors(mine) if name != column.name]
    columns = matrix(mine, covariates(mine, others))
    chance = np.clip(logistic(columns, treated).chance(columns), _LEAST_CHANCE, 1 - _LEAST_CHANCE)
    risks, variance = [], 0.0
    for arm, weight in ((treated, 1 / chance), (~treated, 1 / (1 - chance))):
        weight = np.where(arm, weight, 0.0)
        risk = float((weight * yes).sum() / weight.sum())
        variance += float(np.square(weight * (yes - risk)).sum() / weight.sum() ** 2)
        risks.append(risk)
    return Estimate.plain(risks[0] - risks[1], math.sqrt(variance))


def _judged(row: Finding, real: Estimate) -> Finding:
    """The row with its verdict: the median effect lies in the real interval, and does not turn a clear one round."""
    if row.value is None or not math.isfinite(real.low):
        return untested(BLOCK, row.measure, THRESHOLD, internal=row.internal, detail=row.detail)
    turned = real.excludes(0.0) and row.value * real.value <= 0
    verdict = Verdict.PASS if real.low <= row.value <= real.high and not turned else Verdict.FAIL
    return Finding(
        BLOCK,
        row.measure,
        row.value,
        row.low,
        row.high,
        row.baseline,
        THRESHOLD,
        verdict,
        internal=row.internal,
        detail=row.detail,
    )


def _is_yes_or_no(column: Column) -> bool:
    return isinstance(column.form, Categories) and len(column.form.values) == 2


def _both_arms(column: Column, question: Question, people: PeopleTable) -> bool:
    known, _ = question.answers(people)
    arms = np.bincount(people.codes[column.name][known], minlength=2)[:2]
    return bool(arms.min() >= FEWEST) and enough(question, people)
