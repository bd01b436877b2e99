"""Averaging released parameters: a pure function of releases, so it costs no privacy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gemel.core.arrays import Arrays


def weighted_mean(
    updates: Mapping[str, Arrays], weights: Mapping[str, float]
) -> dict[str, NDArray[np.float32]]:
    """Federated averaging (McMahan et al. 2017): parameters weighted by the sites' released counts.

    Args:
        updates: site -> parameters, equal names and shapes.
        weights: site -> positive weight; only those of `updates` are used.

    >>> a, b = {"w": np.array([0.0], np.float32)}, {"w": np.array([4.0], np.float32)}
    >>> weighted_mean({"a": a, "b": b}, {"a": 3.0, "b": 1.0})["w"].tolist()
    [1.0]
    """
    sites = sorted(updates)  # one order of summation, so that a resumed run gives the same bits
    total = sum(weights[site] for site in sites)
    mean: dict[str, NDArray[np.float32]] = {}
    for name, first in updates[sites[0]].items():
        summed = np.zeros(first.shape, np.float64)  # one array for all sites, however many there are
        for site in sites:
            summed += updates[site][name].astype(np.float64) * (weights[site] / total)
        mean[name] = summed.astype(np.float32)
    return mean
