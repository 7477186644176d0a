"""The HTTP connection, without a network: how much it takes in."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode

from smithers.asgi.protocol import guarded_protocol
from smithers.asgi.sockets import SocketProtocol

REQUEST = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"


class FakeTransport(asyncio.Transport):
    """Takes everything."""

    def __init__(self) -> None:
        super().__init__()
        self.is_paused = False
        self.written = b""

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def close(self) -> None:
        """Nothing."""

    def is_closing(self) -> bool:
        return False


def test_nothing_more_is_read_before_the_last_of_the_requests_that_are_there_has_its_turn() -> None:
    async def use() -> None:
        turns: asyncio.Queue[None] = asyncio.Queue()
        begun: asyncio.Queue[None] = asyncio.Queue()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            begun.put_nowait(None)
            await turns.get()
            await PlainTextResponse("ok")(scope, receive, send)

        config = uvicorn.Config(app, http=guarded_protocol(30, 60), ws="none", lifespan="off", log_config=None)
        config.load()
        made: Any = config.http_protocol_class
        transport = FakeTransport()
        connection = made(config=config, server_state=ServerState(), app_state={})
        connection.connection_made(transport)
        connection.data_received(REQUEST * 3)
        seen: list[bool] = []
        for _ in range(3):
            await begun.get()
            seen.append(transport.is_paused)
            turns.put_nowait(None)
        while transport.written.count(b"200 OK") < 3:  # noqa: ASYNC110 - a turn of the loop is all that it takes
            await asyncio.sleep(0)
        connection.connection_lost(None)
        assert seen == [True, True, False]
        assert not transport.is_paused

    asyncio.run(use())


def test_parts_of_a_message_that_hold_nothing_are_not_kept() -> None:
    connection = SocketProtocol.__new__(SocketProtocol)
    connection.frames = [b"x"]
    for data in (b"", b"y", b""):
        connection.handle_cont(Frame(Opcode.CONT, data, fin=False))
    assert connection.frames == [b"x", b"y"]
