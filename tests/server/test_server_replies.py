"""Replies that are pulled beside one another: a slow one keeps no other waiting. Flower's own grid, a client that is slow."""

from __future__ import annotations

import threading
import time
from typing import Any

from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.superlink.grid.http_grid import HttpGrid

from gemel.server.flower.replies import PATIENCE_S, Replies


class SlowGrid(HttpGrid):
    """Flower's grid; what a reply holds comes when it is let go."""

    def __init__(self, gates: dict[str, threading.Event]) -> None:
        super().__init__(token="a test's")
        self.gates = gates
        self._client: Any = Announcing(gates)

    def pull_messages(self, message_ids: Any) -> Any:
        (head,) = self._client.PullMessages(None).messages_list
        self.gates[head.metadata.reply_to_message_id].wait(30)
        return [head]


class Announcing:
    """The SuperLink's client: announces each reply once."""

    def __init__(self, gates: dict[str, threading.Event]) -> None:
        self.gates, self.told = gates, set[str]()

    def PullMessages(self, request: Any) -> PullAppMessagesResponse:
        response = PullAppMessagesResponse()
        for each in request.message_ids:
            assert each not in self.told, "a reply that is under way is not asked for again"
            self.told.add(each)
            response.messages_list.add().metadata.reply_to_message_id = each
            response.message_object_trees.add()
        return response


def test_a_reply_whose_upload_hangs_keeps_no_other_waiting() -> None:
    gates = {"slow": threading.Event(), "quick": threading.Event()}
    gates["quick"].set()
    replies = Replies(SlowGrid(gates))
    started = time.monotonic()
    first = replies.pull(list(gates))
    assert time.monotonic() - started < PATIENCE_S + 1
    assert [reply.metadata.reply_to_message_id for reply in first] == ["quick"]
    started = time.monotonic()
    assert replies.pull(["slow"]) == []
    assert time.monotonic() - started < 1
    gates["slow"].set()
    deadline, late = time.monotonic() + 10, list[Any]()
    while not late and time.monotonic() < deadline:
        late = replies.pull(["slow"])
    assert [reply.metadata.reply_to_message_id for reply in late] == ["slow"]


def test_a_grid_without_a_connection_is_asked_as_it_is() -> None:
    class InProcess:
        def pull_messages(self, message_ids: list[str]) -> list[str]:
            return [f"to {each}" for each in message_ids]

    assert Replies(InProcess()).pull(["a", "b"]) == ["to a", "to b"]  # type: ignore[arg-type]
