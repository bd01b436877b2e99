"""What only open data allow: the joint twin beside pooled records, each hospital alone, and a Cox model.

Nothing here happens in a real federation, where nobody may pool records or see exact scores. All models are scored on the
same held-out patients (`Dataset.split`), exactly (`gemel.twins.scores`), and none saw them in training.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from lifelines import CoxPHFitter
from numpy.typing import NDArray

from gemel.core.dataset import CENSORED, OCCURRED, PREVALENT, Dataset
from gemel.core.programme import FeatureKind, Programme
from gemel.twins.baselines import train_without_privacy
from gemel.twins.hazard import HazardTwin
from gemel.twins.scores import auc, integrated_brier

Floats = NDArray[np.float64]
Scores = dict[str, dict[str, float | None]]
AUC_YEARS = (5, 10)


def compare(programme: Programme, sites: Mapping[str, Dataset], federated: HazardTwin) -> dict[str, Any]:
    """Scores of four models on everybody's held-out patients, and of two on each hospital's own.

    Returns `federated_dp`, `pooled`, `local` (the mean over the hospitals' own twins) and `cox`, each
    {outcome: {auc_5y, auc_10y, ibs}}, and `per_site`: {site: {held_out_patients, federated_dp, local, local_on_all}}.
    A score that the held-out patients cannot give (no case, no control) is None.
    """
    halves = {name: dataset.split() for name, dataset in sites.items()}
    training = pool([train for train, _ in halves.values()])
    held_out = pool([held for _, held in halves.values()])
    own = {name: train_without_privacy(programme, train) for name, (train, _) in halves.items()}
    local_on_all = {name: twin_scores(twin, held_out) for name, twin in own.items()}
    return {
        "federated_dp": twin_scores(federated, held_out),
        "pooled": twin_scores(train_without_privacy(programme, training), held_out),
        "local": _mean(list(local_on_all.values())),
        "cox": scores(held_out, cox_incidence(programme, training, held_out)),
        "per_site": {
            name: {
                "held_out_patients": len(held),
                "federated_dp": twin_scores(federated, held),
                "local": twin_scores(own[name], held),
                "local_on_all": local_on_all[name],
            }
            for name, (_, held) in halves.items()
        },
    }


def pool(datasets: Sequence[Dataset]) -> Dataset:
    """All patients of several hospitals as one data set, by pseudonym: open data only."""
    first = datasets[0]
    together = Dataset(
        first.programme,
        first.programme_version,
        first.features,
        first.outcomes,
        tuple(identity for dataset in datasets for identity in dataset.patient_ids),
        np.concatenate([dataset.values for dataset in datasets]),
        np.concatenate([dataset.time_years for dataset in datasets]),
        np.concatenate([dataset.event for dataset in datasets]),
    )
    return together.take(np.argsort(np.array(together.patient_ids), kind="stable"))


def twin_scores(twin: HazardTwin, dataset: Dataset) -> Scores:
    """The scores of a twin on a data set."""
    return scores(dataset, twin.predict(dataset.values).cumulative_incidence)


def scores(dataset: Dataset, incidence: Floats) -> Scores:
    """{outcome: {auc_5y, auc_10y, ibs}} of cumulative incidences (n, years from 0, k)."""
    found: Scores = {}
    for j, outcome in enumerate(dataset.outcomes):
        values = {f"auc_{t}y": auc(dataset, j, incidence[:, t, j], years=t) for t in AUC_YEARS}
        values["ibs"] = integrated_brier(dataset, j, incidence[:, :, j])
        found[outcome] = {name: float(v) if np.isfinite(v) else None for name, v in values.items()}
    return found


def cox_incidence(programme: Programme, training: Dataset, patients: Dataset) -> Floats:
    """Cumulative incidence (n, horizon + 1, k) by Cox models on age and sex alone.

    Death: one model. Another outcome: two cause-specific models, of the outcome and of death before it, combined on the yearly
    grid with hazards constant within a year.
    """
    incidence = np.zeros((len(patients), programme.horizon_years + 1, len(programme.outcomes)))
    covariates = _age_and_sex(programme, training), _age_and_sex(programme, patients)
    died = training.event[:, 0] == OCCURRED
    for j in range(len(programme.outcomes)):
        event, time = training.event[:, j], training.time_years[:, j]
        risk = event != PREVALENT
        own = _cox_hazards(covariates, time, event == OCCURRED, risk, programme.horizon_years)
        other = np.zeros_like(own)
        if j > 0:
            first = (event == CENSORED) & died
            other = _cox_hazards(covariates, time, first, risk, programme.horizon_years)
        both = own + other
        there = np.exp(-np.cumsum(both, axis=1) + both)  # still alive and without it as the year starts
        share = np.divide(own, both, out=np.zeros_like(own), where=both > 0)
        incidence[:, 1:, j] = np.cumsum(there * share * -np.expm1(-both), axis=1)
    return incidence


def _cox_hazards(
    covariates: tuple[pd.DataFrame, pd.DataFrame],
    time: NDArray[np.float32],
    event: NDArray[np.bool_],
    risk: NDArray[np.bool_],
    horizon: int,
) -> Floats:
    """Yearly cumulative hazards (n, horizon) of the second table's patients, fitted on the first's at risk."""
    fitted, asked = covariates
    table = fitted.assign(time=np.maximum(time.astype(np.float64), 1e-6), event=event.astype(int))[risk]
    with warnings.catch_warnings():
        # lifelines calls pandas in ways that pandas 4 will end; nothing that a reader of the demo can act on.
        warnings.simplefilter("ignore", DeprecationWarning)
        model = CoxPHFitter().fit(table, duration_col="time", event_col="event")
    cumulative = model.predict_cumulative_hazard(asked, times=list(range(1, horizon + 1)))
    return np.diff(cumulative.to_numpy(dtype=np.float64).T, axis=1, prepend=0.0)


def _age_and_sex(programme: Programme, dataset: Dataset) -> pd.DataFrame:
    kinds = [feature.kind for feature in programme.features]
    columns = {kind: dataset.values[:, kinds.index(kind)] for kind in (FeatureKind.AGE, FeatureKind.MALE)}
    table = pd.DataFrame({kind.value: values.astype(np.float64) for kind, values in columns.items()})
    return table.fillna({FeatureKind.MALE.value: 0.5})


def _mean(of: Sequence[Scores]) -> Scores:
    """Score by score over hospitals; None where one hospital has none."""
    mean: Scores = {}
    for outcome, names in of[0].items():
        mean[outcome] = {}
        for name in names:
            values = [scores[outcome][name] for scores in of]
            known = [value for value in values if value is not None]
            mean[outcome][name] = float(np.mean(known)) if len(known) == len(values) else None
    return mean
