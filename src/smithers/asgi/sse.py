"""Server-sent events: a run's log as a stream that is pushed, resumed by number, bounded in memory and ended cleanly.

A batch is read only after the one before has been handed to the client, so a slow reader holds one batch and no more, and
reads on from the log when it can.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Final

from starlette.types import Receive, Scope, Send

from smithers.asgi.drain import Drain
from smithers.control.streams import RunStream
from smithers.errors import SmithersError
from smithers.events import EventRow, wire_json

KEEP_ALIVE_S: Final = 10.0
RETRY_MS: Final = 1_000

_HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache"),
    (b"connection", b"keep-alive"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-accel-buffering", b"no"),
]
_SHUTDOWN: Final = b'event: shutdown\ndata: {"reason":"server-shutdown"}\n\n'
"""The last event of a stream that ends because the server does; a client reconnects after `retry`."""


_FORGET: Final = b"id\n\n"
"""Has a client forget the last event's number, before it comes back for another run's events."""


class EventStream:
    """An answer that follows a run's log until the run has ended, the client has left, or the server stops.

    Args:
        goes_on: whether a client that comes back gets the events of the run that this one was continued as.
    """

    def __init__(
        self, stream: RunStream, drain: Drain, *, keep_alive_s: float = KEEP_ALIVE_S, goes_on: bool = False
    ) -> None:
        self._stream = stream
        self._drain = drain
        self._keep_alive_s = keep_alive_s
        self._goes_on = goes_on
        self._has_left = False
        self._leaving: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as ASGI has it."""
        undrain = self._drain.listen(self._stream.wake)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            rest = f"retry: {RETRY_MS}\n\n".encode()
            with suppress(SmithersError):  # a store that fails ends the stream; the client comes back
                rest = await self._tell(receive, send, rest)
            if not self._has_left:
                await send({"type": "http.response.body", "body": rest})
        finally:
            undrain()
            self._stream.close()
            if self._leaving is not None:
                self._leaving.cancel()

    async def _tell(self, receive: Receive, send: Send, text: bytes) -> bytes:
        """Send `text` and what follows it. Returns what is left to send with the end."""
        commented = time.monotonic()
        while not self._has_left:
            batch = self._stream.read()
            run_id = self._stream.run_id
            text += "".join([_frame(run_id, row) for row in batch.rows]).encode()
            if batch.is_over:
                is_continued = any(row.type == "RunContinuedAsNew" for row in batch.rows)
                return text + _FORGET if is_continued and self._goes_on else text
            if self._drain.is_started:
                return text + _SHUTDOWN
            if self._leaving is None:  # a stream that is over with its first page needs none
                self._leaving = asyncio.create_task(self._await_leaving(receive))
            now = time.monotonic()
            if now - commented >= self._keep_alive_s:
                commented = now
                text += b": keep-alive\n\n"
            if text:
                await send({"type": "http.response.body", "body": text, "more_body": True})
                text = b""
            if not batch.has_more:
                await self._stream.wait(commented + self._keep_alive_s - time.monotonic())
        return b""

    async def _await_leaving(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._has_left = True
        self._stream.wake()


def _frame(run_id: str, row: EventRow) -> str:
    return f"event: smithers\ndata: {wire_json(run_id, row)}\nid: {row.seq}\n\n"
