"""The embedded server: it sleeps when nobody asks anything, and its answers carry the time of their own moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from email.utils import formatdate
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from smithers.asgi.drain import Drain
from smithers.asgi.embed import bind, serve


class App:
    """Answers everything with nothing."""

    def __init__(self) -> None:
        self.drain = Drain()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def _ask(port: int) -> dict[str, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    return dict(line.split(": ", 1) for line in text.splitlines()[1:] if line)


@pytest.fixture
def loop() -> Generator[asyncio.AbstractEventLoop]:
    found = asyncio.new_event_loop()
    yield found
    found.close()


def test_a_server_that_nobody_asks_sleeps(loop: asyncio.AbstractEventLoop) -> None:
    async def use() -> int:
        app: Any = App()
        listener, stop = bind("127.0.0.1", 0), asyncio.Event()
        serving = asyncio.create_task(serve(app, listener, stop))
        await _ask(listener.getsockname()[1])
        selector: Any = vars(loop)["_selector"]
        select: Callable[[float | None], object] = selector.select
        turns = 0

        def counted(timeout: float | None) -> object:
            nonlocal turns
            turns += 1
            return select(timeout)

        selector.select = counted
        await asyncio.sleep(0.55)  # what is measured is this time itself
        selector.select = select
        stop.set()
        await serving
        return turns

    assert loop.run_until_complete(use()) <= 3


def test_answers_carry_the_time_at_which_they_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_700_000_000.25]
    monkeypatch.setattr("smithers.asgi.embed.time.time", lambda: now[0])

    async def use() -> None:
        app: Any = App()
        listener, stop = bind("127.0.0.1", 0), asyncio.Event()
        serving = asyncio.create_task(serve(app, listener, stop))
        port = listener.getsockname()[1]
        for later in (0, 0.5, 3600):
            now[0] += later
            assert (await _ask(port))["date"] == formatdate(int(now[0]), usegmt=True)
        stop.set()
        await serving

    asyncio.run(use())


def test_a_server_that_is_stopped_before_it_begins_ends_at_once() -> None:
    async def use() -> None:
        app: Any = App()
        listener, stop = bind("127.0.0.1", 0), asyncio.Event()
        stop.set()
        async with asyncio.timeout(60):
            await serve(app, listener, stop)
        assert app.drain.is_started

    asyncio.run(use())
