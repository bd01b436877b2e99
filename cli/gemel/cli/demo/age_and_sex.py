"""The least that a twin must beat: age and sex alone. Cox models of outcomes, logistic and linear ones of targets."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from lifelines import CoxPHFitter
from numpy.typing import NDArray

from gemel.core.dataset import CENSORED, OCCURRED, PREVALENT, Dataset
from gemel.core.programme import Endpoint, FeatureKind, Programme, TargetKind
from gemel.twins.prediction import Prediction
from gemel.twins.scores import is_risk, observed, target_of

Floats = NDArray[np.float64]
_STEPS = 25
_RIDGE = 1e-6  # of the logistic model: it keeps a sample that age parts cleanly from running off


def predict_from_age_and_sex(
    programme: Programme, endpoint: Endpoint, training: Dataset, patients: Dataset
) -> Prediction:
    """What age and sex say of an endpoint; of the prediction, only what `Prediction.risk` reads of it means anything."""
    shape = len(patients), len(programme.times_years), len(programme.outcomes)
    incidence, targets = np.zeros(shape), {}
    if endpoint.outcome:
        outcome = programme.outcome_names.index(endpoint.outcome)
        incidence[:, :, outcome] = cox_incidence(programme, training, patients, outcome)
    else:
        targets[endpoint.target] = _target(programme, endpoint, training, patients)
    nobody = np.zeros((len(patients), len(programme.outcomes)), dtype=bool)
    alive = np.ones((*shape[:2], 1))
    return Prediction(
        programme.outcome_names, programme.times_years, incidence, ("alive",), alive, nobody, targets=targets
    )


def cox_incidence(programme: Programme, training: Dataset, patients: Dataset, outcome: int) -> Floats:
    """Cumulative incidence (n, times) of an outcome by Cox models on age and sex alone.

    Death: one model. Another outcome: two cause-specific models, of the outcome and of death before it, combined on the
    programme's grid with hazards constant within a step.
    """
    covariates = _age_and_sex(programme, training), _age_and_sex(programme, patients)
    event, time = training.event[:, outcome], training.time_years[:, outcome]
    times, risk = programme.times_years[1:], event != PREVALENT
    own = _cox_hazards(covariates, time, event == OCCURRED, risk, times)
    other = np.zeros_like(own)
    if outcome > 0:
        first = (event == CENSORED) & (training.event[:, 0] == OCCURRED)
        other = _cox_hazards(covariates, time, first, risk, times)
    both = own + other
    there = np.exp(-np.cumsum(both, axis=1) + both)  # still alive and without it as the step starts
    share = np.divide(own, both, out=np.zeros_like(own), where=both > 0)
    incidence = np.zeros((len(patients), len(times) + 1))
    incidence[:, 1:] = np.cumsum(there * share * -np.expm1(-both), axis=1)
    return incidence


def _target(programme: Programme, endpoint: Endpoint, training: Dataset, patients: Dataset) -> Floats:
    """A target's part of a prediction, so that the endpoint's risk (or value) is what the model on age and sex says."""
    known, seen = observed(programme, endpoint, training)
    x, asked = (_with_intercept(_age_and_sex(programme, part)) for part in (training, patients))
    target = target_of(programme, endpoint)
    if not is_risk(programme, endpoint):
        coefficients, *_ = np.linalg.lstsq(x[known], seen[known], rcond=None)
        spread = float(np.std(seen[known] - x[known] @ coefficients))
        return np.stack([asked @ coefficients, np.full(len(asked), spread)], axis=1)
    risk = 1 / (1 + np.exp(-(asked @ _logistic(x[known], seen[known]))))
    if target.kind is not TargetKind.ORDINAL:
        return np.asarray(risk)
    levels = np.zeros((len(asked), len(target.levels) + 1))
    levels[:, 0], levels[:, endpoint.at_least] = 1 - risk, risk
    return levels


def _logistic(x: Floats, y: Floats) -> Floats:
    """Coefficients of a logistic model, by Newton's steps."""
    coefficients = np.zeros(x.shape[1])
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-(x @ coefficients)))
        curvature = (x * (p * (1 - p))[:, None]).T @ x + _RIDGE * np.eye(x.shape[1])
        coefficients += np.linalg.solve(curvature, x.T @ (y - p) - _RIDGE * coefficients)
    return coefficients


def _cox_hazards(
    covariates: tuple[pd.DataFrame, pd.DataFrame],
    time: NDArray[np.float32],
    event: NDArray[np.bool_],
    risk: NDArray[np.bool_],
    times: tuple[float, ...],
) -> Floats:
    """Cumulative hazards of each step (n, steps) of the second table's patients, fitted on the first's at risk."""
    fitted, asked = covariates
    table = fitted.assign(time=np.maximum(time.astype(np.float64), 1e-6), event=event.astype(int))[risk]
    if not table["event"].any():
        return np.zeros((len(asked), len(times)))
    with warnings.catch_warnings():
        # lifelines calls pandas in ways that pandas 4 will end; nothing that a reader of the demo can act on.
        warnings.simplefilter("ignore", DeprecationWarning)
        model = CoxPHFitter().fit(table, duration_col="time", event_col="event")
    # Times are whole days over 365.25 in float32: an event on a day of the grid belongs to the step that ends there.
    cumulative = model.predict_cumulative_hazard(asked, times=[at + 1e-4 for at in times])
    return np.diff(cumulative.to_numpy(dtype=np.float64).T, axis=1, prepend=0.0)


def _age_and_sex(programme: Programme, dataset: Dataset) -> pd.DataFrame:
    kinds = [feature.kind for feature in programme.columns]
    columns = {kind: dataset.values[:, kinds.index(kind)] for kind in (FeatureKind.AGE, FeatureKind.MALE)}
    table = pd.DataFrame({kind.value: values.astype(np.float64) for kind, values in columns.items()})
    return table.fillna({FeatureKind.MALE.value: 0.5})


def _with_intercept(table: pd.DataFrame) -> Floats:
    """(n, 3): 1, decades of age, sex; a column of its own for the intercept, scales that suit Newton's steps."""
    age, male = (table[kind.value].to_numpy(dtype=np.float64) for kind in (FeatureKind.AGE, FeatureKind.MALE))
    return np.stack([np.ones(len(table)), age / 10 - 6, male], axis=1)
