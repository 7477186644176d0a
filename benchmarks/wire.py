"""A client that costs next to nothing: HTTP/1.1 on connections that are kept, parsed only as far as the measurements need.

A full client needs several times the server's CPU, and on a machine with two cores it would measure itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

END = b"\r\n\r\n"
LAST_CHUNK = b"\r\n0\r\n\r\n"


class Answer(NamedTuple):
    """A status and what came after the head; of a stream with the marks of its chunks."""

    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._waiting: asyncio.Future[Answer] | None = None
        self._arrived: Callable[[bytes, int], None] | None = None

    @classmethod
    async def open(cls, host: str, port: int) -> Connection:
        """Connect."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """The server has hung up, which it never should during a measurement."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionError("the server hung up"))

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer."""
        if self._arrived is not None:
            self._arrived(data, time.monotonic_ns())
        self._buffer = data if not self._buffer else self._buffer + data
        head, mark, body = self._buffer.partition(END)
        if not mark or self._waiting is None:
            return
        at = head.find(b"content-length: ")
        if at >= 0:
            length = int(head[at + 16 :].split(b"\r", 1)[0])
            if len(body) < length:
                return
        elif not self._buffer.endswith(LAST_CHUNK):
            return
        waiting, self._waiting, self._buffer, self._arrived = self._waiting, None, b"", None
        waiting.set_result(Answer(int(head[9:12]), body))

    async def ask(
        self, method: str, path: str, body: bytes = b"", arrived: Callable[[bytes, int], None] | None = None
    ) -> Answer:
        """Send a request and wait for the whole answer.

        Args:
            arrived: told of every piece when it arrives, and of the moment in monotonic nanoseconds.
        """
        assert self._transport is not None
        self._waiting = asyncio.get_running_loop().create_future()
        self._arrived = arrived
        head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)
        return await self._waiting

    def close(self) -> None:
        """Hang up."""
        self._waiting = None
        if self._transport is not None:
            self._transport.close()
