"""Changes: which collections may have changed, numbered, for clients that hold copies. Carried by `/v1/api/stream`.

What is noted within 50 ms goes out as one frame. The newest frames are kept, so that a client that comes back is told what
it missed, or that it missed too much.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from pydantic_core import to_json

MERGE_S: Final = 0.05
KEPT_FRAMES: Final = 256
KEPT_BYTES: Final = 65_536
QUEUE_FRAMES: Final = 256
QUEUE_BYTES: Final = 65_536

COLLECTIONS: Final = (
    "approvals",
    "crons",
    "docs",
    "node_outputs",
    "nodes",
    "run_events",
    "runs",
    "tickets",
    "workflows",
)


class Reader:
    """One client's frames: those that it was not given yet, bounded; too many, and it is told to begin anew."""

    def __init__(self) -> None:
        self.more = asyncio.Event()
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._is_lost = False

    def put(self, frame: bytes) -> None:
        """A frame for this client."""
        if not self._is_lost:
            self._queue.append(frame)
            self._bytes += len(frame)
            if len(self._queue) > QUEUE_FRAMES or self._bytes > QUEUE_BYTES:
                self._queue.clear()
                self._bytes = 0
                self._is_lost = True
        self.more.set()

    def take(self, seq: int) -> bytes:
        """Everything that is to be sent now; a reset at `seq` if frames were lost."""
        self.more.clear()
        if self._is_lost:
            self._is_lost = False
            return reset_frame(seq)
        found = b"".join(self._queue)
        self._queue.clear()
        self._bytes = 0
        return found


class ChangeFeed:
    """Numbers changes and hands them to readers. Used in one event loop."""

    def __init__(self) -> None:
        self._seq = 0
        self._noted: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._emitted: asyncio.Future[int] | None = None
        self._kept: deque[tuple[int, bytes]] = deque()
        self._kept_bytes = 0
        self._readers: set[Reader] = set()

    @property
    def seq(self) -> int:
        """The number of the newest frame."""
        return self._seq

    def note(self, *collections: str) -> None:
        """Something in these collections may have changed."""
        self._noted.update(collections)
        if self._timer is None and self._noted:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(MERGE_S, self._emit)
            self._emitted = loop.create_future()

    def nudge(self) -> None:
        """Let every reader look whether it may go on."""
        for reader in self._readers:
            reader.more.set()

    async def settled(self) -> int:
        """The number of the frame that tells of everything noted until now."""
        if self._emitted is None:
            return self._seq
        return await asyncio.shield(self._emitted)

    def _emit(self) -> None:
        self._timer = None
        self._seq += 1
        collections = sorted(self._noted)
        self._noted.clear()
        data = to_json({"seq": self._seq, "collections": collections})
        frame = b"id: %d\nevent: change\ndata: %b\n\n" % (self._seq, data)
        self._kept.append((self._seq, frame))
        self._kept_bytes += len(frame)
        while len(self._kept) > KEPT_FRAMES or self._kept_bytes > KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popleft()[1])
        for reader in self._readers:
            reader.put(frame)
        if self._emitted is not None:
            self._emitted.set_result(self._seq)
            self._emitted = None

    def subscribe(self, after: int | None) -> tuple[Reader, Callable[[], None]]:
        """Read on after a number (None: from now on). Returns the reader and how to end it."""
        reader = Reader()
        if after is not None:
            oldest = self._kept[0][0] if self._kept else self._seq + 1
            if after > self._seq or after < oldest - 1:
                reader.put(reset_frame(self._seq))
            else:
                for seq, frame in self._kept:
                    if seq > after:
                        reader.put(frame)
        self._readers.add(reader)
        return reader, lambda: self._readers.discard(reader)

    def close(self) -> None:
        """Emit nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._emitted is not None:
            self._emitted.cancel()
            self._emitted = None


def reset_frame(seq: int) -> bytes:
    """Tells a client to read everything anew."""
    return b'event: reset\ndata: {"seq":%d}\n\n' % seq


def collections_of(event: str) -> tuple[str, ...]:
    """The collections that an event of the gateway tells something about."""
    kind = event.partition(".")[0]
    if kind == "approval":
        return ("approvals", "runs", "run_events", "nodes")
    if event == "task.output":
        return ("run_events", "nodes", "node_outputs")
    if event == "node.finished":
        return ("run_events", "nodes", "node_outputs")
    if kind in ("node", "task", "agent"):
        return ("run_events", "nodes")
    if kind == "run":
        return ("runs", "run_events", "nodes")
    if kind == "cron":
        return ("crons", "runs")
    return ("runs", "run_events")
