"""Reading contingency tables: counts, a test of independence that knows the noise, honest odds ratios."""

from __future__ import annotations

from math import sqrt

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincc

from gemel.core.statistic_request import ContingencyRequest
from gemel.privacy.statistics.uncertainty import Z95, Estimate, count_estimate, ratio_limits

Floats = NDArray[np.float64]


class IndependenceTest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Chi-square of the first two variables within the third, noise included.

    Not `reliable`: an expected count is below 5, or noise is the greater part of most cells' variance; the p-value
    still holds, but would not find much.
    """

    statistic: float
    degrees_of_freedom: int
    p_value: float
    reliable: bool


class OddsRatio(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Odds of one bin rather than the first of the column variable, in a bin of the row variable against its first."""

    row: int
    column: int
    stratum: int
    value: Estimate


class ContingencyResult(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="contingency"
):
    """Counts in row-major order of `shape`, the last of each axis being the missing; the rest leaves those out."""

    name: str
    shape: tuple[int, ...]
    patients: tuple[Estimate, ...]
    total: Estimate
    independence: IndependenceTest
    odds_ratios: tuple[OddsRatio, ...]


def read_contingency(request: ContingencyRequest, table: Floats, sigma: float) -> ContingencyResult:
    """Counts, test and odds ratios."""
    known = table[tuple(slice(0, -1) for _ in table.shape)]
    strata = known[..., None] if known.ndim == 2 else known
    return ContingencyResult(
        name=request.name,
        shape=request.shape,
        patients=tuple(count_estimate(x, sigma) for x in table.ravel().tolist()),
        total=count_estimate(float(table.sum()), sigma * sqrt(table.size)),
        independence=_independence(strata, sigma),
        odds_ratios=tuple(
            OddsRatio(row=i, column=j, stratum=k, value=_odds_ratio(strata[:, :, k], i, j, sigma))
            for k in range(strata.shape[2])
            for i in range(1, strata.shape[0])
            for j in range(1, strata.shape[1])
        ),
    )


def _independence(strata: Floats, sigma: float) -> IndependenceTest:
    degrees = (strata.shape[0] - 1) * (strata.shape[1] - 1) * strata.shape[2]
    parts = [_residual_statistic(strata[:, :, k], sigma) for k in range(strata.shape[2])]
    statistic = sum(value for value, _ in parts)
    return IndependenceTest(
        statistic=float(statistic),
        degrees_of_freedom=degrees,
        p_value=float(gammaincc(degrees / 2, statistic / 2)),
        reliable=all(reliable for _, reliable in parts),
    )


def _residual_statistic(counts: Floats, sigma: float) -> tuple[float, bool]:
    """Squared length of the residuals from independence, in units of their covariance: Pearson's when σ is 0.

    To first order the residuals are A x with A = (I - p 1ᵀ) ⊗ (I - q 1ᵀ); under independence x has covariance
    n diag(p ⊗ q) + σ² I, with p, q the margins' shares.
    """
    r, c = counts.shape
    rows, columns = (np.maximum(counts.sum(axis=axis), 0) for axis in (1, 0))
    n = max(float(counts.sum()), 1.0)
    p, q = (m / m.sum() if m.sum() > 0 else np.full(len(m), 1 / len(m)) for m in (rows, columns))
    projection = np.kron(np.eye(r) - np.outer(p, np.ones(r)), np.eye(c) - np.outer(q, np.ones(c)))
    residual = projection @ counts.ravel()
    expected = n * np.kron(p, q)
    covariance = projection @ np.diag(expected + sigma**2) @ projection.T
    # Of rank (r-1)(c-1): a margin is no evidence.
    basis = np.kron(np.eye(r)[:, 1:], np.eye(c)[:, 1:])
    small = basis.T @ covariance @ basis
    value = float((basis.T @ residual) @ np.linalg.pinv(small, hermitian=True) @ (basis.T @ residual))
    return value, bool(expected.min() >= 5 and np.median(expected) > sigma**2)


def _odds_ratio(counts: Floats, row: int, column: int, sigma: float) -> Estimate:
    """Fieller's limits for the ratio of n11 n00 to n10 n01; None above when noise hides the denominator."""
    agree = counts[row, column], counts[0, 0]
    differ = counts[row, 0], counts[0, column]
    covariance = np.diag([_variance_of_product(*agree, sigma), _variance_of_product(*differ, sigma)])
    products = agree[0] * agree[1], differ[0] * differ[1]
    known = min(*agree, *differ) > Z95 * sigma
    limits = ratio_limits(*products, covariance) if min(differ) > 0 else None
    if limits is None:
        value = max(products[0], 0.0) / products[1] if min(differ) > 0 else 1.0
        return Estimate(value=float(value), standard_error=None, low=0.0, high=None, reliable=False)
    low, high = (max(limit, 0.0) for limit in limits)
    return Estimate(
        value=float(max(products[0] / products[1], 0.0)),
        standard_error=float((limits[1] - limits[0]) / (2 * Z95)),
        low=float(low),
        high=float(high),
        reliable=bool(known and low > 0),
    )


def _variance_of_product(x: float, y: float, sigma: float) -> float:
    """Of two independent Poisson numbers with noise."""
    of_x, of_y = (max(value, 0.0) + sigma**2 for value in (x, y))
    return float(x**2 * of_y + y**2 * of_x + of_x * of_y)
