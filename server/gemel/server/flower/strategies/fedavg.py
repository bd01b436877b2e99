"""FedAvg: the mean of the hospitals' parameters, by their released counts. Source: McMahan et al., AISTATS 2017."""

from __future__ import annotations

from collections.abc import Sequence

from gemel.core.arrays import Arrays
from gemel.server.flower.strategies.buffered import mean_target
from gemel.server.strategy import Strategy, Update


class FedAvg(Strategy):
    """Remembers nothing."""

    def aggregate(self, model: Arrays, updates: Sequence[Update], state: Arrays) -> tuple[Arrays, Arrays]:
        """See `Strategy.aggregate`."""
        return mean_target(model, updates, exponent=self.study.pace.staleness_exponent), state


STRATEGY = FedAvg
