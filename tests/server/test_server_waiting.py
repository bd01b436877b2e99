"""Questions that are held until there is news: what wakes them, what does not, and that answers stay as they are."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from gemel.server.flower import waiting
from gemel.server.flower.waiting import HoldUntilNews, OnlyFor

PULL, PUSH = "/v1/fleet/pull-messages", "/v1/runtime/push-messages"


async def _answer(scope: Any, _receive: Any, send: Any) -> None:
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"x-path", scope["path"].encode())]}
    )
    await send({"type": "http.response.body", "body": b"answer"})


async def _ask(app: Any, path: str, **headers: str) -> tuple[dict[bytes, bytes], float]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    started = time.monotonic()
    await app({"type": "http", "path": path, "headers": given}, None, send)
    assert sent[1]["body"] == b"answer"
    return dict(sent[0]["headers"]), time.monotonic() - started


def test_a_question_is_held_until_something_is_pushed() -> None:
    async def talk() -> None:
        app = HoldUntilNews(_answer)
        headers, seconds = await _ask(app, PULL)
        assert seconds < 0.5
        seen = headers[b"gemel-seen"].decode()
        asked = asyncio.create_task(_ask(app, PULL, gemel_wait="10", gemel_seen=seen))
        await asyncio.sleep(0.2)
        assert not asked.done()
        await _ask(app, PUSH)
        headers, seconds = await asyncio.wait_for(asked, 2)
        assert 0.15 < seconds < 2
        assert headers[b"gemel-seen"].decode() != seen
        assert headers[b"x-path"] == PULL.encode()

    asyncio.run(talk())


def test_what_was_pushed_between_two_questions_lets_the_second_through_at_once() -> None:
    async def talk() -> None:
        app = HoldUntilNews(_answer)
        headers, _ = await _ask(app, PULL)
        await _ask(app, PUSH)
        seen = headers[b"gemel-seen"].decode()
        _, seconds = await _ask(app, PULL, gemel_wait="10", gemel_seen=seen)
        assert seconds < 0.5

    asyncio.run(talk())


def test_news_of_another_kind_wakes_nobody_and_time_runs_out() -> None:
    async def talk() -> None:
        app = HoldUntilNews(_answer)
        headers, _ = await _ask(app, PULL)
        seen = headers[b"gemel-seen"].decode()
        asked = asyncio.create_task(_ask(app, PULL, gemel_wait="0.4", gemel_seen=seen))
        await asyncio.sleep(0.1)
        await _ask(app, "/v1/fleet/push-messages")
        _, seconds = await asked
        assert seconds > 0.35

    asyncio.run(talk())


def test_a_number_of_another_life_or_nonsense_is_not_held() -> None:
    async def talk() -> None:
        app = HoldUntilNews(_answer)
        for wait, seen in (("10", "77"), ("nan", "0"), ("-1", "0"), ("x", "0"), ("", "0"), ("inf", "1")):
            _, seconds = await asyncio.wait_for(_ask(app, PULL, gemel_wait=wait, gemel_seen=seen), 1)
            assert seconds < 0.5, (wait, seen)

    asyncio.run(talk())


def test_no_more_are_held_than_allowed_and_none_for_longer(monkeypatch: Any) -> None:
    monkeypatch.setattr(waiting, "MOST_WAITING", 2)
    monkeypatch.setattr(waiting, "LONGEST_WAIT_S", 0.3)

    async def talk() -> None:
        app = HoldUntilNews(_answer)
        asked = [asyncio.create_task(_ask(app, PULL, gemel_wait="1000", gemel_seen="0")) for _ in range(3)]
        seconds = sorted(took for _, took in await asyncio.wait_for(asyncio.gather(*asked), 2))
        assert seconds[0] < 0.2
        assert 0.2 < seconds[1] < 1.0

    asyncio.run(talk())


def test_other_requests_pass_without_a_header_of_ours() -> None:
    async def talk() -> None:
        headers, _ = await _ask(HoldUntilNews(_answer), "/v1/fleet/activate-node")
        assert b"gemel-seen" not in headers

    asyncio.run(talk())


def test_middleware_of_one_kind_of_paths_sees_those_and_no_others() -> None:
    seen: list[str] = []

    def watch(app: Any) -> Any:
        async def watched(scope: Any, receive: Any, send: Any) -> None:
            seen.append(scope["path"])
            await app(scope, receive, send)

        return watched

    async def talk() -> None:
        app = OnlyFor(_answer, middleware=watch, prefix="/v1/control/")
        for path in ("/v1/control/start-run", PULL, "/v1/controlled", "/v1/control/list-runs"):
            await _ask(app, path)

    asyncio.run(talk())
    assert seen == ["/v1/control/start-run", "/v1/control/list-runs"]
