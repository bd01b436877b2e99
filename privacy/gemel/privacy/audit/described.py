"""Statistics under attack: what one patient can change in each kind of table, and the noise that is added for it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from gemel.core.dataset import Dataset
from gemel.core.statistic_request import (
    Binned,
    ContingencyRequest,
    CountRequest,
    HistogramRequest,
    MomentsRequest,
    PredictionRequest,
    StatisticRequest,
    SurvivalRequest,
)
from gemel.privacy.audit.intervals import variance_ratio_limits
from gemel.privacy.audit.report import Check
from gemel.privacy.audit.tables import variance_of
from gemel.privacy.noise import NoiseSource
from gemel.privacy.statistics import describe, tabulate

ATTACK = "statistics"
_Z = 4.0
_YEARS = (0.0, 1.0, 3.0, 5.0)
_WORST = (float("nan"), float("inf"), float("-inf"), 1e30, -1e30, 0.0)
_TRIED = 16
_CELLS = 600


def attack(dataset: Dataset, requests: Sequence[StatisticRequest] = ()) -> Iterator[Check]:
    """Take patients out of every kind of table, worst-case ones too, and look at the noise of repeated releases.

    Args:
        dataset: Made-up patients.
        requests: Those of a study; one of each kind is tried beside them.
    """
    for request in (*one_of_each(dataset), *requests):
        yield _sensitivity(request, dataset)
        yield _noise(request, dataset)


def one_of_each(dataset: Dataset) -> tuple[StatisticRequest, ...]:
    """One request of each kind, about the first two variables and the first outcome."""
    first, second = (Binned(variable=name, edges=_edges(dataset, name)) for name in dataset.features[:2])
    low, high = first.edges[0], first.edges[-1]
    outcome = dataset.outcomes[0]
    return (
        CountRequest(name="audit_count", noise_multiplier=_Z),
        HistogramRequest(name="audit_histogram", noise_multiplier=_Z, of=first),
        MomentsRequest(
            name="audit_moments", noise_multiplier=_Z, variable=first.variable, low=low, high=high
        ),
        ContingencyRequest(name="audit_contingency", noise_multiplier=_Z, of=(first, second)),
        SurvivalRequest(
            name="audit_survival", noise_multiplier=_Z, outcome=outcome, edges_years=_YEARS, by=second
        ),
        PredictionRequest(
            name="audit_prediction", noise_multiplier=_Z, score=first, outcome=outcome, edges_years=_YEARS
        ),
    )


def spoilt(dataset: Dataset) -> Dataset:
    """The patients with values that no record should have: missing, infinite, enormous; times of 0 and of a million years."""
    values, times = dataset.values.copy(), dataset.time_years.copy()
    for number, value in enumerate(_WORST):
        values[number :: len(_WORST)] = value
    times[::2], times[1::2] = 0.0, 1e6
    return Dataset(
        dataset.programme,
        dataset.programme_version,
        dataset.features,
        dataset.outcomes,
        dataset.patient_ids,
        values,
        times,
        dataset.event,
        dataset.target_names,
        dataset.targets,
        dataset.series,
    )


def _edges(dataset: Dataset, name: str) -> tuple[float, ...]:
    # Of made-up patients: their range is public.
    values = dataset.values[:, dataset.features.index(name)]
    low, high = math.floor(np.nanmin(values)), math.ceil(np.nanmax(values)) + 1
    return tuple(float(edge) for edge in np.linspace(low, high, 5))


def _sensitivity(request: StatisticRequest, dataset: Dataset) -> Check:
    worst = 0.0
    for people in (dataset, spoilt(dataset)):
        whole = tabulate(request, people)[request.name]
        for left_out in range(min(_TRIED, len(people))):
            rest = tabulate(request, people.take(np.arange(len(people)) != left_out))[request.name]
            worst = max(worst, float(np.linalg.norm((whole - rest).astype(np.float64))))
    return Check(
        ATTACK,
        f"One patient changes {request.name} by at most what its noise is for.",
        f"2-norm <= {request.grid}",
        f"{worst:.6g}",
        worst <= request.grid,
        numbers={"claimed": float(request.grid), "measured": worst},
    )


def _noise(request: StatisticRequest, dataset: Dataset) -> Check:
    exact = tabulate(request, dataset)[request.name]
    repeats = math.ceil(_CELLS / exact.size)
    released = [
        describe([request], dataset, noise=NoiseSource.secure())[request.name] for _ in range(repeats)
    ]
    residual = np.stack([(table.astype(np.int64) - exact).reshape(-1) for table in released])
    charged = max(mechanism.noise_multiplier for mechanism in request.mechanisms()) * request.grid
    # Of a coarse grid a little more than charged is drawn, never less.
    least, most = math.sqrt(variance_of(charged)), math.sqrt(variance_of(request.noise_sigma))
    low, high = (math.sqrt(limit) for limit in variance_ratio_limits(residual.size))
    measured = float(np.sqrt(np.mean(residual.astype(np.float64) ** 2)))
    return Check(
        ATTACK,
        f"{request.name} carries the noise that is charged for.",
        f"{charged:.5g}; {least * low:.5g} to {most * high:.5g} allowed",
        f"{measured:.5g}, {residual.size} cells",
        least * low <= measured <= most * high and most >= least,
        numbers={"claimed": charged, "measured": measured},
    )
