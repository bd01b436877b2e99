"""What a twin is worth on one hospital's patients: exact, so it stays there.

An endpoint's event is scored at each of its days: discrimination, calibration, Brier score, decision curve, against every baseline of
the programme, by subgroup and by what is missing. A measured value: errors, CRPS. `docs/evaluation.md` says what each number is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.programme import DAYS_PER_YEAR, Endpoint, Programme, TargetKind
from gemel.twins.evaluation.accuracy import (
    ValueScores,
    brier,
    ranked_probability,
    scaled_brier,
    value_scores,
)
from gemel.twins.evaluation.baseline_comparison import BaselineComparison, compare_risk, compare_value
from gemel.twins.evaluation.calibration import Calibration, calibration
from gemel.twins.evaluation.decision_curve import NetBenefit, decision_curve
from gemel.twins.evaluation.discrimination import auc, concordance
from gemel.twins.evaluation.estimate import Estimate
from gemel.twins.evaluation.observed import Floats, Observed, days_of, observed_events
from gemel.twins.evaluation.subgroups import Groups, Subgroup, groups_of, risk_subgroups, value_subgroups
from gemel.twins.scores import Fate, fates, is_risk, measured_target, observed, target_of

if TYPE_CHECKING:
    from gemel.twins.definition import Baseline, TwinDefinition
    from gemel.twins.prediction import Prediction
    from gemel.twins.twin import Twin


@dataclass(frozen=True)
class RiskEvaluation:
    """Of an endpoint's event by a day.

    Attributes:
        patients: At risk of it. known: whose state on the day is known. events: cases among these.
        incidence: The weighted share of cases.
        concordance: C over time, of an outcome; None of a target.
        ordinal: The ranked probability score of an ordinal target, and that of everybody's mean shares; else None.
    """

    endpoint: str
    title: str
    day: int
    patients: int
    known: int
    events: int
    incidence: float
    auc: Estimate
    concordance: Estimate | None
    brier: Estimate
    scaled_brier: Estimate
    calibration: Calibration
    decision_curve: tuple[NetBenefit, ...]
    ordinal: tuple[Estimate, Estimate] | None
    baselines: tuple[BaselineComparison, ...]
    subgroups: tuple[Subgroup, ...]


@dataclass(frozen=True)
class ValueEvaluation:
    """Of a measured value on a day, among the living who have one."""

    endpoint: str
    title: str
    unit: str
    day: int
    scores: ValueScores
    baselines: tuple[BaselineComparison, ...]
    subgroups: tuple[Subgroup, ...]


@dataclass(frozen=True)
class Evaluation:
    """Exact scores of a twin on one data set. They are no release: they stay where the patients are."""

    programme: str
    version: str
    patients: int
    missing: Mapping[str, float]  # the share of patients without each feature
    endpoints: tuple[RiskEvaluation | ValueEvaluation, ...]

    def risk(self, endpoint: str, day: int | None = None) -> RiskEvaluation:
        """The evaluation of an endpoint's event, at its last day unless another is named. Raises KeyError."""
        found = [e for e in self.endpoints if isinstance(e, RiskEvaluation) and e.endpoint == endpoint]
        found = [e for e in found if day is None or e.day == day]
        if not found:
            raise KeyError(endpoint)
        return found[-1]

    def value(self, endpoint: str) -> ValueEvaluation:
        """The evaluation of a measured value. Raises KeyError."""
        for found in self.endpoints:
            if isinstance(found, ValueEvaluation) and found.endpoint == endpoint:
                return found
        raise KeyError(endpoint)

    @property
    def flagged(self) -> tuple[tuple[str, int, Subgroup], ...]:
        """(endpoint, day, group) of each group that the rule of `subgroups` flags."""
        return tuple((e.endpoint, e.day, g) for e in self.endpoints for g in e.subgroups if g.flagged)

    def to_json(self) -> dict[str, Any]:
        """As JSON values; a number that there is none of is null."""
        found: dict[str, Any] = _plain(asdict(self))
        return found


def evaluate(
    twin: Twin, dataset: Dataset, definition: TwinDefinition, *, groups: Groups | None = None
) -> Evaluation:
    """Score a twin on patients that it was not trained on, beside the programme's baselines.

    `groups` are further groupings of the patients by name, (n,) strings each; an empty string is no group. Raises GEM630 when
    the data set is not of the twin's programme or has nobody, GEM602 when the twin does not predict an endpoint of it, GEM634 when
    it predicts what is no number.
    """
    check_dataset(twin.programme, dataset)
    prediction = twin.predict(dataset.values)
    return evaluate_prediction(
        prediction, dataset, twin.programme, baselines=definition.baselines, groups=groups
    )


def evaluate_prediction(
    prediction: Prediction,
    dataset: Dataset,
    programme: Programme,
    *,
    baselines: Sequence[Baseline] = (),
    groups: Groups | None = None,
) -> Evaluation:
    """`evaluate`, of predictions that were made (and recalibrated, say) before."""
    check_dataset(programme, dataset)
    for name, group in (groups or {}).items():
        if len(group) != len(dataset):
            raise GemelError(
                "GEM630", f"The grouping {name} is of {len(group)} patients, not of {len(dataset)}."
            )
    of = groups_of(programme, dataset, groups)
    found: list[RiskEvaluation | ValueEvaluation] = []
    for endpoint in programme.endpoints:
        mine = [baseline for baseline in baselines if baseline.endpoint == endpoint.name]
        if not is_risk(programme, endpoint):
            found.append(_value(prediction, dataset, programme, endpoint, mine, of))
            continue
        risks = prediction.risk(programme, endpoint)
        _check_numbers(endpoint, risks)
        events = observed_events(programme, dataset, endpoint)
        for i, (day, event) in enumerate(zip(days_of(programme, endpoint), events, strict=True)):
            ordinal = _ordinal(prediction, dataset, programme, endpoint, event)
            found.append(
                _risk(
                    dataset, programme, endpoint, day, event, risks[:, i], ordinal, baselines=mine, groups=of
                )
            )
    shares = (~np.isfinite(dataset.values)).mean(axis=0)
    missing = {n: float(s) for n, s in zip(programme.feature_names, shares, strict=True)}
    return Evaluation(programme.name, programme.version, len(dataset), missing, tuple(found))


def check_dataset(programme: Programme, dataset: Dataset) -> None:
    """Raises GEM630 when the data set is not of this programme, or has no patient."""
    given = (dataset.programme, dataset.programme_version, dataset.features, dataset.outcomes)
    expected = (programme.name, programme.version, programme.feature_names, programme.outcome_names)
    lacking = set(programme.target_names) - set(dataset.target_names)
    if given != expected or lacking:
        raise GemelError(
            "GEM630",
            f"Expected a data set of {programme.name} {programme.version} with all its columns, got "
            f"{dataset.programme} {dataset.programme_version}{f' without {sorted(lacking)}' if lacking else ''}.",
        )
    if not len(dataset):
        raise GemelError("GEM630", "There is no patient to evaluate on.")


def _check_numbers(endpoint: Endpoint, predicted: Floats) -> None:
    # Ranked last or left out, such a patient would be scored in silence.
    wrong = ~np.isfinite(predicted).all(axis=1)
    if wrong.any():
        raise GemelError("GEM634", f"{endpoint.name}: of {int(wrong.sum())} patients of {len(predicted)}.")


def _risk(
    dataset: Dataset,
    programme: Programme,
    endpoint: Endpoint,
    day: int,
    event: Observed,
    risk: Floats,
    ordinal: tuple[Estimate, Estimate] | None,
    *,
    baselines: Sequence[Baseline],
    groups: Groups,
) -> RiskEvaluation:
    over_time = None
    if endpoint.outcome:
        outcome = programme.outcome_names.index(endpoint.outcome)
        over_time = concordance(dataset, outcome, risk, years=day / DAYS_PER_YEAR)
    return RiskEvaluation(
        endpoint=endpoint.name,
        title=endpoint.title,
        day=day,
        patients=int(np.count_nonzero(event.at_risk)),
        known=int(np.count_nonzero(event.known)),
        events=int(np.count_nonzero(event.known & event.case)),
        incidence=event.incidence,
        auc=auc(event, risk),
        concordance=over_time,
        brier=brier(event, risk),
        scaled_brier=scaled_brier(event, risk),
        calibration=calibration(event, risk),
        decision_curve=decision_curve(event, risk),
        ordinal=ordinal,
        baselines=tuple(compare_risk(b, programme, dataset, event, risk, day=day) for b in baselines),
        subgroups=risk_subgroups(event, risk, groups),
    )


def _value(
    prediction: Prediction,
    dataset: Dataset,
    programme: Programme,
    endpoint: Endpoint,
    baselines: Sequence[Baseline],
    groups: Groups,
) -> ValueEvaluation:
    target = target_of(programme, endpoint)
    _check_numbers(endpoint, prediction.targets[target.name])
    mean, spread = prediction.targets[target.name].T
    known, measured = observed(programme, endpoint, dataset)
    return ValueEvaluation(
        endpoint=endpoint.name,
        title=endpoint.title,
        unit=target.unit,
        day=int(target.at_days or 0),
        scores=value_scores(measured[known], mean[known], spread[known]),
        baselines=tuple(compare_value(b, programme, dataset, measured, mean) for b in baselines),
        subgroups=value_subgroups(measured, mean, groups),
    )


def _ordinal(
    prediction: Prediction, dataset: Dataset, programme: Programme, endpoint: Endpoint, event: Observed
) -> tuple[Estimate, Estimate] | None:
    """Of the twin, and of everybody's mean shares; where death counts, it is the worst level."""
    if endpoint.outcome or target_of(programme, endpoint).kind is not TargetKind.ORDINAL:
        return None
    predicted = level_probabilities(prediction, programme, endpoint)
    level = observed_levels(dataset, programme, endpoint)
    reached = np.zeros(predicted.shape)
    reached[np.arange(len(level)), np.nan_to_num(level).astype(np.int64)] = 1.0
    shares = (event.weight[:, None] * reached).sum(axis=0) / max(event.weight.sum(), 1e-12)
    everybody = np.broadcast_to(shares, predicted.shape)
    return (
        ranked_probability(level, predicted, event.weight),
        ranked_probability(level, everybody, event.weight),
    )


def level_probabilities(prediction: Prediction, programme: Programme, endpoint: Endpoint) -> Floats:
    """Of an ordinal target: the predicted probabilities (n, levels). Where the endpoint counts death, it is the highest level."""
    target = target_of(programme, endpoint)
    probabilities: Floats = prediction.targets[target.name]
    if not endpoint.with_death:
        return probabilities
    alive = prediction.alive[:, programme.step_at(float(target.at_days or 0))][:, None]
    return np.concatenate([alive * probabilities, 1 - alive], axis=1)


def observed_levels(dataset: Dataset, programme: Programme, endpoint: Endpoint) -> Floats:
    """Of an ordinal target: the level of each patient (n,), counted as in `level_probabilities`; NaN where not known."""
    target = target_of(programme, endpoint)
    level = measured_target(dataset, target.name)
    died = fates(programme, endpoint, dataset) == Fate.DIED
    return np.where(died, len(target.levels) + 1, level)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
