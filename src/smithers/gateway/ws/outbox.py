"""Outbox: what a connection has to send, bounded. It passes through while the peer reads, waits while it does not, and gives
the connection up when too much waits.

What is put in during one turn of the event loop leaves with one write.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from smithers.asgi.sockets import Wire

MAX_BYTES: Final = 33_554_432
"""How much may wait for a peer that does not read."""
CHUNK_BYTES: Final = 262_144
"""How much is written at once, before looking again whether the peer reads."""


class Outbox:
    """The frames of one connection, in order. Belongs to one event loop.

    Args:
        on_overflow: told, once, that the peer does not read; everything that waited is gone then.
    """

    def __init__(self, wire: Wire, on_overflow: Callable[[], None]) -> None:
        self._wire = wire
        self._on_overflow = on_overflow
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._is_planned = False
        self._is_closed = False
        self._loop = asyncio.get_running_loop()
        self._emptied: asyncio.Future[None] | None = None
        self.sent = 0
        """How many frames were written."""
        wire.on_writable = self._flush

    @property
    def pending_bytes(self) -> int:
        """How much is put in and not sent yet."""
        return self._bytes + self._wire.buffered_bytes

    def put(self, frame: bytes) -> None:
        """Send a frame after all others; nothing once the outbox is closed."""
        if self._is_closed:
            return
        self._queue.append(frame)
        self._bytes += len(frame)
        if self._bytes > MAX_BYTES:
            self.close()
            self._on_overflow()
        elif not self._is_planned:
            self._is_planned = True
            self._loop.call_soon(self._flush)

    def flush(self) -> None:
        """Write what waits, as far as the peer reads."""
        self._flush()

    async def drained(self, limit: int) -> None:
        """Until at most so many bytes wait, or nothing can be sent any more."""
        while self.pending_bytes > limit and not self._is_closed:
            if self._emptied is None:
                self._emptied = self._loop.create_future()
            await asyncio.wait([self._emptied], timeout=0.1)

    def close(self) -> None:
        """Forget what waits, and take nothing more."""
        self._is_closed = True
        self._queue.clear()
        self._bytes = 0
        self._wire.on_writable = None
        self._wake()

    def _flush(self) -> None:
        self._is_planned = False
        queue, wire = self._queue, self._wire
        while queue and wire.is_writable:
            chunk: list[bytes] = []
            size = 0
            while queue and size < CHUNK_BYTES:
                frame = queue.popleft()
                chunk.append(frame)
                size += len(frame)
            self._bytes -= size
            self.sent += len(chunk)
            wire.write(chunk)
        if not queue:
            self._wake()

    def _wake(self) -> None:
        if self._emptied is not None:
            if not self._emptied.done():
                self._emptied.set_result(None)
            self._emptied = None
