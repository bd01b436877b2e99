"""Krum: the one update that lies closest to its neighbours. Source: Blanchard et al., NeurIPS 2017."""

from __future__ import annotations

from gemel.server.flower.robust import RobustStrategy


class Krum(RobustStrategy):
    """Remembers nothing, and ignores weights."""


STRATEGY = Krum
