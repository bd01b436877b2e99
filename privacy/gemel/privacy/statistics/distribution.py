"""Reading counts, histograms with their quantiles, and moments."""

from __future__ import annotations

from itertools import combinations
from math import prod, sqrt

import msgspec
import numpy as np
from numpy.typing import NDArray

from gemel.core.statistic_request import MOMENT_CELLS, CountRequest, HistogramRequest, MomentsRequest
from gemel.privacy.statistics.uncertainty import (
    Z95,
    Estimate,
    count_estimate,
    range_estimate,
    ratio_estimate,
    rising,
)

Floats = NDArray[np.float64]


class CountResult(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="count"
):
    """How many patients."""

    name: str
    patients: Estimate


class Quantile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The value below which a share of the known values lies, those outside of the edges counted at the edge."""

    probability: float
    value: Estimate


class HistogramResult(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="histogram"
):
    """Patients in each bin; the bins' errors are of noise alone, the quantiles' of sampling too."""

    name: str
    edges: tuple[float, ...]
    patients: tuple[Estimate, ...]
    missing: Estimate
    total: Estimate
    quantiles: tuple[Quantile, ...]


class MomentsResult(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="moments"
):
    """Mean and variance (of the population, dividing by n) of the values clamped to the bounds."""

    name: str
    known: Estimate
    missing: Estimate
    mean: Estimate
    variance: Estimate


def read_count(request: CountRequest, table: Floats, sigma: float) -> CountResult:
    """The count itself."""
    return CountResult(name=request.name, patients=count_estimate(float(table[0]), sigma))


def read_histogram(request: HistogramRequest, table: Floats, sigma: float) -> HistogramResult:
    """Bins, and quantiles with a density within each bin that leans towards its neighbours."""
    edges = np.array(request.of.edges)
    return HistogramResult(
        name=request.name,
        edges=request.of.edges,
        patients=tuple(count_estimate(x, sigma) for x in table[:-1].tolist()),
        missing=count_estimate(float(table[-1]), sigma),
        total=count_estimate(float(table.sum()), sigma * sqrt(len(table))),
        quantiles=tuple(
            Quantile(probability=p, value=_quantile(table[:-1], p, edges, sigma))
            for p in request.probabilities
        ),
    )


def _quantile(bins: Floats, probability: float, edges: Floats, sigma: float) -> Estimate:
    """Where the cumulative count crosses a share of all; its limits are where a test of that crossing rejects.

    At an edge, D = (counts up to it) - p x (all counts) has mean zero when the quantile is there, and variance
    n p (1-p) of sampling + σ² (j (1-p)² + (K-j) p²) of noise: no smoothing and no division by a noisy number.
    """
    cumulative = np.concatenate([[0.0], np.cumsum(bins)])
    least, most = float(edges[0]), float(edges[-1])
    total, j, p = cumulative[-1], np.arange(len(edges)), probability
    if total <= Z95 * sigma * sqrt(len(bins)):
        middle = (least + most) / 2
        return Estimate(value=middle, standard_error=None, low=least, high=most, reliable=False)
    noise = sigma**2 * (j * (1 - p) ** 2 + (len(bins) - j) * p**2)
    error = Z95 * np.sqrt(total * p * (1 - p) + noise)
    smooth = np.clip(rising(cumulative), 0, total)
    smooth[0], smooth[-1] = 0, total  # nobody lies outside of the edges: they were counted at them
    difference, bend = cumulative - p * total, _bends(np.diff(smooth))
    low = _first_crossing(difference + error, edges, bend)
    high = -_first_crossing((error - difference)[::-1], -edges[::-1], -bend[::-1])
    value = _first_crossing(smooth - p * total, edges, bend)
    return range_estimate(value, low, high, least=least, most=most)


def _bends(bins: Floats) -> Floats:
    """How much steeper each bin's density is at its end than at its start, in halves of its mean, within [-1, 1].

    A density that falls fast puts a quantile nearer to the start of its bin than a straight line would.
    """
    padded = np.concatenate([bins[:1], bins, bins[-1:]])
    slope = (padded[2:] - padded[:-2]) / 2
    bends: Floats = np.clip(slope / np.maximum(2 * bins, 1e-9), -1, 1)
    return bends


def _first_crossing(rises: Floats, edges: Floats, bends: Floats) -> float:
    """Where the curve through the edges first reaches 0 from below; an end where it starts above or never does.

    Within a bin the curve is a + (b - a) (u - k u (1 - u)), with u in [0, 1] and k the bin's bend.
    """
    above = np.flatnonzero(rises >= 0)
    if len(above) == 0:
        return float(edges[-1])
    i = int(above[0])
    if i == 0:
        return float(edges[0])
    share, bend = rises[i - 1] / (rises[i - 1] - rises[i]), bends[i - 1]
    # (1 - k)² + 4 k y is not negative for y in [0, 1]; both terms are 0 only for k = 1, y = 0.
    below = (1 - bend) + np.sqrt((1 - bend) ** 2 + 4 * bend * share)
    place = 2 * share / below if below > 0 else 0.0
    return float(edges[i - 1] + place * (edges[i] - edges[i - 1]))


def central_coefficients(degree: int, centre: float) -> Floats:
    """Coefficients (5,) of (t - centre)^degree on the Bernstein polynomials of degree 4: its blossom at 0s and 1s.

    >>> central_coefficients(1, 0.0).tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    cells = MOMENT_CELLS - 1
    corners = [[1.0 - centre] * j + [-centre] * (cells - j) for j in range(MOMENT_CELLS)]
    return np.array([np.mean([prod(c) for c in combinations(corner, degree)]) for corner in corners])


def read_moments(request: MomentsRequest, table: Floats, sigma: float) -> MomentsResult:
    """Mean and variance by Fieller's limits, from the moments up to the fourth that the cells give."""
    parts, width = table[:MOMENT_CELLS], request.high - request.low
    # What rounding to parts adds is less than a quarter part squared for each patient and cell.
    n = float(parts.sum())
    cell_variance = sigma**2 + max(n, 0) / 4 / request.grid**2
    known = count_estimate(n, sigma * sqrt(MOMENT_CELLS))
    first = central_coefficients(1, 0.5)
    centre = float(np.clip(0.5 + (first @ parts) / n, 0, 1)) if n > 0 else 0.5
    mean = _moment(parts, first, cell_variance, squared=central_coefficients(2, 0.5), least=-0.5, most=0.5)
    # Around the estimated mean the second moment is the variance, and does not change with small errors of the mean.
    variance = _moment(
        parts,
        central_coefficients(2, centre),
        cell_variance,
        squared=central_coefficients(4, centre),
        least=0,
        most=0.25,
    )
    return MomentsResult(
        name=request.name,
        known=known,
        missing=count_estimate(float(table[-1]), sigma),
        mean=_scaled(mean, width, (request.low + request.high) / 2),
        variance=_scaled(variance, width**2, 0.0),
    )


def _moment(
    parts: Floats, coefficients: Floats, cell_variance: float, *, squared: Floats, least: float, most: float
) -> Estimate:
    """Mean of a polynomial in t, given also the coefficients of its square, over patients."""
    n, total = float(parts.sum()), float(coefficients @ parts)
    of_square = max(float(squared @ parts), total**2 / n if n > 0 else 0.0, 0.0)
    sampling = np.array([[of_square, total], [total, max(n, 0.0)]])
    both = np.stack([coefficients, np.ones(MOMENT_CELLS)])
    covariance = sampling + cell_variance * both @ both.T
    return ratio_estimate(total, n, covariance, least=least, most=most)


def _scaled(estimate: Estimate, factor: float, offset: float) -> Estimate:
    error = estimate.standard_error
    return Estimate(
        value=estimate.value * factor + offset,
        standard_error=None if error is None else error * factor,
        low=None if estimate.low is None else estimate.low * factor + offset,
        high=None if estimate.high is None else estimate.high * factor + offset,
        reliable=estimate.reliable,
    )
