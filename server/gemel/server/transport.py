"""How the coordinator reaches nodes; Flower is one way, a test in one process is another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gemel.core.messages import Envelope


@dataclass(frozen=True)
class Answer:
    """What came back from a node: an envelope, or None when the transport says that the node is away."""

    node_id: int
    envelope: Envelope | None


class Transport(ABC):
    """Send without waiting, receive what has come. Sending anew to a node voids what it was sent before."""

    @abstractmethod
    def nodes(self) -> frozenset[int]:
        """The nodes that are connected now."""

    @abstractmethod
    def send(self, envelopes: Mapping[int, Envelope]) -> None:
        """Send one envelope to each node."""

    @abstractmethod
    def receive(self) -> Sequence[Answer]:
        """Answers since the last call, at most one for each envelope sent."""
