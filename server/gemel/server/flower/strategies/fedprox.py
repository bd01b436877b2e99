"""FedProx: at the coordinator, FedAvg; at each hospital every step is pulled to the global twin.

The pull, mu · (w - w_global), is part of the study and is done by `gemel.privacy.engine.pull`. Source: Li et al., MLSys 2020.
"""

from __future__ import annotations

from gemel.server.flower.strategies.fedavg import FedAvg


class FedProx(FedAvg):
    """Remembers nothing."""


STRATEGY = FedProx
