"""Many virtual nodes in one process: a Flower Grid that hands each message to a ClientApp, one after another.

The ServerApp and the ClientApp are the ones that run in a federation; what is left out is the SuperLink, the network and
the isolation of one hospital from another. For experiments only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from gemel.core.errors import GemelError

ClientCall = Callable[[Message, Context], Message]
# So long the nodes work before what they answered is handed over: the coordinator need not hold a thousand replies.
BATCH_S = 2.0
_RUN = _TASK = 1


class InProcessGrid(Grid):
    """A Grid over virtual nodes, numbered from 1. It loses nothing.

    Args:
        client: What answers a message, as a ClientApp does; the context names the node.
        nodes: How many.
        clock: Seconds, for `BATCH_S`.

    A message is answered when its reply is pulled, so a message that was sent anew, and whose old id nobody asks for, is
    never answered twice. An exception of the client becomes Flower's error reply, without its text.
    """

    loses_messages = False

    def __init__(
        self, client: ClientCall, nodes: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        # Flower fills in a message's sender from this; outside a task it is unset.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = _RUN, _RUN, _TASK
        self._client, self._clock = client, clock
        self._contexts = {
            node: Context(run_id=_RUN, node_id=node, node_config={}, state=RecordDict(), run_config={})
            for node in range(1, nodes + 1)
        }
        self._waiting: dict[str, Message] = {}
        self._run = Run.create_empty(_RUN)
        self._sent = 0

    def set_run(self, run: Run) -> None:
        """Set the run that the grid belongs to."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that the grid belongs to."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to a node."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Every node: a virtual one is never away."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages; returns their ids."""
        ids = []
        for message in messages:
            self._sent += 1
            identity = f"virtual-{self._sent}"
            message.metadata.__dict__["_message_id"] = identity  # the SuperLink's part
            self._waiting[identity] = message
            ids.append(identity)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to some of these messages: those that `BATCH_S` of work brought, at least one if any is open."""
        replies: list[Message] = []
        until = self._clock() + BATCH_S
        for identity in message_ids:
            message = self._waiting.pop(identity, None)
            if message is None:
                continue
            replies.append(self._answer(message))
            if self._clock() >= until:
                break
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push messages and pull every reply, or those that came within `timeout` seconds."""
        ids = list(self.push_messages(messages))
        until = None if timeout is None else self._clock() + timeout
        replies: list[Message] = []
        while any(identity in self._waiting for identity in ids):
            if until is not None and self._clock() >= until:
                break
            replies.extend(self.pull_messages(ids))
        return replies

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        if node not in self._contexts:
            raise GemelError("GEM502", f"There is no virtual node {node}.")
        try:
            return self._client(message, self._contexts[node])
        except Exception as error:  # as Flower does with a ClientApp that raises, but without the text
            return Message(Error(code=0, reason=type(error).__name__), reply_to=message)
