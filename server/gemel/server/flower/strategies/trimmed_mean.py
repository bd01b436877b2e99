"""The mean of each value without its smallest and largest. Source: Yin et al., ICML 2018."""

from __future__ import annotations

from gemel.server.flower.robust import RobustStrategy


class TrimmedMean(RobustStrategy):
    """Remembers nothing, and ignores weights."""


STRATEGY = TrimmedMean
