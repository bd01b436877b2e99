"""How the coordinator reaches nodes; Flower is one way, a test in one process is another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gemel.core.messages import Envelope


@dataclass(frozen=True)
class Answer:
    """What came back from a node: an envelope, or None when the transport says that its newest message failed."""

    node_id: int
    envelope: Envelope | None


class Transport(ABC):
    """Send without waiting, receive what has come, late answers to earlier messages too.

    A transport vouches for nothing: whose an answer is and to what is read from its signed document.

    `loses_messages`: whether one may be lost on its way without anybody's notice, so that who is silent is asked again.
    """

    loses_messages = True

    @abstractmethod
    def nodes(self) -> frozenset[int]:
        """The nodes that are connected now."""

    @abstractmethod
    def send(self, envelopes: Mapping[int, Envelope]) -> None:
        """Send one envelope to each node."""

    @abstractmethod
    def receive(self) -> Sequence[Answer]:
        """Answers since the last call, in any order."""
