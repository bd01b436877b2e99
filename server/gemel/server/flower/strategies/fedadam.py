"""FedAdam: Flower's, with its state kept by the coordinator. Source: Reddi et al., ICLR 2021."""

from __future__ import annotations

from flwr.serverapp.strategy import FedAdam as FlowerFedAdam
from flwr.serverapp.strategy.fedopt import FedOpt

from gemel.server.flower.strategies.flower_optimiser import FlowerOptimiser


class FedAdam(FlowerOptimiser):
    """Remembers two moments and the number of rounds."""

    def flower(self) -> FedOpt:
        """See `FlowerOptimiser.flower`."""
        plan = self.study.strategy
        return FlowerFedAdam(
            eta=plan.server_learning_rate, beta_1=plan.beta_1, beta_2=plan.beta_2, tau=plan.tau
        )


STRATEGY = FedAdam
