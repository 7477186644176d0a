"""Run streams: one run's events for one connection, from any event on, with what happens while it reads.

A stream has a cursor into the run's log, which is all that it keeps. While it is behind, it reads pages from the store; once a
page ends where the feed is, it takes events from the feed, and an event that is not the cursor's sends it back to reading.
So replay and live cannot overtake each other, and a slow connection holds no events in memory: they stay in the store.

The number of an event in a stream is its stored number plus one. It never goes back, whichever gateway is asked; it is
increasing, but not dense, because some stored events are not told.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable
from uuid import uuid4

from pydantic_core import to_json

from smithers.errors import SmithersError
from smithers.events import EventRow
from smithers.gateway.frames import quoted
from smithers.gateway.problems import API_VERSION, RpcError
from smithers.gateway.streams.mapping import STATUS_OF, event_name, event_payload
from smithers.store.sql import feeds, reads

if TYPE_CHECKING:
    from smithers.control.hosting import Place
    from smithers.gateway.auth.identity import Identity

log = logging.getLogger(__name__)

HEARTBEAT_S: Final = 1.0
HIGH_WATER: Final = 8_388_608
"""Bytes that a connection may have waiting before its streams pause."""
MAX_MISSED: Final = 1_000
"""How many events a stream may fall behind while its connection does not read."""
DRAIN_RETRY_S: Final = 0.01
PAGE: Final = 200
ENDED: Final = ("finished", "failed", "cancelled", "continued")
CONTINUED: Final = '{"status":"continued"}'
"""How the end of a run is told that goes on as another one: it has no `run.completed`."""
CAPS: Final = {"global": 256, "user": 32, "connection": 8, "run": 64}

Snapshot = Callable[["Place", str], Awaitable[object]]
"""Gives a run's record as `run.gap_resync` has it, or None if there is none."""


@runtime_checkable
class StreamSocket(Protocol):
    """A connection, as streams see it."""

    @property
    def connection_id(self) -> str:
        """Names the connection."""
        ...

    @property
    def pending_bytes(self) -> int:
        """How much is written but not sent yet."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether anything can still be sent."""
        ...

    def send_event(self, name: str, payload: str) -> None:
        """Push an event; `payload` is JSON text."""
        ...

    def follow_run(self, run_id: str) -> None:
        """Add a run to what this connection is told of, if it named runs when it connected."""
        ...

    def after_response(self, request_id: str, call: Callable[[], None]) -> None:
        """Call this once the response to a request is written, or its connection is gone."""
        ...

    def add_stream(
        self,
        stream_id: str,
        end: Callable[[], None],
        run_id: str | None = None,
        *,
        scope: str = "run:read",
        shows: str | None = None,
    ) -> None:
        """A stream belongs to this connection now: ended with it, by `end_stream`, or when the connection authenticates
        anew without the stream's scope, or without the run that it `shows` among those that it names. With `run_id`, the
        connection gets the run's events through it and not by themselves."""
        ...

    def end_stream(self, stream_id: str) -> bool:
        """End a stream of this connection. False if it has none of this id."""
        ...


class RunStreams:
    """The streams of all connections.

    Args:
        find: the database that a run lives in; raises `RunNotFound`.
        snapshot: see `Snapshot`.
        window: how many events a stream may replay; older ones are replaced by the run's record.
        state_version: how many events were pushed by now.
        follow: told of a run that is read (True) or not any more (False), once each stream.
    """

    def __init__(
        self,
        find: Callable[[str], Awaitable[Place]],
        snapshot: Snapshot,
        *,
        window: int,
        state_version: Callable[[], int],
        follow: Callable[[Place, str, bool], None],
    ) -> None:
        self.find = find
        self.snapshot = snapshot
        self.state_version = state_version
        self._window = window
        self._follow = follow
        self._by_run: dict[str, dict[str, RunEventStream]] = {}
        self._users: Counter[str] = Counter()
        self._connections: Counter[str] = Counter()
        self._total = 0

    @property
    def count(self) -> int:
        """How many streams are open."""
        return self._total

    async def subscribe(
        self, socket: StreamSocket, identity: Identity, run_id: str, after_seq: int | None, request_id: str
    ) -> dict[str, object]:
        """Open a stream, and give the response to its request; frames follow it.

        Raises:
            RunNotFound.
            RpcError: `SeqOutOfRange`, `RateLimited`, `ConnectionClosed`.
        """
        self._check_caps(socket, identity, run_id)
        place = await self.find(run_id)
        row = await place.store.aread(lambda c: reads.run(c, run_id))
        current = row.next_seq
        if after_seq is not None and after_seq > current:
            raise RpcError("SeqOutOfRange", f"afterSeq {after_seq} is above the newest event of the run ({current})")
        if not socket.is_open:
            raise RpcError("ConnectionClosed", "the connection was closed")
        self._check_caps(socket, identity, run_id)  # others may have come meanwhile
        stream = RunEventStream(self, place, socket, run_id, after_seq, current, self._window)
        owner = identity.stream_owner
        self._by_run.setdefault(run_id, {})[stream.stream_id] = stream
        self._users[owner] += 1
        self._connections[socket.connection_id] += 1
        self._total += 1
        self._follow(place, run_id, True)
        socket.follow_run(run_id)
        socket.add_stream(stream.stream_id, partial(self._end, stream, owner), run_id)
        socket.after_response(request_id, stream.start)
        return {"streamId": stream.stream_id, "runId": run_id, "afterSeq": after_seq, "currentSeq": current}

    def deliver(self, run_id: str, row: EventRow, name: str | None, payload: str) -> None:
        """A run's next event; every one, with its wire form if it has one."""
        streams = self._by_run.get(run_id)
        if streams:
            for stream in list(streams.values()):
                stream.take(row, name, payload)

    def has_streams(self, run_id: str) -> bool:
        """Whether anybody reads this run."""
        return run_id in self._by_run

    def _check_caps(self, socket: StreamSocket, identity: Identity, run_id: str) -> None:
        for scope, count in (
            ("global", self._total),
            ("user", self._users[identity.stream_owner]),
            ("connection", self._connections[socket.connection_id]),
            ("run", len(self._by_run.get(run_id, ()))),
        ):
            limit = CAPS[scope]
            if count >= limit:
                raise RpcError("RateLimited", f"too many run streams ({scope}: {limit})", scope=scope, limit=limit)

    def _end(self, stream: RunEventStream, owner: str) -> None:
        group = self._by_run.get(stream.run_id, {})
        if group.pop(stream.stream_id, None) is None:
            return
        stream.stop()
        if not group:
            del self._by_run[stream.run_id]
        for counts, key in ((self._users, owner), (self._connections, stream.socket.connection_id)):
            counts[key] -= 1
            if counts[key] <= 0:
                del counts[key]
        self._total -= 1
        self._follow(stream.place, stream.run_id, False)


class RunEventStream:
    """One stream. `RunStreams` makes it, its connection ends it."""

    def __init__(
        self,
        streams: RunStreams,
        place: Place,
        socket: StreamSocket,
        run_id: str,
        after_seq: int | None,
        current: int,
        window: int,
    ) -> None:
        self.stream_id = str(uuid4())
        self.run_id = run_id
        self.place = place
        self.socket = socket
        self._streams = streams
        self._after = after_seq
        self._current = current
        self._next = current if after_seq is None else max(after_seq, current - window)
        """The stored number of the next event to tell."""
        self._seen = 0
        """Where the feed is, as far as it has told since."""
        self._is_live = False
        self._is_blocked = False
        """Whether it has stopped because its connection does not read."""
        self._missed = 0
        self._is_over = False
        self._reading: asyncio.Task[None] | None = None
        self._heartbeat: asyncio.TimerHandle | None = None
        stream, run = quoted(self.stream_id), quoted(run_id)
        self._head = f'{{"streamId":{stream},"apiVersion":"{API_VERSION}","type":"RunEvent","runId":{run},"event":"'
        self._beat = f'{{"apiVersion":"{API_VERSION}","type":"Heartbeat","streamId":{stream},"runId":{run},"ts":'

    def start(self) -> None:
        """Tell what is to be told before live events, then those."""
        if self._is_over:
            return
        self._heartbeat = asyncio.get_running_loop().call_later(HEARTBEAT_S, self._on_heartbeat)
        self._reading = asyncio.create_task(self._guarded(self._first))

    def stop(self) -> None:
        """Tell nothing more."""
        self._is_over = True
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        if self._reading is not None and self._reading is not _current_task():
            self._reading.cancel()

    def take(self, row: EventRow, name: str | None, payload: str) -> None:
        """The feed's next event of this run."""
        self._seen = max(self._seen, row.seq + 1)
        if self._is_live and row.seq >= self._next:
            if row.seq > self._next:
                self._read_on()
            elif self.socket.pending_bytes > HIGH_WATER:
                self._block()
                self._read_on()
            else:
                self._next += 1
                if name is not None:
                    self._tell(row.seq, name, payload)
                return
        if self._is_blocked and name is not None:
            self._missed += 1
            if self._missed > MAX_MISSED:
                message = (
                    f"the connection did not read while {MAX_MISSED} events happened; subscribe again after the last"
                )
                self._fail("BackpressureDisconnect", message)

    # ── reading on ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _read_on(self) -> None:
        self._is_live = False
        if self._reading is None:
            self._reading = asyncio.create_task(self._guarded(self._replay))

    def _block(self) -> None:
        self._is_blocked = True
        self._missed = 0

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except SmithersError as error:
            log.warning("a stream has failed", extra={"run_id": self.run_id, "code": error.error_code})
            self._fail("Internal", error.summary)
        except Exception:
            log.exception("a stream has failed", extra={"run_id": self.run_id})
            self._fail("Internal", "the stream has failed")
        finally:
            self._reading = None

    async def _first(self) -> None:
        end = await self.place.store.aread(partial(_ending, run_id=self.run_id))
        if end is not None and end.seq < self._next:
            # whoever has seen the end already, or reads from now on, is told of it all the same: it would wait for ever
            after = self._current if self._after is None else self._after
            await self._resync(min(after + 1, self._current), self._current)
            shown = end if end.type in STATUS_OF else end._replace(type="RunStatusChanged", payload=CONTINUED)
            self._tell(end.seq, str(event_name(shown)), event_payload(self.run_id, shown))
        elif self._after is not None and self._next > self._after:
            await self._resync(self._after + 1, self._next)
        await self._replay()

    async def _resync(self, first: int, last: int) -> None:
        record = await self._streams.snapshot(self.place, self.run_id)
        payload = {
            "apiVersion": API_VERSION,
            "type": "GapResync",
            "streamId": self.stream_id,
            "runId": self.run_id,
            "fromSeq": first,
            "toSeq": last,
        }
        text = to_json(payload).decode()
        record_text = to_json(record, inf_nan_mode="null", by_alias=True).decode()
        self._send("run.gap_resync", f'{text[:-1]},"snapshot":{record_text}}}')

    async def _replay(self) -> None:
        """Read pages until one ends where the feed is; from then on the feed tells."""
        while not self._is_over:
            await self._drained()
            rows = await self.place.store.aread(lambda c: reads.events(c, self.run_id, self._next - 1, PAGE))
            for row in rows:
                if self._is_over or self.socket.pending_bytes > HIGH_WATER:
                    break
                self._next = row.seq + 1
                name = event_name(row)
                if name is not None:
                    self._tell(row.seq, name, event_payload(self.run_id, row))
            else:
                if len(rows) < PAGE and self._seen <= self._next:
                    self._is_live = True  # no turn of the loop lies between the page and this
                    return

    async def _drained(self) -> None:
        """Until the connection reads again. What happens meanwhile is counted."""
        while self.socket.pending_bytes > HIGH_WATER and not self._is_over:
            if not self._is_blocked:
                self._block()
            await asyncio.sleep(DRAIN_RETRY_S)
        self._is_blocked = False

    # ── telling ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _tell(self, stored_seq: int, name: str, payload: str) -> None:
        version = self._streams.state_version()
        self._send(
            "run.event", f'{self._head}{name}","payload":{payload},"seq":{stored_seq + 1},"stateVersion":{version}}}'
        )

    def _send(self, name: str, payload: str) -> None:
        if not self._is_over:
            self.socket.send_event(name, payload)

    def _on_heartbeat(self) -> None:
        self._heartbeat = asyncio.get_running_loop().call_later(HEARTBEAT_S, self._on_heartbeat)
        if self.socket.pending_bytes <= HIGH_WATER:
            self._send("run.heartbeat", f"{self._beat}{time.time_ns() // 1_000_000}}}")

    def _fail(self, code: str, message: str) -> None:
        error = {"version": API_VERSION, "code": code, "message": message}
        payload = {"streamId": self.stream_id, "runId": self.run_id, "error": error}
        self._send("run.error", to_json(payload).decode())
        self.socket.end_stream(self.stream_id)


def _ending(connection: reads.Session, run_id: str) -> EventRow | None:
    """The event that a run has ended with, if it has."""
    row = reads.run(connection, run_id)
    if row.status not in ENDED:
        return None
    return feeds.last_event(connection, run_id, (*STATUS_OF, "RunContinuedAsNew"))


def _current_task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
