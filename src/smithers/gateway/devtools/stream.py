"""DevTools streams: one run's tree for one connection: a snapshot, then what changes, each event in order.

A stream only passes on what its run's watch (`watch.py`) has made, bounded: a connection that does not read loses the stream,
not itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from pydantic_core import to_json

from smithers.errors import RunNotFound, SmithersError
from smithers.events import EventRow
from smithers.gateway.devtools.watch import REBASELINE, RunWatch
from smithers.gateway.frames import quoted
from smithers.gateway.problems import RpcError
from smithers.gateway.streams.run_streams import DRAIN_RETRY_S, HIGH_WATER, StreamSocket
from smithers.store.sql import reads

if TYPE_CHECKING:
    from smithers.control.hosting import Place

log = logging.getLogger(__name__)

MAX_WAITING: Final = 1_000
"""How many events may wait for a connection that does not read."""
SCOPE: Final = "observability:read"


class DevToolsStreams:
    """The streams of all connections.

    Args:
        find: the database that a run lives in; raises `RunNotFound`.
        follow: told of a run that is read (True) or not any more (False), once each stream.
    """

    def __init__(self, find: Callable[[str], Awaitable[Place]], follow: Callable[[Place, str, bool], None]) -> None:
        self._find = find
        self._follow = follow
        self._watches: dict[str, RunWatch] = {}

    @property
    def count(self) -> int:
        """How many streams are open."""
        return sum(len(watch.streams) for watch in self._watches.values())

    def note(self, run_id: str, row: EventRow) -> None:
        """A run's next stored event."""
        watch = self._watches.get(run_id)
        if watch is not None:
            watch.note(row)

    async def subscribe(
        self, socket: StreamSocket, run_id: str, after: int | None, request_id: str
    ) -> dict[str, object]:
        """Open a stream, and give the response to its request; events follow it.

        Raises:
            RunNotFound.
            RpcError: `SeqOutOfRange`, `ConnectionClosed`.
        """
        place = await self._find(run_id)
        newest = (await place.store.aread(lambda c: reads.run(c, run_id))).frame_no
        if after is not None and after > newest:
            raise RpcError("SeqOutOfRange", f"afterSeq {after} is above the newest frame of the run ({newest})")
        if not socket.is_open:
            raise RpcError("ConnectionClosed", "the connection was closed")
        watch = self._watches.get(run_id)
        if watch is None:
            watch = self._watches[run_id] = RunWatch(place, run_id)
        stream = DevToolsStream(watch, socket, after)
        watch.streams[stream.stream_id] = stream
        self._follow(place, run_id, True)
        socket.add_stream(stream.stream_id, partial(self._end, watch, stream), scope=SCOPE, shows=run_id)
        socket.after_response(request_id, stream.start)
        return {"streamId": stream.stream_id, "runId": run_id, "fromSeq": after, "afterSeq": after}

    def _end(self, watch: RunWatch, stream: DevToolsStream) -> None:
        if stream.stream_id not in watch.streams:
            return
        stream.stop()
        watch.leave(stream.stream_id)
        self._follow(watch.place, watch.run_id, False)
        if not watch.streams:
            watch.close()
            if self._watches.get(watch.run_id) is watch:
                del self._watches[watch.run_id]


class DevToolsStream:
    """One stream. `DevToolsStreams` makes it, its connection ends it."""

    def __init__(self, watch: RunWatch, socket: StreamSocket, after: int | None) -> None:
        self.stream_id = str(uuid4())
        self.after = after
        self._watch = watch
        self._socket = socket
        self._deltas = 0
        """How many deltas it was told in a row."""
        self._waiting: deque[str] = deque()
        self._is_over = False
        self._draining: asyncio.TimerHandle | None = None
        self._emptied = asyncio.Event()
        self._joining: asyncio.Task[None] | None = None
        self._head = f'{{"streamId":{quoted(self.stream_id)},"runId":{quoted(watch.run_id)},"event":'

    @property
    def wants_snapshot(self) -> bool:
        """Whether it was told so many deltas that a snapshot is due."""
        return self._deltas >= REBASELINE - 1

    def start(self) -> None:
        """The response is written: events may follow."""
        if not self._is_over:
            self._joining = asyncio.get_running_loop().create_task(self._watch.join(self))
            self._joining.add_done_callback(self._joined)

    def _joined(self, joining: asyncio.Task[None]) -> None:
        error = None if joining.cancelled() else joining.exception()
        self._joining = None
        if isinstance(error, RunNotFound):
            self.fail("RunNotFound", error.summary)
        elif isinstance(error, SmithersError):
            log.warning("a stream has failed", extra={"run_id": self._watch.run_id, "code": error.error_code})
            self.fail("Internal", error.summary)
        elif error is not None:
            log.error("a stream has failed", exc_info=error, extra={"run_id": self._watch.run_id})
            self.fail("Internal", "the stream has failed")

    def stop(self) -> None:
        """Tell nothing more."""
        self._is_over = True
        self._waiting.clear()
        self._emptied.set()
        if self._draining is not None:
            self._draining.cancel()
        joining, self._joining = self._joining, None
        if joining is not None:
            joining.cancel()

    def tell(self, delta: str | None, snapshot: str | None) -> None:
        """Tell an event: by its delta, or by its snapshot where one is due or there is no delta."""
        if self._is_over:
            return
        text = snapshot if delta is None or (self.wants_snapshot and snapshot is not None) else delta
        if text is None:
            return
        self._deltas = 0 if text is snapshot else self._deltas + 1
        self._waiting.append(text)
        if len(self._waiting) > MAX_WAITING:
            message = f"the connection did not read while {MAX_WAITING} events waited; subscribe again"
            self.fail("BackpressureDisconnect", message)
        elif self._draining is None:
            self._drain()

    async def drained(self) -> None:
        """Until nothing waits, so that more of the past may be told."""
        while self._waiting and not self._is_over:
            self._emptied.clear()
            await self._emptied.wait()
        await asyncio.sleep(0)

    def fail(self, code: str, message: str) -> None:
        """Say what has happened, and end the stream; the connection stays."""
        if self._is_over:
            return
        error = {"code": code, "message": message}
        payload = {"streamId": self.stream_id, "runId": self._watch.run_id, "error": error}
        self._socket.send_event("devtools.error", to_json(payload).decode())
        self._socket.end_stream(self.stream_id)

    def _drain(self) -> None:
        self._draining = None
        while self._waiting and self._socket.pending_bytes <= HIGH_WATER:
            self._socket.send_event("devtools.event", f"{self._head}{self._waiting.popleft()}}}")
        if not self._waiting:
            self._emptied.set()
        elif not self._is_over:
            self._draining = asyncio.get_running_loop().call_later(DRAIN_RETRY_S, self._drain)
