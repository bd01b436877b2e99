"""Holds a question that has no answer yet, instead of being asked again and again.

Nodes, ServerApps and the run starter all ask the SuperLink for news in fixed intervals: short ones load it, long ones make
every round wait. A caller that says (in headers) which state it saw last, and how long it can wait, is let through when
something of its kind was pushed since, or its time is over. Only the time of the question changes, never the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

WAIT_HEADER, SEEN_HEADER = b"gemel-wait", b"gemel-seen"
LONGEST_WAIT_S = 25.0
MOST_WAITING = 2000
# What is asked -> what makes it worth asking again.
NEWS_FOR = {
    "/v1/fleet/pull-messages": "/v1/runtime/push-messages",
    "/v1/runtime/pull-messages": "/v1/fleet/push-messages",
    "/v1/runtime/acquire-task": "/v1/control/start-run",
}

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class HoldUntilNews:
    """ASGI middleware around a SuperLink. Its numbers live in memory: after a restart every caller is let through once."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._pushed = dict.fromkeys(NEWS_FOR.values(), 0)
        self._changed = {path: asyncio.Event() for path in NEWS_FOR.values()}
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, at once or when there is news for it."""
        path = scope.get("path", "")
        if path in self._pushed:
            try:
                await self._app(scope, receive, send)
            finally:
                self._pushed[path] += 1
                changed, self._changed[path] = self._changed[path], asyncio.Event()
                changed.set()
            return
        news = NEWS_FOR.get(path)
        if news is None:
            await self._app(scope, receive, send)
            return
        await self._hold(scope, news)
        # Read before the answer is made: what is pushed meanwhile is news to the caller.
        seen = str(self._pushed[news]).encode()

        async def send_with_number(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (SEEN_HEADER, seen)]
            await send(message)

        await self._app(scope, receive, send_with_number)

    async def _hold(self, scope: Scope, news: str) -> None:
        headers = dict(scope.get("headers", ()))
        wait_s = _seconds(headers.get(WAIT_HEADER, b""))
        if headers.get(SEEN_HEADER) != str(self._pushed[news]).encode() or not wait_s:
            return
        if self._waiting >= MOST_WAITING:
            return
        self._waiting += 1
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed[news].wait(), wait_s)
        finally:
            self._waiting -= 1


class OnlyFor:
    """ASGI middleware that sends requests around another one, which would do nothing with them, at a tenth of a millisecond.

    Args:
        app: What comes after both.
        middleware: The other one, made from `app`.
        prefix: The paths that do go through it.
    """

    def __init__(self, app: App, *, middleware: Callable[[App], App], prefix: str) -> None:
        self._around, self._through, self._prefix = app, middleware(app), prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, through the other one or around it."""
        wanted = scope.get("path", "").startswith(self._prefix) or scope["type"] != "http"
        await (self._through if wanted else self._around)(scope, receive, send)


def _seconds(text: bytes) -> float:
    try:
        seconds = float(text)
    except ValueError:
        return 0.0
    return min(seconds, LONGEST_WAIT_S) if seconds > 0 else 0.0
