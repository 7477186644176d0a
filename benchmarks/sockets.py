"""A gateway's client that costs next to nothing: WebSocket frames, parsed only as far as the measurements need."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable

END = b"\r\n\r\n"
TEXT = 0x81
LONG = 126
VERY_LONG = 127
RESPONSE = b'{"type":"res","id":"'

OnEvent = Callable[[bytes, int], None]


class Socket(asyncio.Protocol):
    """A connection that has said hello. Requests may be under way at once; events go to `on_event`.

    Args:
        on_event: told of each event frame, and of the moment of its arrival in monotonic nanoseconds.
    """

    def __init__(self, host: str, on_event: OnEvent | None) -> None:
        self.on_event = on_event
        self._host = host
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._is_upgraded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting: dict[bytes, asyncio.Future[bytes]] = {}
        self._number = 0

    @classmethod
    async def open(cls, host: str, port: int, on_event: OnEvent | None = None) -> Socket:
        """Connect, and say hello."""
        _, socket = await asyncio.get_running_loop().create_connection(lambda: cls(host, on_event), host, port)
        await socket._is_upgraded
        await socket.ask("connect", {"minProtocol": 1, "maxProtocol": 1, "client": {"id": "benchmark"}})
        return socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        key = base64.b64encode(bytes(16)).decode()
        transport.write(
            f"GET / HTTP/1.1\r\nHost: {self._host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """The gateway has hung up, which it never should during a measurement."""
        error = ConnectionError("the gateway hung up")
        if not self._is_upgraded.done():
            self._is_upgraded.set_exception(error)
        for waiting in self._waiting.values():
            waiting.set_exception(error)

    def data_received(self, data: bytes) -> None:
        """Bytes: the answer to the upgrade, then frames."""
        now = time.monotonic_ns()
        if self._buffer:
            data = self._buffer + data
        if not self._is_upgraded.done():
            head, mark, data = data.partition(END)
            if not mark:
                self._buffer = head
                return
            assert head.startswith(b"HTTP/1.1 101"), head
            self._is_upgraded.set_result(None)
        at, end = 0, len(data)
        while end - at >= 2:
            size, begin = data[at + 1], at + 2
            if size == LONG:
                size, begin = int.from_bytes(data[begin : begin + 2], "big"), begin + 2
            elif size == VERY_LONG:
                size, begin = int.from_bytes(data[begin : begin + 8], "big"), begin + 8
            if begin + size > end:
                break
            if data[at] == TEXT:
                self._got(data[begin : begin + size], now)
            at = begin + size
        self._buffer = data[at:]

    def _got(self, frame: bytes, now: int) -> None:
        if frame.startswith(RESPONSE):
            number = frame[len(RESPONSE) : frame.index(b'"', len(RESPONSE))]
            self._waiting.pop(number).set_result(frame)
        elif self.on_event is not None:
            self.on_event(frame, now)

    async def ask(self, method: str, params: object) -> bytes:
        """Send a request; gives its response once it has arrived."""
        return await self.send(method, json.dumps(params))

    def send(self, method: str, params: str) -> asyncio.Future[bytes]:
        """Send a request with parameters as JSON text; the response can be waited for."""
        assert self._transport is not None
        self._number += 1
        frame = f'{{"type":"req","id":"{self._number}","method":"{method}","params":{params}}}'.encode()
        size = len(frame)
        length = bytes([0x80 | size]) if size < LONG else bytes([0x80 | LONG]) + size.to_bytes(2, "big")
        self._transport.write(bytes([TEXT]) + length + bytes(4) + frame)
        answer = self._waiting[b"%d" % self._number] = asyncio.get_running_loop().create_future()
        return answer

    def close(self) -> None:
        """Hang up."""
        self._waiting.clear()
        if self._transport is not None:
            self._transport.abort()
