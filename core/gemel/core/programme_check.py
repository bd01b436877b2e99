"""Whether the parts of a programme fit together: names, concepts, units, windows, bins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from math import isfinite

from gemel.core.concepts import Concept
from gemel.core.programme import (
    Assignment,
    CohortDefinition,
    Criterion,
    Endpoint,
    Feature,
    FeatureKind,
    IndexKind,
    Missing,
    Outcome,
    OutcomeKind,
    Programme,
    Target,
    TargetKind,
    Threshold,
    Treatment,
    TreatmentKind,
)

# Reasons that cohorts count under names of their own.
COHORT_REASONS = (
    "no birth date",
    "no finished encounter",
    "no index event",
    "too young at every encounter",
    "too young at every index event",
    "too old at the index date",
    "look-back too short",
    "death without a date",
    "death before the index date",
    "follow-up too short",
)
_OF_THE_PERSON = (FeatureKind.AGE, FeatureKind.MALE)
_COUNTED = (FeatureKind.COUNT, FeatureKind.PRESENT)
_IN_THE_UNIT = (
    FeatureKind.LAST,
    FeatureKind.FIRST,
    FeatureKind.MEAN,
    FeatureKind.MIN,
    FeatureKind.MAX,
    FeatureKind.SERIES,
)
_SUMMED = (FeatureKind.MEAN, FeatureKind.SLOPE)


def check_programme(programme: Programme) -> tuple[str, ...]:
    """What is wrong with a programme, a sentence for each problem; empty when nothing is."""
    concepts = {concept.name: concept for concept in programme.concepts}
    problems = [
        *_repeated("concept", (concept.name for concept in programme.concepts)),
        *_repeated(
            "feature or target", (*(f.name for f in programme.features), *(t.name for t in programme.targets))
        ),
        *_repeated("outcome", (outcome.name for outcome in programme.outcomes)),
        *_cohort(programme.cohort, concepts),
    ]
    for feature in programme.features:
        problems += (f"feature {feature.name}: {problem}" for problem in _feature(feature, concepts))
    for i, outcome in enumerate(programme.outcomes):
        problems += (f"outcome {outcome.name}: {problem}" for problem in _outcome(outcome, concepts))
        if (outcome.kind is OutcomeKind.DEATH) != (i == 0):
            problems.append(f"outcome {outcome.name}: death is the first outcome and no other")
    for target in programme.targets:
        problems += (f"target {target.name}: {problem}" for problem in _target(target, concepts))
    problems += _grid(programme)
    for endpoint in programme.endpoints:
        problems += (f"endpoint {endpoint.name}: {problem}" for problem in _endpoint(endpoint, programme))
    problems += _repeated("endpoint", (endpoint.name for endpoint in programme.endpoints))
    for treatment in programme.treatments:
        problems += (f"treatment {treatment.name}: {problem}" for problem in _treatment(treatment, programme))
    problems += _repeated("treatment", (treatment.name for treatment in programme.treatments))
    problems += (f"visits: {problem}" for problem in _visits(programme))
    return tuple(problems)


def _grid(programme: Programme) -> Iterator[str]:
    if programme.grid_days:
        if programme.horizon_years:
            yield "horizon_years and grid_days are both given"
        if programme.grid_days[0] < 1 or not _increasing(programme.grid_days):
            yield "grid_days do not increase from the day after the index date on"
    elif programme.horizon_years <= 0:
        yield "horizon_years must be positive"


def _endpoint(endpoint: Endpoint, programme: Programme) -> Iterator[str]:
    edges = endpoint.risk_edges
    if len(edges) < 3 or not _increasing(edges) or (edges[0], edges[-1]) != (0.0, 1.0):
        yield "risk_edges do not increase from 0 to 1"
    targets = {target.name: target for target in programme.targets}
    if bool(endpoint.outcome) == bool(endpoint.target):
        yield "it is either of an outcome or of a target"
    elif endpoint.outcome:
        if endpoint.outcome not in programme.outcome_names:
            yield f"there is no outcome {endpoint.outcome}"
        yield from _horizons(endpoint, programme)
        if endpoint.value_edges or endpoint.with_death:
            yield "value_edges and with_death are for targets"
    elif endpoint.target not in targets:
        yield f"there is no target {endpoint.target}"
    else:
        yield from _scored_target(endpoint, targets[endpoint.target])


def _horizons(endpoint: Endpoint, programme: Programme) -> Iterator[str]:
    if not 1 <= len(endpoint.horizons_days) <= 2 or not _increasing(endpoint.horizons_days):
        yield "an outcome has one or two horizons_days, increasing"
    for day in endpoint.horizons_days:
        try:
            programme.step_at(day)
        except ValueError as error:
            yield str(error)


def _scored_target(endpoint: Endpoint, target: Target) -> Iterator[str]:
    if endpoint.horizons_days:
        yield "a target has a day of its own"
    if target.kind is TargetKind.SERIES:
        yield "a series is not scored"
    if (target.kind is TargetKind.VALUE_AT) != bool(endpoint.value_edges):
        yield "value_edges are those of a value_at target"
    if endpoint.value_edges and not (len(endpoint.value_edges) >= 3 and _increasing(endpoint.value_edges)):
        yield "value_edges do not increase"
    if target.kind is TargetKind.ORDINAL and not 1 <= endpoint.at_least <= len(target.levels):
        yield f"at_least is 1 to {len(target.levels)}"
    if endpoint.with_death and target.kind not in (TargetKind.ORDINAL, TargetKind.BINARY):
        yield "with_death is for an ordinal or binary target"


def _treatment(treatment: Treatment, programme: Programme) -> Iterator[str]:
    names = {feature.name: feature for feature in programme.columns}
    if not treatment.low < treatment.high:
        yield "low < high does not hold"
    if treatment.kind is TreatmentKind.BINARY and (treatment.low, treatment.high) != (0.0, 1.0):
        yield "a binary treatment is 0 or 1"
    if treatment.feature and treatment.feature not in names:
        yield f"there is no feature {treatment.feature}"
    if (treatment.assignment is Assignment.RANDOMISED) != (treatment.chance is not None):
        yield "chance is that of a randomised treatment"
    if treatment.chance is not None and not 0 < treatment.chance < 1:
        yield "chance lies between 0 and 1"
    if not treatment.feature and not treatment.source:
        yield "a treatment that no data record needs the source of its effect"
    for name in treatment.contraindications:
        if name not in names or names[name].kind is not FeatureKind.PRESENT:
            yield f"{name} is no recorded feature"


def _cohort(cohort: CohortDefinition, concepts: dict[str, Concept]) -> Iterator[str]:
    if not 0 <= cohort.minimum_age_years <= cohort.maximum_age_years:
        yield "cohort: the age bounds are not ordered"
    if cohort.minimum_look_back_days < 0 or cohort.minimum_follow_up_days < 0:
        yield "cohort: look-back and follow-up are at least 0 days"
    index = cohort.index
    if index.kind is IndexKind.VISIT:
        if index.concepts or index.threshold is not None:
            yield "index: a visit has no concepts and no threshold"
    else:
        measured = index.kind is IndexKind.MEASUREMENT
        yield from (f"index: {p}" for p in _named(index.concepts, concepts))
        if index.kind is not IndexKind.TREATMENT:
            yield from (f"index: {p}" for p in _measured(index.concepts, concepts, measured))
        if index.threshold is not None and not measured:
            yield "index: only a measurement has a threshold"
        yield from (f"index: {p}" for p in _limit(index.threshold))
    criteria = (*cohort.required, *cohort.exclusions)
    yield from _repeated("criterion", (*COHORT_REASONS, *(criterion.name for criterion in criteria)))
    for criterion in criteria:
        yield from (f"criterion {criterion.name}: {p}" for p in _criterion(criterion, concepts))


def _criterion(criterion: Criterion, concepts: dict[str, Concept]) -> Iterator[str]:
    yield from _named(criterion.concepts, concepts)
    yield from _window(criterion.from_days, criterion.to_days)
    if criterion.minimum_count < 1:
        yield "minimum_count is at least 1"
    if criterion.threshold is not None:
        yield from _measured(criterion.concepts, concepts, True)
        yield from _limit(criterion.threshold)


def _feature(feature: Feature, concepts: dict[str, Concept]) -> Iterator[str]:
    if not (feature.low < feature.high and feature.scale > 0):
        yield "low < high and scale > 0 do not hold"
    edges = feature.bin_edges
    if edges and (not _increasing(edges) or (edges[0], edges[-1]) != (feature.low, feature.high)):
        yield "bin_edges do not increase from low to high"
    if feature.kind in _OF_THE_PERSON:
        if feature.concepts:
            yield f"{feature.kind} takes no concepts"
    else:
        yield from _named(feature.concepts, concepts)
    if feature.window_days is not None and feature.from_days is not None:
        yield "window_days and from_days are both given"
    yield from _window(feature.start_days, feature.to_days)
    if feature.to_days > 0:
        yield "the window ends after the index date: what comes then is not known yet"
    if feature.kind in _IN_THE_UNIT or feature.kind is FeatureKind.SLOPE:
        unit = feature.unit if feature.kind in _IN_THE_UNIT else None
        yield from _measured(feature.concepts, concepts, True, unit=unit)
    if feature.kind in _SUMMED:
        for name in feature.concepts:
            concept = concepts.get(name)
            if concept is not None and (concept.low is None or concept.high is None):
                yield f"{feature.kind} needs the bounds of {name}"
    if feature.missing is Missing.ZERO and feature.kind not in _COUNTED:
        yield f"a missing {feature.kind} is not 0"


def _outcome(outcome: Outcome, concepts: dict[str, Concept]) -> Iterator[str]:
    if outcome.kind is OutcomeKind.DEATH:
        if outcome.concepts or outcome.threshold is not None:
            yield "death takes no concepts and no threshold"
        return
    measured = outcome.kind is OutcomeKind.FIRST_MEASUREMENT
    yield from _named(outcome.concepts, concepts)
    if outcome.kind is not OutcomeKind.FIRST_TREATMENT:
        yield from _measured(outcome.concepts, concepts, measured)
    if outcome.threshold is not None and not measured:
        yield "only a measurement has a threshold"
    yield from _limit(outcome.threshold)


def _target(target: Target, concepts: dict[str, Concept]) -> Iterator[str]:
    kind = target.kind
    if kind is TargetKind.DEATH:
        if target.concepts:
            yield "death takes no concepts"
    else:
        yield from _named(target.concepts, concepts)
    if kind is TargetKind.SERIES:
        yield from _window(target.from_days, target.to_days)
        if target.from_days < 1:
            yield "the window starts before the day after the index date"
    elif target.at_days is None or target.at_days < 1:
        yield "at_days is at least 1"
    elif not 0 <= target.tolerance_days < target.at_days:
        yield "tolerance_days reaches back to the index date"
    if kind in (TargetKind.VALUE_AT, TargetKind.SERIES):
        yield from _measured(target.concepts, concepts, True, unit=target.unit)
    if kind is TargetKind.ORDINAL:
        yield from _measured(target.concepts, concepts, True)
    if (kind is TargetKind.ORDINAL) != bool(target.levels) or not _increasing(target.levels):
        yield "levels are those of an ordinal target, strictly increasing"
    if target.threshold is not None:
        if kind is not TargetKind.BINARY:
            yield "only a binary target has a threshold"
        yield from _measured(target.concepts, concepts, True)
        yield from _limit(target.threshold)


def _visits(programme: Programme) -> Iterator[str]:
    plan = programme.visits
    if plan is None:
        return
    series = {target.name for target in programme.targets if target.kind is TargetKind.SERIES}
    if not plan.fields or plan.visits < 2 or plan.days_between < 1:
        yield "they need a field, two of them or more, and days between them"
    yield from _repeated("field", (field.series for field in plan.fields))
    for field in plan.fields:
        if field.series not in series:
            yield f"{field.series} is no series target"
        if len(field.edges) < 3 or not _increasing(field.edges):
            yield f"the edges of {field.series} do not make two bins or more"
    for stratum in plan.strata:
        if stratum.feature not in programme.feature_names:
            yield f"there is no column {stratum.feature}"
        if not stratum.cuts or not _increasing(stratum.cuts):
            yield f"the cuts of {stratum.feature} do not increase"


def _named(names: Sequence[str], concepts: dict[str, Concept]) -> Iterator[str]:
    if not names:
        yield "no concepts are named"
    for name in names:
        if name not in concepts:
            yield f"there is no concept {name}"


def _measured(
    names: Iterable[str], concepts: dict[str, Concept], measured: bool, *, unit: str | None = None
) -> Iterator[str]:
    """Concepts that are (or are not) measured; with `unit`, in that unit."""
    for name in names:
        concept = concepts.get(name)
        if concept is None:
            continue
        if (concept.unit is not None) != measured:
            yield f"{name} is {'not ' if measured else ''}measured"
        elif unit is not None and concept.unit != unit:
            yield f"{name} is in {concept.unit}, not in {unit}"


def _limit(threshold: Threshold | None) -> Iterator[str]:
    if threshold is not None and not isfinite(threshold.value):
        yield "the threshold is not a finite number"


def _window(start: int | None, end: int | None) -> Iterator[str]:
    if start is not None and end is not None and start > end:
        yield f"the window from {start} to {end} days is not ordered"


def _increasing(numbers: Sequence[float]) -> bool:
    pairs = pairwise(numbers)
    return all(map(isfinite, numbers)) and all(low < high for low, high in pairs)


def _repeated(kind: str, names: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield f"the {kind} {name!r} is declared twice"
        seen.add(name)
