"""Wire: the sending side of a connection under a server that has ASGI's way only."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import cast

from starlette.types import Scope, Send

from smithers.asgi.sockets import CLOSE_S, EXTENSION, Wire

GOING_AWAY = 1001


class AsgiWire:
    """Writes one message after the other, each when the server has taken the one before.

    Args:
        hang_up: ends the app's call, which is all that ASGI has for an abort.
    """

    def __init__(self, send: Send, hang_up: Callable[[], None]) -> None:
        self.on_writable: Callable[[], None] | None = None
        self._send = send
        self._hang_up = hang_up
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._closing: tuple[int, str] | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_over = False

    @property
    def is_writable(self) -> bool:
        """See `Wire`."""
        return self._task is None

    @property
    def buffered_bytes(self) -> int:
        """See `Wire`."""
        return self._bytes

    def write(self, messages: Iterable[bytes]) -> None:
        """See `Wire`."""
        if self._is_over or self._closing is not None:
            return
        for data in messages:
            self._queue.append(data)
            self._bytes += len(data)
        self._begin()

    def close(self, code: int | None = None, reason: str = "") -> None:
        """See `Wire`. ASGI closes with a code always, so without one it says that the server goes away."""
        if self._closing is None and not self._is_over:
            self._closing = (code or GOING_AWAY, reason)
            asyncio.get_running_loop().call_later(CLOSE_S, self.abort)
            self._begin()

    def abort(self) -> None:
        """See `Wire`."""
        if not self._is_over:
            self._is_over = True
            if self._task is not None:
                self._task.cancel()
            self._hang_up()

    def end(self) -> None:
        """The app's call is over."""
        self._is_over = True
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        try:
            while self._queue:
                data = self._queue.popleft()
                await self._send({"type": "websocket.send", "text": data.decode()})
                self._bytes -= len(data)
            if self._closing is not None:
                code, reason = self._closing
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
                self.abort()
        except OSError:  # the client is gone; receiving says so, too
            self._is_over = True
        finally:
            self._task = None
        if self.on_writable is not None:
            self.on_writable()


def wire_of(scope: Scope, send: Send, hang_up: Callable[[], None]) -> Wire:
    """The server's own wire, if it has one."""
    found = cast("dict[str, object]", scope.get("extensions") or {}).get(EXTENSION)
    return found if isinstance(found, Wire) else AsgiWire(send, hang_up)
