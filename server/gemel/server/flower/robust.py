"""Averages that a few poisoned updates do not move: trimmed mean, median, Krum and multi-Krum, from Flower's strategies.

They need to see each update, so they do not go with masks; what protects an update then is its own noise. Each rule
ignores the sites' weights: a site could claim any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.server.strategy.aggregate import aggregate_median
from flwr.serverapp.strategy.fedtrimmedavg import trim_mean
from flwr.serverapp.strategy.multikrum import select_multikrum
from numpy.typing import NDArray

from gemel.core.arrays import Arrays
from gemel.core.errors import GemelError
from gemel.core.study import AggregationRule
from gemel.server.strategy import Strategy, Update

_KEY = "arrays"


class RobustStrategy(Strategy):
    """A robust rule as a strategy: which one the study says, in `aggregation.rule`."""

    def aggregate(self, model: Arrays, updates: Sequence[Update], state: Arrays) -> tuple[Arrays, Arrays]:
        """See `Strategy.aggregate`. Raises GEM501 with too few updates for so many poisoned ones."""
        plan = self.study.aggregation
        arrays = {update.site: update.arrays for update in updates}
        return robust_mean(arrays, plan.rule, malicious=plan.malicious), state


def least_updates(rule: AggregationRule, *, malicious: int) -> int:
    """How many updates a rule needs to withstand so many poisoned ones.

    Median and trimmed mean: a majority of honest ones. Krum: n >= 2f + 3 (Blanchard et al., NeurIPS 2017).
    """
    krum = rule in (AggregationRule.KRUM, AggregationRule.MULTI_KRUM)
    return 2 * malicious + (3 if krum else 1)


def robust_mean(
    updates: Mapping[str, Arrays], rule: AggregationRule, *, malicious: int
) -> dict[str, NDArray[np.float32]]:
    """One model from the sites' parameters by a robust rule.

    Args:
        updates: site -> parameters, equal names and shapes, all finite.
        rule: All but the mean.
        malicious: How many of the updates may be poisoned.

    Raises:
        GemelError: GEM501 with too few updates for so many poisoned ones, GEM303 for the mean, which withstands none.
    """
    if rule is AggregationRule.MEAN:
        raise GemelError("GEM303", "The mean is no robust rule.")
    least = least_updates(rule, malicious=malicious)
    if malicious < 0 or len(updates) < least:
        raise GemelError("GEM501", f"{rule} against {malicious} needs {least} updates, got {len(updates)}.")
    sites = sorted(updates)
    if rule is AggregationRule.MEDIAN:
        return _median(updates, sites)
    if rule is AggregationRule.TRIMMED_MEAN:
        return _trimmed_mean(updates, sites, cut=malicious)
    keep = 1 if rule is AggregationRule.KRUM else len(sites) - malicious
    return _mean(updates, _krum(updates, sites, malicious=malicious, keep=keep))


def _median(updates: Mapping[str, Arrays], sites: list[str]) -> dict[str, NDArray[np.float32]]:
    names = sorted(updates[sites[0]])
    results = [([_float64(updates[site][name]) for name in names], 1) for site in sites]
    medians = aggregate_median(results)
    return {name: np.asarray(median, np.float32) for name, median in zip(names, medians, strict=True)}


def _trimmed_mean(
    updates: Mapping[str, Arrays], sites: list[str], *, cut: int
) -> dict[str, NDArray[np.float32]]:
    """The mean of each value without its `cut` smallest and largest."""
    # Flower takes a fraction below 1/2 and rounds n·fraction down: half a site more survives the rounding.
    fraction = min((cut + 0.5) / len(sites), 0.5 - 1e-9)
    return {
        name: np.asarray(
            trim_mean(np.stack([_float64(updates[site][name]) for site in sites]), fraction), np.float32
        )
        for name in updates[sites[0]]
    }


def _krum(updates: Mapping[str, Arrays], sites: list[str], *, malicious: int, keep: int) -> list[str]:
    """The `keep` sites whose updates lie closest to their neighbours'.

    Flower finds squared distances as |x|² + |y|² - 2xy, which loses near updates that are far from zero: it is given
    float64 differences from the median, which have the same distances.
    """
    centre = _median(updates, sites)
    contents, site_of = [], {}
    for site in sites:
        record = ArrayRecord(
            {name: Array(_float64(updates[site][name]) - centre[name]) for name in sorted(centre)}
        )
        content = RecordDict({_KEY: record})
        contents.append(content)
        site_of[id(content)] = site
    chosen = select_multikrum(contents, num_malicious_nodes=malicious, num_nodes_to_select=keep)
    return [site_of[id(content)] for content in chosen]


def _mean(updates: Mapping[str, Arrays], sites: list[str]) -> dict[str, NDArray[np.float32]]:
    ordered = sorted(sites)
    return {
        name: np.asarray(np.mean([_float64(updates[site][name]) for site in ordered], axis=0), np.float32)
        for name in updates[ordered[0]]
    }


def _float64(array: NDArray[np.generic]) -> NDArray[np.float64]:
    return array.astype(np.float64)
