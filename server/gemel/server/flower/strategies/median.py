"""The median of each value. Source: Yin et al., ICML 2018."""

from __future__ import annotations

from gemel.server.flower.robust import RobustStrategy


class Median(RobustStrategy):
    """Remembers nothing, and ignores weights."""


STRATEGY = Median
