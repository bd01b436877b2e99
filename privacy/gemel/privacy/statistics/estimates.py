"""From the sum of the hospitals' noisy tables to numbers with error bars: anybody may do it, it costs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from gemel.core.errors import GemelError
from gemel.core.statistic_request import (
    ContingencyRequest,
    CountRequest,
    HistogramRequest,
    MomentsRequest,
    PredictionRequest,
    StatisticRequest,
    SurvivalRequest,
)
from gemel.privacy.statistics.association import ContingencyResult, read_contingency
from gemel.privacy.statistics.distribution import (
    CountResult,
    HistogramResult,
    MomentsResult,
    read_count,
    read_histogram,
    read_moments,
)
from gemel.privacy.statistics.prediction import PredictionResult, read_prediction
from gemel.privacy.statistics.release import sigma_of_sum, tables_of
from gemel.privacy.statistics.survival import SurvivalResult, read_survival

Result = CountResult | HistogramResult | MomentsResult | ContingencyResult | SurvivalResult | PredictionResult


def estimates(
    requests: Sequence[StatisticRequest],
    summed: Mapping[str, NDArray[Any]],
    *,
    hospitals: int,
    noise_share: float = 1.0,
) -> tuple[Result, ...]:
    """One result for each request, in their order; `msgspec.to_builtins` makes them JSON.

    Args:
        requests: The requests that the tables answer.
        summed: The cell-wise sum of the hospitals' tables (`sum_tables`), by request name.
        hospitals: How many hospitals are in the sum: each added its own noise.
        noise_share: The standard deviation of one hospital's noise over that of a release by itself: below 1 where
            hospitals share the noise under secure aggregation.

    Raises:
        GemelError: GEM403 when the tables are not the declared ones, GEM311 for impossible requests or no hospitals.
    """
    if hospitals < 1 or not 0 < noise_share <= 1:
        raise GemelError("GEM311", f"A sum over {hospitals} hospitals, each with {noise_share} of the noise.")
    tables = tables_of(summed, requests)
    return tuple(
        _read(r, tables[r.name], sigma_of_sum(r, hospitals=hospitals, noise_share=noise_share))
        for r in requests
    )


def _read(request: StatisticRequest, table: NDArray[Any], sigma: float) -> Result:
    match request:
        case CountRequest():
            return read_count(request, table, sigma)
        case HistogramRequest():
            return read_histogram(request, table, sigma)
        case MomentsRequest():
            return read_moments(request, table, sigma)
        case ContingencyRequest():
            return read_contingency(request, table, sigma)
        case SurvivalRequest():
            return read_survival(request, table, sigma)
        case PredictionRequest():
            return read_prediction(request, table, sigma)
