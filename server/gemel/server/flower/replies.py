"""Replies of a run's nodes, pulled beside one another: one that is slow to come keeps no other waiting.

Flower's grid pulls reply after reply, and a reply is visible before what it holds was uploaded: a node that is cut off in
the middle of an upload, or that announces what it never sends, would hold up the coordinator for minutes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from flwr.app import Message
from flwr.serverapp import Grid

from gemel.server.flower.internals import announced_replies, is_connected

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
        self._grid = grid
        self._under_way: dict[str, Future[Sequence[Message]]] = {}
        self._threads = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="reply")

    def pull(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that are here whole, to any of these messages; one that is still under way comes at a later call."""
        if not is_connected(self._grid):
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
        begun = []
        for message_id, pull in announced_replies(self._grid, message_ids):
            self._under_way[message_id] = future = self._threads.submit(pull)
            begun.append(future)
        return begun
