"""Replies of a run's nodes, pulled beside one another: one that is slow to come keeps no other waiting.

Flower's grid pulls reply after reply, and a reply is visible before what it holds was uploaded: a node that is cut off in
the middle of an upload, or that announces what it never sends, would hold up the coordinator for minutes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from flwr.app import Message
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.serverapp import Grid

# For so long all replies that were announced together are waited for: most are there in milliseconds.
PATIENCE_S = 1.0
SHORT_S = 0.05
MOST_AT_ONCE = 32


class Replies:
    """What a grid's messages were answered.

    Args:
        grid: Flower's, of a running ServerApp. One without a connection (virtual nodes in this process) is asked as it is.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid: Any = grid
        self._client: Any = getattr(grid, "_runtime_client", None)
        self._under_way: dict[str, Future[Sequence[Message]]] = {}
        self._threads = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="reply")

    def pull(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that are here whole, to any of these messages; one that is still under way comes at a later call."""
        if self._client is None:
            return list(self._grid.pull_messages(message_ids))
        announced = self._announced([each for each in message_ids if each not in self._under_way])
        if announced:
            wait(announced, timeout=PATIENCE_S)
        elif self._under_way:
            wait(self._under_way.values(), timeout=SHORT_S)
        done = [message for message, future in self._under_way.items() if future.done()]
        return [reply for message in done for reply in self._under_way.pop(message).result()]

    def _announced(self, message_ids: list[str]) -> list[Future[Sequence[Message]]]:
        """Ask for the heads of new replies, and begin to pull what they hold."""
        if not message_ids:
            return []
        response = self._client.PullMessages(PullAppMessagesRequest(message_ids=message_ids))
        begun = []
        for head, tree in zip(response.messages_list, response.message_object_trees, strict=True):
            one = PullAppMessagesResponse(messages_list=[head], message_object_trees=[tree])
            future = self._threads.submit(_Only.of(self._grid, self._client, one).pull_messages, [])
            self._under_way[head.metadata.reply_to_message_id] = future
            begun.append(future)
        return begun


class _Only:
    """A client to which one reply has been announced, and no other."""

    def __init__(self, client: Any, response: PullAppMessagesResponse) -> None:
        self._client, self._response = client, response

    @classmethod
    def of(cls, grid: Any, client: Any, response: PullAppMessagesResponse) -> Any:
        """A grid that differs from `grid` in this alone."""
        made = copy.copy(grid)
        made._client = cls(client, response)
        return made

    def PullMessages(self, _request: PullAppMessagesRequest) -> PullAppMessagesResponse:
        """What was announced."""
        return self._response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)
