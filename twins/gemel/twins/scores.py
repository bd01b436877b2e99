"""Exact scores on individual data: AUC, Brier score, calibration, error, with what is not known weighed in.

A case by t had the outcome by t; everyone else who was followed to t, or died first of something else, is a
control (Blanche, Dartigues & Jacqmin-Gadda, Stat Med 2013;32:5381, definition with competing events among the
controls). Who left before t has weight 0; the others stand for them, weighted by the inverse Kaplan-Meier
probability of still being followed. A target has a day of its own: see `Fate`. These numbers are exact, hence no
release: they stay where the patients are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from gemel.core.dataset import CENSORED, OCCURRED, PREVALENT, Dataset
from gemel.core.programme import DAYS_PER_YEAR, Endpoint, Programme, Target, TargetKind
from gemel.twins.prediction import Prediction

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
# Times are whole days over 365.25 in float32: a day of the grid must not fall behind its own end.
_REACHED = 1e-4
_YEARS_TO_10 = tuple(float(year) for year in range(11))


@dataclass(frozen=True)
class Followed:
    """Who is a case, with what weight each patient counts, and who is at risk: (n,) each; the others weigh 0."""

    case: Flags
    weight: Floats
    at_risk: Flags

    def auc(self, risk: NDArray[np.floating]) -> float:
        """P(a case has a higher risk than a control), ties half; NaN without cases or controls."""
        used = self.weight > 0
        case, weight = self.case[used], self.weight[used]
        _, rank = np.unique(np.asarray(risk, dtype=np.float64)[used], return_inverse=True)
        cases = np.bincount(rank, weight * case, minlength=rank.max(initial=0) + 1)
        controls = np.bincount(rank, weight * ~case, minlength=len(cases))
        below = np.cumsum(controls) - controls
        pairs = cases.sum() * controls.sum()
        return float((cases * (below + controls / 2)).sum() / pairs) if pairs > 0 else float("nan")

    def brier(self, risk: NDArray[np.floating]) -> float:
        """Weighted mean squared difference of risk and outcome; NaN when nobody is at risk."""
        squared = (self.case - np.asarray(risk, dtype=np.float64)) ** 2
        return _mean((self.weight * squared).sum(), np.count_nonzero(self.at_risk))

    def observed_over_expected(self, risk: NDArray[np.floating]) -> float:
        """Weighted share of cases over the mean predicted risk, of those at risk."""
        observed = _mean((self.weight * self.case).sum(), np.count_nonzero(self.at_risk))
        expected = np.asarray(risk, dtype=np.float64)[self.at_risk]
        return _mean(observed, float(expected.mean()) if expected.size else 0.0)


class Fate(IntEnum):
    """What is known of a patient on the day of a target that is an event (ORDINAL, BINARY, DEATH)."""

    NOT_AT_RISK = -1  # had it before, or is not among the living that an ordinal target is of
    EVENT = 0
    DIED = 1  # by that day; only where death counts as the event
    NONE = 2
    UNMEASURED = 3  # followed to the day, but the value is missing
    LEFT = 4  # before that day


def at_risk(dataset: Dataset, outcome: int) -> Flags:
    """bool (n,): who did not have the outcome at the start."""
    return np.not_equal(dataset.event[:, outcome], PREVALENT)


def followed(dataset: Dataset, outcome: int, *, years: float) -> Followed:
    """Cases and weights at `years`; those who are not at risk, or left before, weigh 0."""
    time = dataset.time_years[:, outcome].astype(np.float64)
    event, risk = dataset.event[:, outcome], at_risk(dataset, outcome)
    # Death ends another outcome's clock as an event that competes, not as censoring.
    died_first = (event == CENSORED) & (dataset.event[:, 0] == OCCURRED) & (outcome != 0)
    censored = risk & (event == CENSORED) & ~died_first
    known = risk & ((time >= years - _REACHED) | ~censored)
    at = np.minimum(time, years - _REACHED)
    still_followed = left_limit_of_follow_up(time[risk], censored[risk], at=at)
    weight = np.where(known, 1 / np.maximum(still_followed, 1e-12), 0.0)
    return Followed((event == OCCURRED) & (time <= years + _REACHED), weight, risk)


def followed_to(programme: Programme, endpoint: Endpoint, dataset: Dataset) -> list[Followed]:
    """Cases and weights of an endpoint that is a risk: for each horizon of an outcome, or once for a target."""
    if not endpoint.outcome:
        return [_followed_to_day(programme, endpoint, dataset)]
    outcome = programme.outcome_names.index(endpoint.outcome)
    years = [programme.times_years[programme.step_at(day)] for day in endpoint.horizons_days]
    return [followed(dataset, outcome, years=at) for at in years]


def target_of(programme: Programme, endpoint: Endpoint) -> Target:
    """The target of an endpoint; StopIteration for one of an outcome."""
    return next(target for target in programme.targets if target.name == endpoint.target)


def is_risk(programme: Programme, endpoint: Endpoint) -> bool:
    """Whether an endpoint is an event with a risk, not a value."""
    return bool(endpoint.outcome) or target_of(programme, endpoint).kind is not TargetKind.VALUE_AT


def observed(programme: Programme, endpoint: Endpoint, dataset: Dataset) -> tuple[Flags, Floats]:
    """Of a target's endpoint: who is known, and what was seen, (n,) each: 1 or 0 of an event, the value of a VALUE_AT."""
    if not is_risk(programme, endpoint):
        value = measured_target(dataset, endpoint.target)
        return np.isfinite(value), value
    fate = fates(programme, endpoint, dataset)
    event = np.isin(fate, (Fate.EVENT, Fate.DIED))
    return event | (fate == Fate.NONE), event.astype(np.float64)


def measured_target(dataset: Dataset, target: str) -> Floats:
    """A target's column (n,); NaN where it is not known."""
    column: Floats = dataset.targets[:, dataset.target_names.index(target)].astype(np.float64)
    return column


def fates(programme: Programme, endpoint: Endpoint, dataset: Dataset) -> NDArray[np.int64]:
    """The `Fate` (n,) of each patient on the day of an endpoint's target."""
    target = target_of(programme, endpoint)
    ordinal = target.kind is TargetKind.ORDINAL
    value, day = measured_target(dataset, target.name), float(target.at_days or 0)
    known = np.isfinite(value)
    reached = known & (np.nan_to_num(value) >= (endpoint.at_least if ordinal else 1))
    until = np.rint(dataset.time_years[:, 0].astype(np.float64) * DAYS_PER_YEAR)
    died = (dataset.event[:, 0] == OCCURRED) & (until <= day)
    fate = np.where(until >= day, Fate.UNMEASURED, Fate.LEFT)
    fate = np.where(known, np.where(reached, Fate.EVENT, Fate.NONE), fate)
    # Of an event, whoever died or was followed has a value, unless it was there before.
    out = died if ordinal else ~known & (died | (until >= day))
    fate = np.where(out, Fate.NOT_AT_RISK, fate)
    return np.where(died, Fate.DIED, fate) if endpoint.with_death else fate


def _followed_to_day(programme: Programme, endpoint: Endpoint, dataset: Dataset) -> Followed:
    """Weights on the day of a target: who was measured stands for who left before, and for who was not measured."""
    target, fate = target_of(programme, endpoint), fates(programme, endpoint, dataset)
    years = float(target.at_days or 0) / DAYS_PER_YEAR
    risk, left = fate != Fate.NOT_AT_RISK, fate == Fate.LEFT
    time, ordinal = dataset.time_years[:, 0].astype(np.float64), target.kind is TargetKind.ORDINAL
    if ordinal:
        # A value within the tolerance may be the last that is known: as far as this goes, its patient was followed.
        time = np.where(np.isin(fate, (Fate.EVENT, Fate.NONE)), np.maximum(time, years), time)
    before = left_limit_of_follow_up(
        time[risk], left[risk], at=np.array([*np.minimum(time, years - _REACHED), years - _REACHED])
    )
    until_death, through = np.maximum(before[:-1], 1e-12), max(float(before[-1]), 1e-12)
    measured = int(np.count_nonzero(np.isin(fate, (Fate.EVENT, Fate.NONE))))
    share = measured / max(1, measured + int(np.count_nonzero(fate == Fate.UNMEASURED)))
    # An event that is recorded when it comes is known of who leaves later; half of the leaving is before it.
    event = through * share if ordinal else (1 + through) / 2
    weight = np.select(
        [fate == Fate.EVENT, fate == Fate.DIED, fate == Fate.NONE],
        [np.full(len(fate), 1 / max(event, 1e-12)), 1 / until_death, 1 / (until_death * max(share, 1e-12))],
    )
    return Followed(np.isin(fate, (Fate.EVENT, Fate.DIED)), weight, risk)


def auc(dataset: Dataset, outcome: int, risk: NDArray[np.floating], *, years: float) -> float:
    """P(a case by `years` has a higher risk than a control), ties half; NaN without cases or controls."""
    return followed(dataset, outcome, years=years).auc(risk)


def brier(dataset: Dataset, outcome: int, risk: NDArray[np.floating], *, years: float) -> float:
    """Weighted mean squared difference of the predicted risk and the outcome at `years`."""
    return followed(dataset, outcome, years=years).brier(risk)


def observed_over_expected(
    dataset: Dataset, outcome: int, risk: NDArray[np.floating], *, years: float
) -> float:
    """Weighted observed cumulative incidence over the mean predicted risk, of those at risk."""
    return followed(dataset, outcome, years=years).observed_over_expected(risk)


def integrated_brier(
    dataset: Dataset,
    outcome: int,
    cumulative_incidence: Floats,
    *,
    times_years: Sequence[float] = _YEARS_TO_10,
) -> float:
    """Mean Brier score over a grid from 0 on, each time for the step before it, of incidences (n, at least times)."""
    scores = [
        brier(dataset, outcome, cumulative_incidence[:, t], years=years)
        for t, years in enumerate(times_years)
        if t > 0
    ]
    return float(np.average(scores, weights=np.diff(times_years)))


def endpoint_scores(
    programme: Programme, endpoint: Endpoint, prediction: Prediction, dataset: Dataset
) -> dict[str, float]:
    """The exact scores of an endpoint, by the names that released ones have (`gemel.twins.metrics`), and calibration.

    A risk: auc, brier and observed_over_expected at each horizon (`auc_5y`, `brier_182d`), for an outcome its
    integrated_brier. A value: rmse, mean_error (predicted minus measured). NaN where there is nobody to count.
    """
    predicted = prediction.risk(programme, endpoint)
    if not is_risk(programme, endpoint):
        known, value = observed(programme, endpoint, dataset)
        error = (predicted[:, 0] - value)[known]
        return {
            "rmse": float(np.sqrt(_mean(float((error**2).sum()), error.size))),
            "mean_error": _mean(float(error.sum()), error.size),
        }
    scores: dict[str, float] = {}
    groups = followed_to(programme, endpoint, dataset)
    for i, (label, group) in enumerate(zip(horizon_labels(programme, endpoint), groups, strict=True)):
        scores[f"auc_{label}"] = group.auc(predicted[:, i])
        scores[f"brier_{label}"] = group.brier(predicted[:, i])
        scores[f"observed_over_expected_{label}"] = group.observed_over_expected(predicted[:, i])
    if endpoint.outcome:
        outcome = programme.outcome_names.index(endpoint.outcome)
        times = programme.times_years[: programme.step_at(endpoint.horizons_days[-1]) + 1]
        incidence = prediction.cumulative_incidence[:, :, outcome]
        scores["integrated_brier"] = integrated_brier(dataset, outcome, incidence, times_years=times)
    return scores


def horizon_labels(programme: Programme, endpoint: Endpoint) -> tuple[str, ...]:
    """Names of an endpoint's horizons: whole years as such (`5y`), others in days (`182d`)."""
    days = endpoint.horizons_days if endpoint.outcome else (target_of(programme, endpoint).at_days or 0,)
    return tuple(_label(day) for day in days)


def _label(day: int) -> str:
    """The name of a horizon.

    >>> _label(1826), _label(182)
    ('5y', '182d')
    """
    years = round(day / DAYS_PER_YEAR)
    return f"{years}y" if years >= 1 and abs(years * DAYS_PER_YEAR - day) <= 1 else f"{day}d"


def _mean(total: float, count: float | np.integer) -> float:
    return float(total / count) if count > 0 else float("nan")


def left_limit_of_follow_up(time: Floats, censored: Flags, *, at: Floats) -> Floats:
    """Kaplan-Meier probability of not having left before (strictly) each of `at`."""
    times, where = np.unique(time, return_inverse=True)
    leaving = np.bincount(where, censored, minlength=len(times))
    present = len(time) - np.concatenate([[0], np.cumsum(np.bincount(where, minlength=len(times)))[:-1]])
    # At tied times events come first: those who leave then are still there for them.
    others = np.bincount(where, ~censored, minlength=len(times))
    factor = 1 - leaving / np.maximum(present - others, 1)
    curve = np.concatenate([[1.0], np.cumprod(factor)])
    return curve[np.searchsorted(times, at, side="left")]
