"""Cox regression by Newton's method, in numpy: coefficients and their covariance, ties as Efron has them (JASA 1977;72:557)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemel.twins.evaluation.estimate import Z95

Floats = NDArray[np.float64]

_STEPS, _CLOSE = 50, 1e-9
_MOST_STEP = 2.0


@dataclass(frozen=True)
class CoxFit:
    """Log hazard ratios (p,) and their covariance (p, p); NaN where there is no fit."""

    coefficients: Floats
    covariance: Floats

    @property
    def intervals(self) -> Floats:
        """95 % intervals (p, 2)."""
        error = np.sqrt(np.diag(self.covariance))
        return np.stack([self.coefficients - Z95 * error, self.coefficients + Z95 * error], axis=1)


def cox(covariates: Floats, days: Floats, occurred: NDArray[np.bool_], *, ridge: float = 0.0) -> CoxFit:
    """Fit by partial likelihood.

    Args:
        covariates: (n, p), on scales of about one.
        days: (n,) of the event, or of the end of follow-up.
        occurred: (n,).
        ridge: Half of this times the squared coefficients is taken off the log likelihood, so that columns that are nearly
            one, or that part all who have the event, still have a fit.
    """
    order = np.argsort(-days, kind="stable")
    x, t, event = covariates[order] - covariates.mean(axis=0), days[order], occurred[order]
    size = x.shape[1]
    none = CoxFit(np.full(size, np.nan), np.full((size, size), np.nan))
    if not event.any():
        return none
    ties = _Ties.of(t, event)
    beta, value, information = np.zeros(size), -np.inf, np.eye(size)
    for _ in range(_STEPS):
        found, score, information = _likelihood(x, event, ties, beta, ridge)
        if not np.isfinite(found) or np.linalg.cond(information) > 1e14:
            return none
        step = np.linalg.solve(information, score)
        # No step moves anybody's log hazard by more than two.
        step *= min(1.0, _MOST_STEP / max(float(np.abs(x @ step).max()), 1e-12))
        if abs(found - value) <= _CLOSE * (1 + abs(found)) and np.abs(step).max() < 1e-6:
            return CoxFit(beta, np.asarray(np.linalg.inv(information), np.float64))
        beta, value = beta + step, found
    return none


@dataclass(frozen=True)
class _Ties:
    """Events by their moments, people being in descending order of time.

    Attributes:
        last: For each moment the last person still at risk (m,).
        moment: Of each event (e,). fraction: of its moment's events that came "before" it (e,).
        first: For each person the number of moments later than the person's time: those at which it is not at risk (n,).
        rows: Of the people with an event (e,).
    """

    last: NDArray[np.intp]
    moment: NDArray[np.intp]
    fraction: Floats
    first: NDArray[np.intp]
    rows: NDArray[np.intp]

    @classmethod
    def of(cls, days: Floats, event: NDArray[np.bool_]) -> _Ties:
        rows = np.flatnonzero(event)
        falling = -days[rows]
        moments, start, moment, counts = np.unique(
            falling, return_index=True, return_inverse=True, return_counts=True
        )
        moment = moment.reshape(-1)
        fraction = (np.arange(len(rows)) - start[moment]) / counts[moment]
        last = np.searchsorted(-days, moments, side="right") - 1
        first = np.searchsorted(moments, -days, side="left")
        return cls(last, moment, fraction, first, rows)


def _likelihood(
    x: Floats, event: NDArray[np.bool_], ties: _Ties, beta: Floats, ridge: float
) -> tuple[float, Floats, Floats]:
    """Log partial likelihood, its gradient (p,), and the information (p, p)."""
    along = x @ beta
    risk = np.exp(along - along.max())
    weighted = risk[:, None] * x
    moments = len(ties.last)
    tied_risk = np.bincount(ties.moment, risk[ties.rows], minlength=moments)
    tied_weighted = np.zeros((moments, x.shape[1]))
    np.add.at(tied_weighted, ties.moment, weighted[ties.rows])
    sums, sums_weighted = np.cumsum(risk)[ties.last], np.cumsum(weighted, axis=0)[ties.last]
    below = sums[ties.moment] - ties.fraction * tied_risk[ties.moment]
    mean = (sums_weighted[ties.moment] - ties.fraction[:, None] * tied_weighted[ties.moment]) / below[:, None]
    value = float((along[ties.rows] - along.max() - np.log(below)).sum() - 0.5 * ridge * beta @ beta)
    score = x[ties.rows].sum(axis=0) - mean.sum(axis=0) - ridge * beta
    # Σ over events of the second moments: each person counts with the sum of 1/below over the events it was at risk of.
    each = np.bincount(ties.moment, 1 / below, minlength=moments)
    from_here_on = np.concatenate([np.cumsum(each[::-1])[::-1], [0.0]])
    weight = from_here_on[ties.first]
    tied = np.bincount(ties.moment, ties.fraction / below, minlength=moments)
    weight[ties.rows] -= tied[ties.moment]
    information = (weighted * weight[:, None]).T @ x - mean.T @ mean + ridge * np.eye(len(beta))
    return value, score, information
