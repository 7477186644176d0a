"""What our servers log of requests: addresses without credentials, at every level, and for WebSockets as for HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from contextlib import nullcontext
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from smithers.asgi.drain import Drain
from smithers.asgi.embed import bind, serve

SECRET = "Q7ZXJq9Q7ZXJq9"
PATH = f"/live?token={SECRET}&to%6ben={SECRET}&api_key={SECRET}&page=2"
HIDDEN = "/live?token=[redacted]&to%6ben=[redacted]&api_key=[redacted]&page=2"


class App:
    """Accepts sockets or refuses them, and answers everything else."""

    def __init__(self, how: str) -> None:
        self.drain = Drain()
        self._how = how

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" or self._how == "answer":
            kind = "http" if scope["type"] == "http" else "websocket.http"
            await send({"type": f"{kind}.response.start", "status": 401, "headers": []})
            await send({"type": f"{kind}.response.body", "body": b""})
        elif self._how == "close":
            await receive()
            await send({"type": "websocket.close"})
        else:
            await receive()
            await send({"type": "websocket.accept"})
            await receive()


@pytest.fixture
def uvicorn_logs(caplog: pytest.LogCaptureFixture) -> Generator[pytest.LogCaptureFixture]:
    """As in a program that logs everything, also what uvicorn was told not to log."""
    loggers = [logging.getLogger(name) for name in ("uvicorn", "uvicorn.access")]
    before = [(each.handlers[:], each.propagate, each.level) for each in loggers]
    caplog.set_level(1)
    caplog.set_level(1, "uvicorn.access")
    yield caplog
    for each, (handlers, propagate, level) in zip(loggers, before, strict=True):
        each.handlers, each.propagate = handlers, propagate
        each.setLevel(level)


async def _served(how: str, caplog: pytest.LogCaptureFixture) -> None:
    app: Any = App(how)
    listener, stop = bind("127.0.0.1", 0), asyncio.Event()
    serving = asyncio.create_task(serve(app, listener, stop, max_message_bytes=1_000))
    await asyncio.sleep(0)  # now the server has set its loggers; the program sets them again
    logging.getLogger("uvicorn.access").addHandler(caplog.handler)
    port = listener.getsockname()[1]
    try:
        if how == "http":
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {PATH} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
            assert b"401" in await reader.read()
            writer.close()
        else:
            with nullcontext() if how == "accept" else pytest.raises(InvalidStatus):
                async with connect(f"ws://127.0.0.1:{port}{PATH}", proxy=None):
                    pass
    finally:
        stop.set()
        await serving


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("accept", f'"WebSocket {HIDDEN}" [accepted]'),
        ("close", f'"WebSocket {HIDDEN}" 403'),
        ("answer", f'"WebSocket {HIDDEN}" 401'),
        ("http", f'"GET {HIDDEN} HTTP/1.1" 401'),
    ],
)
def test_an_address_is_logged_without_its_credentials(
    how: str, line: str, uvicorn_logs: pytest.LogCaptureFixture
) -> None:
    asyncio.run(_served(how, uvicorn_logs))
    ours = [r for r in uvicorn_logs.records if not r.name.startswith("websockets")]  # those are the client's
    told = [r.getMessage() for r in ours if r.name.startswith("uvicorn")]
    assert any(line in text for text in told), told
    assert SECRET not in "\n".join(f"{r.getMessage()} {r.__dict__}" for r in ours)
