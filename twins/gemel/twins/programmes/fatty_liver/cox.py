"""A Cox model of a few covariates: for the outside facts that are hazard ratios. Never for training: it couples patients."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def log_hazard_ratios(
    time: NDArray[np.floating], event: NDArray[np.bool_], covariates: NDArray[np.floating]
) -> tuple[Floats, Floats]:
    """Maximum partial likelihood (Breslow's ties) and standard errors, (q,) each, from covariates (n, q)."""
    order = np.argsort(-np.asarray(time, np.float64), kind="stable")
    time, event = np.asarray(time, np.float64)[order], np.asarray(event, bool)[order]
    centred = np.asarray(covariates, np.float64)[order]
    centred = centred - centred.mean(axis=0)
    # The risk set of an event ends with the last of those that share its time.
    last = np.searchsorted(-time, -time[event], side="right") - 1
    beta = np.zeros(centred.shape[1])
    for _ in range(20):
        weight = np.exp(centred @ beta)
        total = np.cumsum(weight)[last]
        first = np.cumsum(weight[:, None] * centred, axis=0)[last] / total[:, None]
        products = np.einsum("n,ni,nj->nij", weight, centred, centred)
        second = np.cumsum(products, axis=0)[last] / total[:, None, None]
        score = (centred[event] - first).sum(axis=0)
        information = (second - np.einsum("ni,nj->nij", first, first)).sum(axis=0)
        step = np.linalg.solve(information, score)
        beta = beta + step
        if np.abs(step).max() < 1e-9:
            break
    return beta, np.sqrt(np.diag(np.linalg.inv(information)))
