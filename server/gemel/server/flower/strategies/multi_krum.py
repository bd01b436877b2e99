"""Multi-Krum: the mean of the updates that lie closest to their neighbours. Source: Blanchard et al., NeurIPS 2017."""

from __future__ import annotations

from gemel.server.flower.robust import RobustStrategy


class MultiKrum(RobustStrategy):
    """Remembers nothing, and ignores weights."""


STRATEGY = MultiKrum
