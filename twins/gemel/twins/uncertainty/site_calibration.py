"""Conformal intervals and sets of an endpoint at one hospital, from its own held-out patients.

They cost no budget as long as they stay there. What is calibrated hangs on the endpoint: of a measured value an interval; of an event,
or the levels of an ordinal target, a set of what may be; of an outcome, also the time before which it will not come.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gemel.core.dataset import OCCURRED, Dataset
from gemel.core.errors import GemelError
from gemel.core.programme import DAYS_PER_YEAR, Endpoint, Programme, TargetKind
from gemel.twins.evaluation.evaluation import check_dataset, level_probabilities, observed_levels
from gemel.twins.evaluation.observed import days_of, observed_events
from gemel.twins.prediction import Prediction
from gemel.twins.scores import followed, is_risk, observed, target_of
from gemel.twins.uncertainty.conformal import (
    Floats,
    check_level,
    conformal_quantile,
    incidence_at,
    prediction_sets,
    set_scores,
    survival_bound,
    survival_threshold,
    tie_breaks,
    value_interval,
    value_scores,
)

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class _Calibrated:
    """What was calibrated on how many patients: the threshold of everybody, and of each group that had enough for one."""

    programme: Programme
    endpoint: Endpoint
    day: int
    level: float
    patients: int
    threshold: float
    by_group: Mapping[str, float] = field(default_factory=dict)

    def thresholds(self, patients: int, group: NDArray[np.str_] | None) -> Floats:
        """(n,): each patient's; a group without one of its own has everybody's."""
        if group is None:
            return np.full(patients, self.threshold)
        return np.array([self.by_group.get(str(name), self.threshold) for name in group], np.float64)


@dataclass(frozen=True)
class CalibratedValue(_Calibrated):
    """Intervals of a measured value."""

    def interval(
        self, prediction: Prediction, *, group: NDArray[np.str_] | None = None
    ) -> tuple[Floats, Floats]:
        """(low, high), (n,) each, in the target's unit."""
        predicted = prediction.targets[self.endpoint.target]
        return value_interval(predicted[:, 0], predicted[:, 1], self.thresholds(len(predicted), group))

    def covered(
        self, prediction: Prediction, dataset: Dataset, *, group: NDArray[np.str_] | None = None
    ) -> tuple[Flags, Floats]:
        """Whose measurement lay in the interval, and the weight (n,): 0 where there was none."""
        known, measured = observed(self.programme, self.endpoint, dataset)
        low, high = self.interval(prediction, group=group)
        return known & (low <= measured) & (measured <= high), known.astype(np.float64)


@dataclass(frozen=True)
class CalibratedSet(_Calibrated):
    """Sets of what may be on the endpoint's day: levels of an ordinal target (death the highest), or no event and event."""

    def sets(
        self,
        prediction: Prediction,
        values: NDArray[np.floating],
        *,
        group: NDArray[np.str_] | None = None,
        keep_likeliest: bool = True,
    ) -> Flags:
        """bool (n, levels), from the prediction for patients with these raw values."""
        probabilities = _probabilities(prediction, self.programme, self.endpoint, self.day)
        limits = self.thresholds(len(probabilities), group)
        return prediction_sets(probabilities, tie_breaks(values), limits, keep_likeliest=keep_likeliest)

    def covered(
        self,
        prediction: Prediction,
        dataset: Dataset,
        *,
        group: NDArray[np.str_] | None = None,
        keep_likeliest: bool = True,
    ) -> tuple[Flags, Floats]:
        """Whose state on the day was in the set, and the weight (n,) of each."""
        held = self.sets(prediction, dataset.values, group=group, keep_likeliest=keep_likeliest)
        level, weight = _levels(dataset, self.programme, self.endpoint, self.day)
        return held[np.arange(len(level)), level], weight


@dataclass(frozen=True)
class CalibratedTime(_Calibrated):
    """Times before which an outcome will not come."""

    def bound(self, prediction: Prediction, *, group: NDArray[np.str_] | None = None) -> Floats:
        """(n,) years, at most the endpoint's last horizon."""
        incidence, times = _course(prediction, self.programme, self.endpoint, self.day)
        return survival_bound(incidence, times, self.thresholds(len(incidence), group))

    def covered(
        self, prediction: Prediction, dataset: Dataset, *, group: NDArray[np.str_] | None = None
    ) -> tuple[Flags, Floats]:
        """Whose outcome came no earlier, and the weight (n,) of each."""
        outcome = self.programme.outcome_names.index(self.endpoint.outcome)
        known = followed(dataset, outcome, years=self.day / DAYS_PER_YEAR)
        early = dataset.time_years[:, outcome] < self.bound(prediction, group=group)
        return ~(known.case & early), known.weight


def calibrate_value(
    prediction: Prediction,
    dataset: Dataset,
    programme: Programme,
    endpoint: str,
    *,
    level: float,
    group: NDArray[np.str_] | None = None,
) -> CalibratedValue:
    """From predictions for held-out patients and what was measured. Raises GEM630, GEM631, GEM632."""
    check_dataset(programme, dataset)
    scored = _endpoint(programme, endpoint, value=True)
    known, measured = observed(programme, scored, dataset)
    predicted = prediction.targets[scored.target]
    scores = value_scores(measured, predicted[:, 0], predicted[:, 1])
    threshold, by_group = _thresholds(scores, known.astype(np.float64), level, group)
    return CalibratedValue(
        programme, scored, days_of(programme, scored)[0], level, int(known.sum()), threshold, by_group
    )


def calibrate_set(
    prediction: Prediction,
    dataset: Dataset,
    programme: Programme,
    endpoint: str,
    *,
    level: float,
    day: int | None = None,
    group: NDArray[np.str_] | None = None,
) -> CalibratedSet:
    """From predictions for held-out patients and what became of them by a day (the endpoint's last). Raises GEM630, GEM631, GEM632."""
    check_dataset(programme, dataset)
    scored = _endpoint(programme, endpoint, value=False)
    at = days_of(programme, scored)[-1] if day is None else day
    probabilities = _probabilities(prediction, programme, scored, at)
    level_of, weight = _levels(dataset, programme, scored, at)
    scores = set_scores(probabilities, tie_breaks(dataset.values))[np.arange(len(level_of)), level_of]
    threshold, by_group = _thresholds(scores, weight, level, group)
    known = int(np.count_nonzero(weight))
    return CalibratedSet(programme, scored, at, level, known, threshold, by_group)


def calibrate_time(
    prediction: Prediction, dataset: Dataset, programme: Programme, endpoint: str, *, level: float
) -> CalibratedTime:
    """From predictions for held-out patients and when the outcome came, to the endpoint's last horizon. Raises GEM630, GEM631."""
    check_dataset(programme, dataset)
    check_level(level)
    scored = _endpoint(programme, endpoint, value=False)
    if not scored.outcome:
        raise GemelError("GEM631", f"{endpoint} is a target on one day: it has no time.")
    day = scored.horizons_days[-1]
    outcome = programme.outcome_names.index(scored.outcome)
    incidence, times = _course(prediction, programme, scored, day)
    known = followed(dataset, outcome, years=day / DAYS_PER_YEAR)
    time = np.where(dataset.event[:, outcome] == OCCURRED, dataset.time_years[:, outcome], times[-1])
    at_event = incidence_at(incidence, times, time.astype(np.float64))
    threshold = survival_threshold(at_event, known.case, known.weight, level)
    return CalibratedTime(programme, scored, day, level, int(np.count_nonzero(known.weight)), threshold)


def _endpoint(programme: Programme, name: str, *, value: bool) -> Endpoint:
    for endpoint in programme.endpoints:
        if endpoint.name == name and is_risk(programme, endpoint) != value:
            return endpoint
    raise GemelError("GEM631", f"{programme.name} has no endpoint {name} of that kind.")


def _probabilities(prediction: Prediction, programme: Programme, endpoint: Endpoint, day: int) -> Floats:
    """(n, levels) that sum to 1."""
    if _is_ordinal(programme, endpoint):
        return level_probabilities(prediction, programme, endpoint)
    risk = prediction.risk(programme, endpoint)[:, days_of(programme, endpoint).index(day)]
    return np.stack([1 - risk, risk], axis=1)


def _levels(
    dataset: Dataset, programme: Programme, endpoint: Endpoint, day: int
) -> tuple[NDArray[np.int64], Floats]:
    """The level that each patient was in, and the weight: 0 where it is not known."""
    event = observed_events(programme, dataset, endpoint)[days_of(programme, endpoint).index(day)]
    if not _is_ordinal(programme, endpoint):
        return event.case.astype(np.int64), event.weight
    level = observed_levels(dataset, programme, endpoint)
    return np.nan_to_num(level).astype(np.int64), np.where(np.isfinite(level), event.weight, 0.0)


def _course(
    prediction: Prediction, programme: Programme, endpoint: Endpoint, day: int
) -> tuple[Floats, Floats]:
    """An outcome's incidence (n, T) up to a day, and its times (T,)."""
    until = programme.step_at(day) + 1
    outcome = programme.outcome_names.index(endpoint.outcome)
    return prediction.cumulative_incidence[:, :until, outcome], np.array(programme.times_years[:until])


def _is_ordinal(programme: Programme, endpoint: Endpoint) -> bool:
    return not endpoint.outcome and target_of(programme, endpoint).kind is TargetKind.ORDINAL


def _thresholds(
    scores: Floats, weight: Floats, level: float, group: NDArray[np.str_] | None
) -> tuple[float, dict[str, float]]:
    """Everybody's threshold, and those of the groups that have patients enough."""
    # Equal weights are no weights: the exact quantile.
    known = weight > 0
    plain = known.any() and float(np.ptp(weight[known])) < 1e-9

    def of(mine: Flags) -> float:
        return conformal_quantile(scores[mine], level, weight=None if plain else weight[mine])

    everybody = of(known)
    if math.isinf(everybody):
        raise GemelError(
            "GEM632", f"{int(known.sum())} held-out patients with a known outcome are too few for {level:g}."
        )
    names = [] if group is None else sorted(set(group[known].tolist()) - {""})
    found = {name: of(known & (group == name)) for name in names}
    return everybody, {name: threshold for name, threshold in found.items() if math.isfinite(threshold)}
