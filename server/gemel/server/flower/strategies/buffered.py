"""Updates of different ages as one: what each moved its own starting point by, older ones less.

Source: FedBuff, Nguyen et al., AISTATS 2022: x ← x + Σ s(τ_i)·(y_i - x_i) / K with s(τ) = (1 + τ)^-a. Here the mean is
weighted by patients, Σ w_i s_i (y_i - x_i) / Σ w_i: staleness takes from an update's force and gives it to no other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gemel.core.arrays import Arrays
from gemel.core.errors import GemelError
from gemel.server.aggregate import weighted_mean
from gemel.server.strategy import Update, weights_of


def staleness_weight(staleness: int, exponent: float) -> float:
    """The force of an update that is so many moves old. Raises GEM403 for one from the future.

    >>> [staleness_weight(s, 0.5) for s in (0, 3)]
    [1.0, 0.5]
    """
    if staleness < 0:
        raise GemelError("GEM403", f"An update is {staleness} moves old.")
    return float((1.0 + staleness) ** -exponent)


def targets(
    model: Arrays, updates: Sequence[Update], *, exponent: float
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Site -> where its update would take the model, float64: x + s(τ)·(y - x_i), which is y itself for a fresh one.

    Raises GEM403 when one site is there twice, or there is none.
    """
    if not updates or len({update.site for update in updates}) != len(updates):
        raise GemelError("GEM403", f"Updates of {sorted(u.site for u in updates)}: one for each site.")
    return {
        update.site: {name: _target(model, update, name, exponent) for name in sorted(model)}
        for update in sorted(updates, key=lambda u: u.site)
    }


def mean_target(
    model: Arrays, updates: Sequence[Update], *, exponent: float
) -> dict[str, NDArray[np.float32]]:
    """The mean of the targets by weight: federated averaging, for updates of any age."""
    return weighted_mean(targets(model, updates, exponent=exponent), weights_of(updates))


def _target(model: Arrays, update: Update, name: str, exponent: float) -> NDArray[np.float64]:
    trained = update.arrays[name].astype(np.float64)
    if update.staleness == 0:
        return trained
    moved = trained - update.started_from[name].astype(np.float64)
    return np.asarray(model[name].astype(np.float64) + staleness_weight(update.staleness, exponent) * moved)
