"""Numbers with error bars: sampling of patients and privacy noise together, and a word when noise drowns them."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Z95 = 1.959963984540054
_AT_ONCE = 1 << 20  # numbers of perturbed tables held at a time


class Estimate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A number, its standard error and its 95 % interval; None where the noise leaves it without a limit.

    Not `reliable`: the interval covers half or more of all that is possible (of a count: 0 as well), or the number
    had to be brought back into its range. The interval is honest nevertheless.
    """

    value: float
    standard_error: float | None
    low: float | None
    high: float | None
    reliable: bool


def count_estimate(value: float, sigma: float) -> Estimate:
    """A number of people in these hospitals: its only error is the noise. Never below 0."""
    low, high = (max(value + side * Z95 * sigma, 0.0) for side in (-1, 1))
    return Estimate(
        value=float(max(value, 0.0)),
        standard_error=float(sigma),
        low=float(low),
        high=float(high),
        reliable=bool(value > Z95 * sigma),
    )


def range_estimate(value: float, low: float, high: float, *, least: float, most: float) -> Estimate:
    """An estimate of something that lies between two public numbers."""
    inside = least <= value <= most
    standard_error = (high - low) / (2 * Z95)
    low, high = (min(max(limit, least), most) for limit in (low, high))
    return Estimate(
        value=float(min(max(value, least), most)),
        standard_error=float(standard_error),
        low=float(low),
        high=float(high),
        reliable=bool(inside and high - low < (most - least) / 2),
    )


def ratio_limits(a: float, b: float, covariance: Floats) -> tuple[float, float] | None:
    """95 % limits of a/b by Fieller's theorem (1954), or None where b may be nothing: then no limit holds.

    `covariance` (2, 2) is that of (a, b). Unlike the delta method it holds for a denominator that is itself noisy.
    """
    k = Z95**2
    square = b * b - k * float(covariance[1, 1])
    if b <= 0 or square <= 0:
        return None
    middle = a * b - k * float(covariance[0, 1])
    root = math.sqrt(max(middle**2 - square * (a * a - k * float(covariance[0, 0])), 0.0))
    return (middle - root) / square, (middle + root) / square


def ratio_estimate(a: float, b: float, covariance: Floats, *, least: float, most: float) -> Estimate:
    """a/b, known to lie between two public numbers; the whole range where the noise drowns b."""
    limits = ratio_limits(a, b, covariance)
    if limits is None:
        value = min(max(a / b, least), most) if b > 0 else (least + most) / 2
        return Estimate(value=float(value), standard_error=None, low=least, high=most, reliable=False)
    return range_estimate(a / b, *limits, least=least, most=most)


def proportion_estimate(value: float, *, patients: float, noise_variance: float) -> Estimate:
    """A probability as if seen in `patients` people, with noise on top: Wilson's interval (1927) with one more term.

    The limits are the p at which |value - p| = z sqrt(p(1-p)/patients + noise variance).
    """
    k = Z95**2 / max(patients, 1.0)
    centre, square = value + k / 2, value**2 - Z95**2 * noise_variance
    root = math.sqrt(max(centre**2 - (1 + k) * square, 0.0))
    return range_estimate(value, (centre - root) / (1 + k), (centre + root) / (1 + k), least=0, most=1)


def spread(
    function: Callable[[Floats], Floats], table: Floats, sigma: float
) -> tuple[Floats, Floats, Floats]:
    """Value (m,) of a function of tables, and its covariances (m, m) by sampling and by noise.

    `function` maps (..., *shape) to (..., m). Each cell is a Poisson number of patients (so that for what does not
    change when all cells are doubled, the sampling is that of independent patients) and has noise of standard
    deviation `sigma`. The slope along a cell is that over one of its own standard deviations to either side: where
    the function bends, the error that is found is that of the bend, not of a tangent.
    """
    cells = table.size
    # The noisy count may be negative: with the noise's variance it still is an estimate of the cell's.
    variance = np.maximum(table.ravel() + sigma**2, max(sigma**2 / 4, 1e-9))
    step = np.sqrt(variance)
    value = function(table)
    slopes = np.empty((cells, value.size))
    chunk = max(1, _AT_ONCE // max(cells, 1))
    for start in range(0, cells, chunk):
        mine = np.arange(start, min(start + chunk, cells))
        moved = np.zeros((len(mine), cells))
        moved[np.arange(len(mine)), mine] = step[mine]
        moved = moved.reshape(len(mine), *table.shape)
        slopes[mine] = (function(table + moved) - function(table - moved)) / (2 * step[mine, None])
    by_noise = sigma**2 * slopes.T @ slopes
    return value, (slopes.T * (variance - sigma**2)) @ slopes, by_noise


def rising(values: Floats) -> Floats:
    """The nearest series (in least squares) that never falls: pool adjacent violators."""
    blocks: list[tuple[float, int]] = []
    for value in values.tolist():
        mean, size = value, 1
        while blocks and blocks[-1][0] >= mean:
            before, others = blocks.pop()
            mean, size = (before * others + mean * size) / (others + size), others + size
        blocks.append((mean, size))
    return np.repeat(np.array([mean for mean, _ in blocks], dtype=np.float64), [size for _, size in blocks])
