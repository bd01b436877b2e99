"""What a node may let out of a set of requests: noisy tables, and the price that was charged for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gemel.core.arrays import Arrays, ArraySpec, check_arrays
from gemel.core.dataset import Dataset
from gemel.core.errors import GemelError
from gemel.core.mechanism import Mechanism
from gemel.core.statistic_request import StatisticRequest, check_statistics
from gemel.privacy.noise import NoiseSource
from gemel.privacy.statistics.counts import noisy_counts
from gemel.privacy.statistics.tables import Predictions, Table, tabulate


def declared(requests: Sequence[StatisticRequest]) -> dict[str, ArraySpec]:
    """The table of each request by its name: what the gate lets out, and nothing else. Raises GEM311."""
    check_statistics(requests)
    return {request.name: ArraySpec(request.shape, "int64") for request in requests}


def charges(requests: Sequence[StatisticRequest]) -> tuple[Mechanism, ...]:
    """What releasing all the tables costs a patient, known before anything is computed. Raises GEM311."""
    check_statistics(requests)
    return tuple(mechanism for request in requests for mechanism in request.mechanisms())


def describe(
    requests: Sequence[StatisticRequest],
    dataset: Dataset,
    *,
    noise: NoiseSource,
    predictions: Predictions | None = None,
) -> dict[str, NDArray[np.generic]]:
    """Count every table and add its noise: the exact ones never leave this function.

    Raises GEM311 for an impossible request (all are checked before the first patient is looked at), and GEM307 for
    noise whose key is known: the price would be a fiction.
    """
    if not noise.is_secure:
        raise GemelError("GEM307", "Statistics are released with noise of a secure source only.")
    check_statistics(requests)
    exact = [tabulate(request, dataset, predictions=predictions)[request.name] for request in requests]
    return {
        request.name: add_noise(request, table, noise) for request, table in zip(requests, exact, strict=True)
    }


def add_noise(request: StatisticRequest, table: Table, noise: NoiseSource) -> Table:
    """The table with a discrete Gaussian in every cell, as wide as the request says and its charge covers."""
    return noisy_counts(table, noise_multiplier=request.noise_sigma, noise=noise)


def sum_tables(requests: Sequence[StatisticRequest], tables: Sequence[Arrays]) -> dict[str, Table]:
    """The cell-wise sum over hospitals: all that reading needs. Raises GEM403 for tables that are not declared."""
    expected = declared(requests)
    total: dict[str, Table] = {name: np.zeros(spec.shape, np.int64) for name, spec in expected.items()}
    for arrays in tables:
        check_arrays(arrays, expected)
        for name in total:
            total[name] = total[name] + arrays[name].astype(np.int64)
    return total


def sigma_of_sum(request: StatisticRequest, *, hospitals: int, noise_share: float = 1.0) -> float:
    """Standard deviation of the noise in each cell of the sum, in patients.

    Each hospital adds its own, independent noise of `noise_share` times the standard deviation of a release by itself.
    """
    return request.noise_sigma / request.grid * math.sqrt(hospitals) * noise_share


def tables_of(arrays: Mapping[str, NDArray[Any]], requests: Sequence[StatisticRequest]) -> dict[str, Any]:
    """Summed tables as numbers of patients (float64), by request name. Raises GEM403 when they are not declared."""
    check_arrays(dict(arrays), declared(requests))
    return {r.name: np.asarray(arrays[r.name], dtype=np.float64) / r.grid for r in requests}
