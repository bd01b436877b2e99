"""What only open data allow: the joint twin beside pooled records, each hospital alone, age and sex, and published scores.

Nothing here happens in a real federation, where nobody may pool records or see exact scores. All models are scored on the
same held-out patients (`Dataset.split`), exactly (`gemel.twins.scores`), and none saw them in training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gemel.cli.demo.age_and_sex import predict_from_age_and_sex
from gemel.cli.demo.endpoint_lines import scored_endpoints
from gemel.core.dataset import Dataset
from gemel.core.programme import Endpoint, Programme
from gemel.core.series import Series
from gemel.twins.baselines import train_without_privacy
from gemel.twins.definition import Baseline
from gemel.twins.prediction import Prediction
from gemel.twins.scores import endpoint_scores, followed_to, horizon_labels, is_risk, observed
from gemel.twins.twin import Twin

Scores = dict[str, dict[str, float | None]]


def compare(
    programme: Programme,
    sites: Mapping[str, Dataset],
    federated: Twin,
    baselines: Sequence[Baseline] = (),
) -> dict[str, Any]:
    """Scores of four models on everybody's held-out patients, of two on each hospital's own, and of published scores.

    Returns `federated_dp`, `pooled`, `local` (the mean over the hospitals' own twins) and `age_and_sex`, each
    {endpoint: {score: value}}; `per_site`: {site: {held_out_patients, federated_dp, local, local_on_all}}; and `baselines`,
    see `baseline_line`. A score that the held-out patients cannot give (no case, no control) is None.
    """
    halves = {name: dataset.split() for name, dataset in sites.items()}
    training = pool([train for train, _ in halves.values()])
    held_out = pool([held for _, held in halves.values()])
    own = {name: train_without_privacy(programme, train) for name, (train, _) in halves.items()}
    local_on_all = {name: twin_scores(twin, held_out) for name, twin in own.items()}
    lines = (baseline_line(programme, baseline, held_out, federated) for baseline in baselines)
    return {
        "federated_dp": twin_scores(federated, held_out),
        "pooled": twin_scores(train_without_privacy(programme, training), held_out),
        "local": _mean(list(local_on_all.values())),
        "age_and_sex": {
            endpoint.name: scores(
                programme,
                endpoint,
                predict_from_age_and_sex(programme, endpoint, training, held_out),
                held_out,
            )
            for endpoint in scored_endpoints(programme)
        },
        "baselines": [line for line in lines if line is not None],
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
        first.target_names,
        np.concatenate([dataset.targets for dataset in datasets]),
        {name: _joined([dataset.series[name] for dataset in datasets]) for name in first.series},
    )
    return together.take(np.argsort(np.array(together.patient_ids), kind="stable"))


def twin_scores(twin: Twin, dataset: Dataset) -> Scores:
    """The scores of a twin on a data set, by endpoint."""
    prediction = twin.predict(dataset.values)
    return {
        endpoint.name: scores(twin.programme, endpoint, prediction, dataset)
        for endpoint in scored_endpoints(twin.programme)
    }


def scores(
    programme: Programme, endpoint: Endpoint, prediction: Prediction, dataset: Dataset
) -> dict[str, float | None]:
    """`gemel.twins.scores.endpoint_scores`, with None for what is not known."""
    found = endpoint_scores(programme, endpoint, prediction, dataset)
    return {name: float(value) if np.isfinite(value) else None for name, value in found.items()}


def baseline_line(
    programme: Programme, baseline: Baseline, dataset: Dataset, twin: Twin
) -> dict[str, Any] | None:
    """A published score beside the twin, on those who have its inputs; None when nobody has.

    Returns {name, title, source, mark, endpoint, patients, score, twin}: of a risk the AUC at the last horizon, of a value the RMSE.
    """
    endpoint = next(e for e in programme.endpoints if e.name == baseline.endpoint)
    computed = baseline(dataset.values, programme)
    has_inputs = np.isfinite(computed)
    if not has_inputs.any():
        return None
    mine, score = dataset.take(has_inputs), computed[has_inputs]
    predicted = twin.predict(mine.values).risk(programme, endpoint)[:, -1]
    if is_risk(programme, endpoint):
        group = followed_to(programme, endpoint, mine)[-1]
        name, values = (
            f"auc_{horizon_labels(programme, endpoint)[-1]}",
            (group.auc(score), group.auc(predicted)),
        )
    else:
        known, seen = observed(programme, endpoint, mine)
        name = "rmse"
        errors = [float(np.sqrt(np.mean((of - seen)[known] ** 2))) for of in (score, predicted)]
        values = errors[0], errors[1]
    return {
        "name": baseline.name,
        "title": baseline.title,
        "source": baseline.source,
        "mark": str(baseline.mark.value),
        "endpoint": endpoint.name,
        "figure": name,
        "patients": len(mine),
        "score": values[0] if np.isfinite(values[0]) else None,
        "twin": values[1] if np.isfinite(values[1]) else None,
    }


def _joined(parts: Sequence[Series]) -> Series:
    lengths = np.concatenate([part.lengths for part in parts])
    return Series(
        np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        np.concatenate([part.days for part in parts]),
        np.concatenate([part.values for part in parts]),
    )


def _mean(of: Sequence[Scores]) -> Scores:
    """Score by score over hospitals; None where one hospital has none."""
    mean: Scores = {}
    for endpoint, names in of[0].items():
        mean[endpoint] = {}
        for name in names:
            values = [scores[endpoint][name] for scores in of]
            known = [value for value in values if value is not None]
            mean[endpoint][name] = float(np.mean(known)) if len(known) == len(values) else None
    return mean
