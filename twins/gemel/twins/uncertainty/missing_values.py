"""What a missing value may be, by public numbers alone: draws from each feature's reference distribution.

A measured feature is normal with the programme's reference mean and scale within its public bounds; a flag is there with a stated
share: its reference mean where that lies between 0 and 1, else one half, which is the most uncertain. Features are drawn one by one, as
if nothing hung together, which makes an interval too wide rather than too narrow for what goes together in people. Nothing is fitted
on patients. The history of an outcome is not drawn: who has none recorded is at risk of it, as everywhere.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray
from scipy.stats import truncnorm

from gemel.core.programme import Feature, FeatureKind, Programme

Floats = NDArray[np.float64]
_FLAG_EDGES = (0.0, 0.5, 1.0)


def is_flag(feature: Feature) -> bool:
    """Whether it is 1 or 0."""
    if feature.kind in (FeatureKind.MALE, FeatureKind.PRESENT):
        return True
    return (feature.low, feature.high, feature.unit, tuple(feature.bin_edges)) == (0, 1, "1", _FLAG_EDGES)


def reference_share(feature: Feature) -> float:
    """Of a flag: the public share of people who have it."""
    return feature.reference_mean if 0 < feature.reference_mean < 1 else 0.5


def drawn_columns(programme: Programme) -> NDArray[np.bool_]:
    """bool (d,): the features that are drawn where they are missing."""
    histories = [set(outcome.concepts) for outcome in programme.outcomes]
    return np.array(
        [f.kind is not FeatureKind.PRESENT or set(f.concepts) not in histories for f in programme.columns],
        dtype=np.bool_,
    )


def completions(programme: Programme, values: NDArray[np.floating], *, draws: int, seed: int) -> Floats:
    """(n, draws, d): raw values (n, d) with what is missing drawn `draws` times; what is known stays.

    Draws are spread evenly over each feature's distribution, in an order of their own for each patient and feature, which hangs on
    the seed and the feature's name alone: who lacks one feature more keeps the draws of the others.
    """
    found = np.repeat(np.asarray(values, np.float64)[:, None, :], draws, axis=1)
    drawn = drawn_columns(programme)
    for i, feature in enumerate(programme.columns):
        rows = np.flatnonzero(~np.isfinite(values[:, i]))
        if not drawn[i] or not len(rows):
            continue
        random = np.random.default_rng([seed, zlib.crc32(feature.name.encode())])
        # Every patient's part is drawn, so that it does not hang on who else lacks the feature.
        order = random.random((len(values), draws))[rows].argsort(axis=1)
        found[rows, :, i] = _quantile(feature, (order + random.random((len(values), 1))[rows]) / draws)
    return found


def _quantile(feature: Feature, place: Floats) -> Floats:
    if is_flag(feature):
        return np.asarray(place < reference_share(feature), np.float64)
    low, high = ((bound - feature.reference_mean) / feature.scale for bound in (feature.low, feature.high))
    drawn = truncnorm.ppf(np.clip(place, 1e-9, 1 - 1e-9), low, high, feature.reference_mean, feature.scale)
    whole = feature.kind in (FeatureKind.COUNT, FeatureKind.TIME_SINCE)
    return np.asarray(np.clip(np.round(drawn) if whole else drawn, feature.low, feature.high), np.float64)
