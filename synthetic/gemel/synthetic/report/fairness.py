"""Does a cohort serve all patients alike? Each measure of usefulness for each group of patients, the worst over the best.

Noise is as large in a small group as in a large one, so minorities lose first (Ganev et al., ICML 2022). A group's measure is how
much of the truth is kept: 1 less what a distance or difference has above that of the group's own hold-out patients; of prediction
the ratio of AUCs, at most 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemel.core.programme import FeatureKind
from gemel.synthetic.columns import Column, Numbers
from gemel.synthetic.report.covariates import Covariate
from gemel.synthetic.report.findings import Finding
from gemel.synthetic.report.marginals import mean_two_way, mean_with_time, rank_error
from gemel.synthetic.report.measures import Limit, measured, untested
from gemel.synthetic.report.people_table import PeopleTable
from gemel.synthetic.report.prediction import Predicts, Question, auc, enough, learn_logistic, questions
from gemel.synthetic.report.regression import chosen_covariates, cox_of, difference, enough_events
from gemel.synthetic.report.survival import compare, time_columns
from gemel.synthetic.report.thresholds import FEWEST_IN_GROUP, LEAST_GROUP_RATIO, MOST_PREVALENCE_ERROR

BLOCK = "fairness"
# Names under which tables without a programme have what people are grouped by.
_NAMES = ("sex", "male", "age", "age_years", "race", "ethnicity")
_BANDS = 4
_NOTHING = 1e-9

Sites = tuple[NDArray[Any], NDArray[Any]]
Distance = Callable[[PeopleTable, PeopleTable], float]


@dataclass(frozen=True)
class Grouping:
    """Public groups of people by one column: {group: its levels}."""

    column: Column
    groups: Mapping[str, tuple[int, ...]]

    def of(self, people: PeopleTable, group: str) -> PeopleTable:
        """The people of one group."""
        return people.take(np.isin(people.codes[self.column.name], self.groups[group]))


def groupings(people: PeopleTable) -> tuple[Grouping, ...]:
    """By sex, age in bands, and race or ethnicity, where the domain has them."""
    return tuple(Grouping(c, _groups(c)) for c in people.domain.columns if _groups_people(people, c))


def fairness_rows(
    training: PeopleTable,
    holdout: PeopleTable,
    draws: Sequence[PeopleTable],
    *,
    sites: Sites | None,
    internal: bool,
) -> Iterator[Finding]:
    """For each way of grouping: shares of the groups, and each measure's worst group over its best."""
    learned = _learned(training, holdout, draws)
    found_any = False
    for grouping in groupings(training):
        counted = {g: [len(grouping.of(p, g)) for p in (training, holdout)] for g in grouping.groups}
        large = [g for g, counts in counted.items() if min(counts) >= FEWEST_IN_GROUP]
        found_any |= len(large) > 1
        yield from _shares(grouping, training, draws, counted, internal=internal)
        if len(large) > 1:
            yield from _kept_rows(grouping, large, training, holdout, draws, internal=internal)
            held = {g: np.isin(holdout.codes[grouping.column.name], grouping.groups[g]) for g in large}
            yield from _prediction_rows(grouping.column.title, held, learned, holdout, internal=internal)
    if sites is not None:
        names, counts = np.unique(sites[1], return_counts=True)
        held = {str(n): sites[1] == n for n, c in zip(names, counts, strict=True) if c >= FEWEST_IN_GROUP}
        found_any |= len(held) > 1
        yield from _prediction_rows("site", held, learned, holdout, internal=internal)
    if not found_any:
        detail = f"no two groups of at least {FEWEST_IN_GROUP} training and hold-out patients each"
        yield untested(
            BLOCK, "every measure by group", Limit(LEAST_GROUP_RATIO).words, internal=internal, detail=detail
        )


def _shares(
    grouping: Grouping,
    training: PeopleTable,
    draws: Sequence[PeopleTable],
    counted: Mapping[str, Sequence[int]],
    *,
    internal: bool,
) -> Iterator[Finding]:
    """The largest relative error of a group's share, of the groups that are large enough."""
    large = [group for group, (count, _) in counted.items() if count >= FEWEST_IN_GROUP]
    if not large:
        return
    errors = []
    for draw in draws:
        found = {group: len(grouping.of(draw, group)) / len(draw) for group in large}
        errors.append(max(abs(found[g] / (counted[g][0] / len(training)) - 1) for g in large))
    yield measured(
        BLOCK,
        f"{grouping.column.title}: largest relative error of a group's share",
        errors,
        Limit(most=MOST_PREVALENCE_ERROR),
        internal=internal,
        detail=f"groups: {', '.join(large)}",
    )


def _kept_rows(
    grouping: Grouping,
    groups: Sequence[str],
    training: PeopleTable,
    holdout: PeopleTable,
    draws: Sequence[PeopleTable],
    *,
    internal: bool,
) -> Iterator[Finding]:
    parts = {
        g: (grouping.of(training, g), grouping.of(holdout, g), [grouping.of(draw, g) for draw in draws])
        for g in groups
    }
    for measure, distance in _distances(draws[0]).items():
        kept = {g: _kept(distance, *parts[g]) for g in groups}
        kept = {g: values for g, values in kept.items() if values}
        yield _worst_over_best(f"{measure} by {grouping.column.title}", kept, internal=internal)


def _kept(
    distance: Distance, training: PeopleTable, holdout: PeopleTable, draws: Sequence[PeopleTable]
) -> list[float]:
    """1 less what each draw's distance has above the hold-out's, equally many people on both sides; at least 0.

    Empty where real patients do not tell. What virtual people do not tell where real ones do has not been kept.
    """
    size = min(len(holdout), *map(len, draws))
    if size == 0:
        return [0.0 for _ in draws]
    floor = distance(training, holdout.first(size))
    if not math.isfinite(floor):
        return []
    found = [distance(training, draw.first(size)) for draw in draws]
    return [max(0.0, min(1.0, 1 + floor - apart)) if math.isfinite(apart) else 0.0 for apart in found]


def _prediction_rows(
    words: str,
    held: Mapping[str, NDArray[np.bool_]],
    learned: Mapping[Question, tuple[Predicts, Sequence[Predicts]]],
    holdout: PeopleTable,
    *,
    internal: bool,
) -> Iterator[Finding]:
    """Trained on everybody, tested on the hold-out patients of each group."""
    for question, (of_real, of_draws) in learned.items():
        tested = {group: holdout.take(rows) for group, rows in held.items()}
        tested = {group: people for group, people in tested.items() if enough(question, people)}
        if len(tested) < 2:
            continue
        kept = {}
        for group, people in tested.items():
            best = auc(question, people, of_real(people))
            kept[group] = [min(1.0, auc(question, people, learn(people)) / best) for learn in of_draws]
        yield _worst_over_best(f"{question.title}: AUC by {words}", kept, internal=internal)


def _worst_over_best(measure: str, kept: Mapping[str, Sequence[float]], *, internal: bool) -> Finding:
    if len(kept) < 2:
        detail = "no two groups with enough people who had it"
        words = Limit(LEAST_GROUP_RATIO).words
        return untested(BLOCK, f"{measure}: worst group over best", words, internal=internal, detail=detail)
    ratios = [min(each) / max(*each, _NOTHING) for each in zip(*kept.values(), strict=True)]
    middle = {group: float(np.median(values)) for group, values in kept.items()}
    return measured(
        BLOCK,
        f"{measure}: worst group over best",
        ratios,
        Limit(LEAST_GROUP_RATIO),
        baseline=1.0,
        internal=internal,
        detail=", ".join(f"{group} {value:.3f}" for group, value in middle.items()),
    )


def _distances(virtual: PeopleTable) -> Mapping[str, Distance]:
    """What is measured in each group, as distances: 0 is the truth."""
    found: dict[str, Distance] = {
        "two columns": mean_two_way,
        "a column with time and event": mean_with_time,
        "Spearman's correlations": rank_error,
    }
    for column in time_columns(virtual):
        found[f"{column.title}: curves"] = partial(_apart, 0, column)
        found[f"{column.title}: mean times"] = partial(_apart, 1, column)
        if chosen := chosen_covariates(column, virtual):
            found[f"{column.title}: Cox coefficients"] = partial(_coefficients, column, chosen)
    return found


def _apart(which: int, column: Column, one: PeopleTable, other: PeopleTable) -> float:
    return compare(column, one, other)[which]


def _coefficients(column: Column, chosen: Sequence[Covariate], one: PeopleTable, other: PeopleTable) -> float:
    """NaN where patients have too few events for so many covariates."""
    if not enough_events(column, one, chosen):
        return math.nan
    return difference(cox_of(column, one, chosen), cox_of(column, other, chosen))


def _learned(
    training: PeopleTable, holdout: PeopleTable, draws: Sequence[PeopleTable]
) -> dict[Question, tuple[Predicts, Sequence[Predicts]]]:
    return {
        question: (learn_logistic(question, training), [learn_logistic(question, draw) for draw in draws])
        for question in questions(training)
        if all(enough(question, people) for people in (training, holdout, *draws))
    }


def _groups_people(people: PeopleTable, column: Column) -> bool:
    programme = people.domain.programme
    if programme is not None:
        kinds = {feature.name: feature.kind for feature in programme.columns}
        return kinds.get(column.name) in (FeatureKind.MALE, FeatureKind.AGE)
    return column.name in _NAMES


def _groups(column: Column) -> dict[str, tuple[int, ...]]:
    """Each level of a category; of a number some bands of its bins."""
    form = column.form
    if isinstance(form, Numbers):
        bins = len(form.edges) - 1
        parts = [part for part in np.array_split(np.arange(bins), _BANDS) if len(part)]
        return {
            f"{form.edges[part[0]]:g} to {form.edges[part[-1] + 1]:g}": tuple(map(int, part))
            for part in parts
        }
    words = {"0.0": "women", "1.0": "men"} if column.name == "male" else {"0.0": "no", "1.0": "yes"}
    return {words.get(level, level): (number,) for number, level in enumerate(column.levels)}
