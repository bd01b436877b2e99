"""Logistic regression with a ridge, by Newton's method, in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_STEPS, _CLOSE = 100, 1e-8


@dataclass(frozen=True)
class LogisticFit:
    """Intercept and coefficients (p,) of the log odds."""

    intercept: float
    coefficients: Floats

    def chance(self, columns: Floats) -> Floats:
        """The chance (n,) of a case for columns (n, p)."""
        return np.asarray(1 / (1 + np.exp(-self.log_odds(columns))), np.float64)

    def log_odds(self, columns: Floats) -> Floats:
        """(n,), not beyond ±30."""
        return np.clip(self.intercept + columns @ self.coefficients, -30, 30)


def logistic(columns: Floats, cases: NDArray[np.bool_], *, ridge: float = 1.0) -> LogisticFit:
    """Fit to columns (n, p) on scales of about one and cases (n,).

    Half of `ridge` times the squared coefficients is taken off the log likelihood; the intercept is free. With a ridge there
    always is a fit, unless there are only cases or none: then the intercept says so, as far as ±30 goes.
    """
    x = np.column_stack([np.ones(len(columns)), columns])
    y = cases.astype(np.float64)
    penalty = np.concatenate([[0.0], np.full(columns.shape[1], ridge)])
    share = np.clip(y.mean(), 1e-9, 1 - 1e-9)
    found = np.concatenate([[np.log(share / (1 - share))], np.zeros(columns.shape[1])])
    if y.min() == y.max():
        return LogisticFit(float(found[0]), found[1:])
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(x @ found, -30, 30)))
        score = x.T @ (y - chance) - penalty * found
        information = (x * (chance * (1 - chance))[:, None]).T @ x + np.diag(penalty)
        step = np.linalg.lstsq(information, score, rcond=None)[0]
        moved = float(np.abs(x @ step).max())
        # No step moves anybody's log odds by more than two.
        found = found + step * min(1.0, 2.0 / max(moved, 1e-12))
        if moved < _CLOSE:
            break
    return LogisticFit(float(found[0]), found[1:])
