"""Trained on virtual people, tested on hold-out patients, beside the same trained on real ones.

A logistic regression, and boosted trees of two levels, which see what goes together only two by two: a cohort whose features
go together as they should along a tree alone may serve the first and fail the second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemel.core.dataset import OCCURRED, PREVALENT
from gemel.synthetic.columns import Categories, Column, Role, Times
from gemel.synthetic.report.boosting import boost
from gemel.synthetic.report.covariates import covariates, matrix, predictors
from gemel.synthetic.report.findings import Finding
from gemel.synthetic.report.logistic import logistic
from gemel.synthetic.report.measures import Limit, measured, untested
from gemel.synthetic.report.people_table import Floats, PeopleTable
from gemel.synthetic.report.thresholds import LEAST_PREDICTION_RATIO, LEAST_SLOPE, MOST_SLOPE
from gemel.twins.evaluation.calibration import intercept_and_slope
from gemel.twins.evaluation.discrimination import auc_and_influence
from gemel.twins.evaluation.observed import Observed

BLOCK = "prediction"
FEWEST = 20

Predicts = Callable[[PeopleTable], Floats]


@dataclass(frozen=True)
class Question:
    """Something with a yes or a no that is predicted.

    Attributes:
        column: Whose answer it is.
        title: In words.
        level: That means yes, of a column with two values; None for an event by `day`.
        day: Of a time column; who left before, and who had it before, is not counted.
    """

    column: str
    title: str
    level: int | None = None
    day: float = 0.0

    def answers(self, people: PeopleTable) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(known, yes), both (n,)."""
        if self.level is not None:
            codes = people.codes[self.column]
            return codes < 2, codes == self.level
        days, event = people.times(self.column)
        yes = (event == OCCURRED) & (days <= self.day)
        return (event != PREVALENT) & (yes | (days >= self.day)), yes


def questions(people: PeopleTable) -> tuple[Question, ...]:
    """Every target with two values, and every outcome by the middle one of its public edges of time."""
    found = []
    for column in people.domain.with_roles(Role.TARGET, Role.OUTCOME):
        if isinstance(column.form, Categories) and len(column.form.values) == 2:
            found.append(Question(column.name, column.title, level=_yes(column)))
        elif isinstance(column.form, Times):
            day = column.form.event_days[len(column.form.event_days) // 2]
            found.append(Question(column.name, f"{column.title} by day {day:g}", day=day))
    return tuple(found)


def prediction_rows(
    training: PeopleTable, holdout: PeopleTable, draws: Sequence[PeopleTable], *, internal: bool
) -> Iterator[Finding]:
    """For each question the ratio of AUCs by both learners, and the calibration slope of the regression."""
    for question in questions(training):
        if not all(enough(question, people) for people in (training, holdout, *draws)):
            measure, detail = (
                f"{question.title}: AUC over that of training on real",
                "too few with or without",
            )
            threshold = Limit(least=LEAST_PREDICTION_RATIO).words
            yield untested(BLOCK, measure, threshold, internal=internal, detail=detail)
            continue
        for words, learn in (("logistic regression", learn_logistic), ("boosted trees", learn_trees)):
            real, *virtual = [learn(question, people)(holdout) for people in (training, *draws)]
            best = auc(question, holdout, real)
            found = [auc(question, holdout, risk) for risk in virtual]
            yield measured(
                BLOCK,
                f"{question.title}: AUC over that of training on real ({words})",
                [one / best for one in found],
                Limit(least=LEAST_PREDICTION_RATIO),
                baseline=1.0,
                internal=internal,
                detail=f"{float(np.median(found)):.3f} and {best:.3f} on hold-out patients",
            )
            if learn is learn_logistic:
                yield _slope_row(question, holdout, real, virtual, internal=internal)


def _slope_row(
    question: Question, holdout: PeopleTable, real: Floats, virtual: Sequence[Floats], *, internal: bool
) -> Finding:
    """The calibration slope of the risks, beside that of training on real patients."""
    return measured(
        BLOCK,
        f"{question.title}: calibration slope on hold-out patients",
        [slope(question, holdout, risk) for risk in virtual],
        Limit(LEAST_SLOPE, MOST_SLOPE),
        baseline=slope(question, holdout, real),
        against_chance=True,
        internal=internal,
    )


def enough(question: Question, people: PeopleTable) -> bool:
    """Whether there are enough of both answers for an AUC to say something."""
    known, yes = question.answers(people)
    return bool(min(np.count_nonzero(known & yes), np.count_nonzero(known & ~yes)) >= FEWEST)


def learn_logistic(question: Question, people: PeopleTable) -> Predicts:
    """A logistic regression on every feature and treatment; gives risks (n,)."""
    known, yes = question.answers(people)
    mine = people.take(known)
    chosen = covariates(mine, predictors(people))
    fit = logistic(matrix(mine, chosen), yes[known])
    return lambda others: fit.chance(matrix(others, chosen))


def learn_trees(question: Question, people: PeopleTable) -> Predicts:
    """Boosted trees on the public levels of every feature and treatment; gives log odds (n,)."""
    known, yes = question.answers(people)
    names = predictors(people)
    trees = boost(_levels(people, names)[known], yes[known])
    return lambda others: trees.log_odds(_levels(others, names))


def auc(question: Question, people: PeopleTable, score: Floats) -> float:
    """P(who has it scores above who has not), among those of whom it is known."""
    return auc_and_influence(_observed(question, people), score)[0]


def slope(question: Question, people: PeopleTable, risk: Floats) -> float:
    """The calibration slope; NaN where there is none."""
    return intercept_and_slope(_observed(question, people), np.clip(risk, 1e-6, 1 - 1e-6))[1].value


def _observed(question: Question, people: PeopleTable) -> Observed:
    known, yes = question.answers(people)
    return Observed(yes, known.astype(np.float64), known)


def _levels(people: PeopleTable, names: Sequence[str]) -> NDArray[np.intp]:
    return np.column_stack([people.codes[name] for name in names])


def _yes(column: Column) -> int:
    """Of two values the one that means yes: the greater of numbers, also where they are written as text."""
    values = [str(value) for value in column.form.values] if isinstance(column.form, Categories) else []
    return max(range(len(values)), key=lambda number: _size(values[number]))


def _size(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -math.inf
