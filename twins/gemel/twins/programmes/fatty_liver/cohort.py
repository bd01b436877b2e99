"""The open people as a data set, straight from the tables: for claims. A hospital's way is FHIR and the data adapters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import date

import numpy as np

from gemel.core.canonical import document_hash
from gemel.core.dataset import CENSORED, OCCURRED, PREVALENT, Dataset
from gemel.core.programme import DAYS_PER_YEAR, Feature, FeatureKind, Outcome
from gemel.twins.definition import OpenPerson
from gemel.twins.programmes.fatty_liver import PROGRAMME

# By concept: (days from the index date, value).
_History = dict[str, list[tuple[int, float]]]


def pseudonym(person: OpenPerson) -> str:
    """Under which name a person is in the data set."""
    return document_hash(["olmsted", person.identity])


def dataset_of(people: Iterable[OpenPerson]) -> Dataset:
    """A data set of the programme, sorted by pseudonym: from the first visit on, to death or the last visit."""
    rows = sorted(((pseudonym(person), person) for person in people), key=lambda row: row[0])
    read = [_read(person) for _, person in rows]
    return Dataset(
        PROGRAMME.name,
        PROGRAMME.version,
        PROGRAMME.feature_names,
        PROGRAMME.outcome_names,
        tuple(name for name, _ in rows),
        np.array([values for values, _ in read], np.float32),
        np.array([[days / DAYS_PER_YEAR for days, _ in outcomes] for _, outcomes in read], np.float32),
        np.array([[event for _, event in outcomes] for _, outcomes in read], np.int8),
    )


def _read(person: OpenPerson) -> tuple[list[float], list[tuple[int, int]]]:
    index, end = person.visits[0][0], person.died or person.visits[-1][1]
    history: _History = defaultdict(list)
    for recorded in person.recorded:
        value = float("nan") if recorded.value is None else recorded.value
        history[recorded.concept].append(((recorded.day - index).days, value))
    follow_up = max((end - index).days, 1)
    died = OCCURRED if person.died else CENSORED
    values = [_value(feature, person, history, index) for feature in PROGRAMME.columns]
    return values, [(follow_up, died), *(_outcome(o, history, follow_up) for o in PROGRAMME.outcomes[1:])]


def _value(feature: Feature, person: OpenPerson, history: _History, index: date) -> float:
    if feature.kind is FeatureKind.AGE:
        return (index - person.birth).days / DAYS_PER_YEAR
    if feature.kind is FeatureKind.MALE:
        return float(person.male)
    if feature.kind is FeatureKind.PRESENT:
        return float(any(day <= 0 for name in feature.concepts for day, _ in history[name]))
    concept = PROGRAMME.concept(feature.concepts[0])
    low, high, window = concept.low or 0.0, concept.high or np.inf, feature.window_days or 0
    usable = [(d, v) for d, v in history[concept.name] if -window <= d <= 0 and low <= v <= high]
    return max(usable)[1] if usable else float("nan")


def _outcome(outcome: Outcome, history: _History, follow_up: int) -> tuple[int, int]:
    first = min((day for name in outcome.concepts for day, _ in history[name]), default=follow_up + 1)
    if first <= 0:
        return 0, PREVALENT
    return (first, OCCURRED) if first <= follow_up else (follow_up, CENSORED)
