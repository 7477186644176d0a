"""Connection: one WebSocket from its upgrade to its end: handshake, requests, events, streams.

Frames are read one by one; requests are answered as they are ready, several at once. Everything that is sent goes through
the outbox, so that what is written first arrives first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import uuid4

from pydantic_core import to_json

from smithers.gateway.auth.identity import Identity
from smithers.gateway.auth.scopes import holds
from smithers.gateway.frames import Request, error_text, frame_id, ok_text, parse_json, read_request
from smithers.gateway.problems import API_VERSION, RpcError, rpc_error_of
from smithers.gateway.ws.handshake import Hello, hello_payload, read_connect
from smithers.gateway.ws.limits import FrameRate
from smithers.gateway.ws.outbox import Outbox

if TYPE_CHECKING:
    from starlette.types import Receive, Scope

    from smithers.asgi.sockets import Wire
    from smithers.gateway.ws.hub import SocketHub

log = logging.getLogger(__name__)

HIGH_WATER: Final = 8_388_608
"""Bytes that may wait before requests of the connection do."""
MAX_CONCURRENT: Final = 64
"""Requests of one connection that are answered at once; more wait unread."""
BRIEF: Final = 4_096
"""The longest frame that is read only to say that it came too soon."""

POLICY: Final = 1008
TRY_LATER: Final = 1013
AUTH_FAILED: Final = "authentication failed"
_CODES: Final = frozenset({1000, 1001, 1005, 1006, 1007, 1008, 1009, 1011, 1013})
"""Close codes that are counted one by one: peers may say any."""
TAIL: Final = b',"apiVersion":"' + API_VERSION.encode() + b'"}'


class _Stream(NamedTuple):
    """A stream of a connection; see `StreamSocket.add_stream`."""

    end: Callable[[], None]
    run_id: str | None
    scope: str
    shows: str | None


class Connection:
    """A socket; also the `Socket` and `StreamSocket` of methods that it calls."""

    def __init__(self, hub: SocketHub, scope: Scope, wire: Wire) -> None:
        self._hub = hub
        self._wire = wire
        self._scope = scope
        self._outbox = Outbox(wire, self._overflowed)
        self._id = str(uuid4())
        self._seq = 0
        self.identity: Identity | None = None
        """Who has connected; None before."""
        self.runs: set[str] | None = None
        """The runs whose events it gets by themselves; None for all."""
        self._visible: set[str] | None = None
        """The runs that it has named, or None if it has not."""
        self._streams: dict[str, _Stream] = {}
        self.streamed: Counter[str] = Counter()
        """Runs whose events it gets through streams."""
        self._after: dict[str, list[Callable[[], None]]] = {}
        self._gone: dict[object, Callable[[], None]] = {}
        """To be called at the end."""
        self._rate = FrameRate(hub.options.max_frames_per_second, time.monotonic())
        self._handling: set[asyncio.Task[None]] = set()
        self._slot = asyncio.Event()
        self._is_open = True
        self._closing = "1006", "abort"
        """The code and the reason that it ends with."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._deadline: asyncio.TimerHandle | None = loop.call_later(hub.options.auth_deadline_ms / 1000, self.abort)
        self._tick: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None

    # ── as methods and streams see it ──────────────────────────────────────────────────────────────────────────────

    @property
    def connection_id(self) -> str:
        """Names the connection."""
        return self._id

    @property
    def pending_bytes(self) -> int:
        """How much is written but not sent yet."""
        return self._outbox.pending_bytes

    @property
    def sent(self) -> int:
        """How many frames were sent."""
        return self._outbox.sent

    @property
    def is_open(self) -> bool:
        """Whether anything can still be sent."""
        return self._is_open

    def follow_run(self, run_id: str) -> None:
        """Add a run to what this connection is told of, if it named runs when it connected."""
        if self._visible is not None:
            self._visible.add(run_id)
        if self.runs is not None and run_id not in self.runs:
            self.runs.add(run_id)
            self._hub.listen(self, run_id)

    def may_see(self, run_id: str) -> bool:
        """Whether the connection's list of runs, if it gave one, holds this one."""
        return self._visible is None or run_id in self._visible

    def when_gone(self, call: Callable[[], None], /) -> Callable[[], None]:
        """See `WhenGone`."""
        key = object()
        if self._is_open:
            self._gone[key] = call
        else:
            call()

        def forget() -> None:
            self._gone.pop(key, None)

        return forget

    def send_event(self, name: str, payload: str) -> None:
        """Push an event; `payload` is JSON text."""
        self.push(event_head(name, payload.encode()), event_tail(self._hub.state_version))

    def push(self, head: bytes, tail: bytes) -> None:
        """Push an event whose text is made but for its number."""
        if self._is_open:
            self._seq += 1
            self._outbox.put(b"%b%d%b" % (head, self._seq, tail))

    def after_response(self, request_id: str, call: Callable[[], None]) -> None:
        """Call this once the response to a request is written, or its connection is gone."""
        self._after.setdefault(request_id, []).append(call)

    def add_stream(
        self,
        stream_id: str,
        end: Callable[[], None],
        run_id: str | None = None,
        *,
        scope: str = "run:read",
        shows: str | None = None,
    ) -> None:
        """See `StreamSocket.add_stream`."""
        self._streams[stream_id] = _Stream(end, run_id, scope, shows)
        if run_id is not None:
            self.streamed[run_id] += 1

    def end_stream(self, stream_id: str) -> bool:
        """End a stream of this connection. False if it has none of this id."""
        found = self._streams.pop(stream_id, None)
        if found is None:
            return False
        end, run_id, *_ = found
        if run_id is not None:
            self.streamed[run_id] -= 1
            if self.streamed[run_id] <= 0:
                del self.streamed[run_id]
        try:
            end()
        except Exception:
            log.exception("a stream was not ended cleanly")
        return True

    # ── life ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def serve(self, receive: Receive) -> None:
        """Read frames until the connection ends."""
        self.send_event("connect.challenge", to_json({"nonce": str(uuid4()), "ts": now_ms()}).decode())
        while (message := await receive())["type"] != "websocket.disconnect":
            if self._is_open:
                await self._received(message.get("text"))
        if self._is_open:
            code = message.get("code")
            self._closing = str(code) if code in _CODES else "other", "peer"

    def close(self, code: int | None = None, reason: str = "") -> None:
        """Close after what was put in so far, as far as the peer reads."""
        if self._is_open:
            self._outbox.flush()
            self._closing = str(code or 1005), reason or "stop"
            self._end_sending()
            self._wire.close(code, reason)

    def abort(self) -> None:
        """Hang up at once, without a word."""
        self._end_sending()
        self._wire.abort()

    def recheck(self) -> bool:
        """Whether the grant still holds; closes the connection if it does not."""
        if self.identity is None:
            return True
        try:
            self._hub.doorkeeper.recheck(self.identity)
        except RpcError:
            self.close(POLICY, AUTH_FAILED)
            return False
        return True

    def _overflowed(self) -> None:
        log.warning("a connection does not read what it is sent; it is closed", extra={"connection": self._id})
        self._closing = str(TRY_LATER), "event backpressure"
        self._end_sending()
        self._wire.close(TRY_LATER, "event backpressure")

    def _end_sending(self) -> None:
        if self._is_open:
            self._is_open = False
            self._hub.sent_before += self._outbox.sent
            self._hub.closed[self._closing] += 1
        self._outbox.close()
        self._hub.forget(self)
        for timer in (self._deadline, self._tick, self._expiry):
            if timer is not None:
                timer.cancel()
        for stream_id in list(self._streams):
            self.end_stream(stream_id)
        gone, self._gone = self._gone, {}
        for call in gone.values():
            call()

    def ended(self) -> None:
        """The socket is gone. May be called twice."""
        self._end_sending()
        for calls in self._after.values():
            for call in calls:
                call()
        self._after.clear()

    # ── frames ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _received(self, text: object) -> None:
        self._hub.received += 1
        verdict = self._rate.take(time.monotonic())
        if verdict != "ok":
            self._refuse(text, is_abuse=verdict == "abuse")
            return
        frame: object = None
        try:
            if not isinstance(text, str):
                raise RpcError("INVALID_INPUT", "binary frames are not understood; send one JSON object as text")
            frame = parse_json(text)
            request = read_request(frame)
        except RpcError as error:
            self._send(error_text(frame_id(frame), error))
            return
        except Exception as error:
            self._send(error_text(frame_id(frame, "server"), rpc_error_of(error)))
            return
        if request.method == "connect":
            await self._connect(request)
            return
        if self.identity is None:
            self._send(error_text(request.id, RpcError("UNAUTHORIZED", "Connect first")))
            return
        if not self.recheck():
            return
        await self._room()
        task = self._loop.create_task(self._answer(request, self.identity))
        self._handling.add(task)
        self._hub.keep(task)
        task.add_done_callback(self._answered)

    def _refuse(self, text: object, *, is_abuse: bool) -> None:
        if is_abuse:
            self.close(POLICY, "too many frames")
            return
        limit = self._hub.options.max_frames_per_second
        error = RpcError("RateLimited", f"at most {limit} frames a second", scope="connection", limit=limit)
        frame: object = None
        if isinstance(text, str) and len(text) <= BRIEF:
            try:
                frame = parse_json(text)
            except RpcError:
                frame = None
        self._send(error_text(frame_id(frame), error))

    async def _room(self) -> None:
        """Until one more request may be answered: a peer that does not read its answers is not read from."""
        while len(self._handling) >= MAX_CONCURRENT:
            self._slot.clear()
            await self._slot.wait()
        await self._outbox.drained(HIGH_WATER)

    async def _answer(self, request: Request, identity: Identity) -> None:
        text, _ = await self._hub.dispatcher.respond(request, identity, self)
        self._send(text)
        for call in self._after.pop(request.id, ()):
            call()

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._handling.discard(task)
        self._slot.set()
        if not task.cancelled() and task.exception() is not None:
            log.error("a request was not answered", exc_info=task.exception())

    def _send(self, text: str) -> None:
        if self._is_open:
            self._outbox.put(text.encode())

    # ── connecting ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _connect(self, request: Request) -> None:
        hub = self._hub
        try:
            hello = read_connect(request.params, hub.options.protocol)
        except RpcError as error:
            self._send(error_text(request.id, error))
            return
        try:
            identity = hub.identify(self._scope, hello.token)
        except RpcError as error:
            self._send(error_text(request.id, error))
            if self.identity is None:
                self.close(POLICY, AUTH_FAILED)
            return
        if self.identity is None and hub.is_full:
            self._send(error_text(request.id, RpcError("CONNECTION_LIMIT", "Gateway connection limit reached")))
            self.close(TRY_LATER, "connection limit reached")
            return
        self._become(identity, hello)
        version = hub.state_version
        snapshot: Mapping[str, object] = {}
        if self._may_read():
            try:
                snapshot = await hub.snapshot(hello.runs)
            except Exception as error:
                self._send(error_text(request.id, rpc_error_of(error)))
                return
        payload = hello_payload(hub.options, hub.gateway_identity(), identity, snapshot, version)
        self._send(ok_text(request.id, payload))

    def _may_read(self) -> bool:
        return self.identity is not None and holds(self.identity.scopes, "run:read")

    def _become(self, identity: Identity, hello: Hello) -> None:
        """From now on events are told, also while the snapshot is made: what it does not hold yet is not lost."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._hub.forget(self)
        self.identity = identity
        self._visible = None if hello.subscribe is None else set(hello.subscribe)
        for stream_id, stream in list(self._streams.items()):
            if not holds(identity.scopes, stream.scope) or not (stream.shows is None or self.may_see(stream.shows)):
                self.end_stream(stream_id)
        self.runs = None if hello.runs is None else set(hello.runs)
        self._hub.enter(self)
        for timer in (self._tick, self._expiry):
            if timer is not None:
                timer.cancel()
        self._tick = self._loop.call_later(self._hub.options.heartbeat_ms / 1000, self._on_tick)
        self._expiry = None
        if identity.expires_at_ms is not None:
            rest_s = max(identity.expires_at_ms - now_ms(), 0) / 1000
            self._expiry = self._loop.call_later(min(rest_s, 86_400.0) + 0.001, self._on_expiry)

    def _on_tick(self) -> None:
        if self.recheck():
            self._tick = self._loop.call_later(self._hub.options.heartbeat_ms / 1000, self._on_tick)
            self.send_event("tick", f'{{"ts":{now_ms()}}}')
            self._hub.ticks += 1

    def _on_expiry(self) -> None:
        """Look when the grant is said to end; where it was made to last longer, the tick goes on looking."""
        self._expiry = None
        self.recheck()


def event_head(name: str, payload: bytes) -> bytes:
    """An event frame's text up to its number, which each connection has its own of."""
    return b'{"type":"event","event":"%b","payload":%b,"seq":' % (name.encode(), payload)


def event_tail(state_version: int) -> bytes:
    """An event frame's text after its number."""
    return b',"stateVersion":%d%b' % (state_version, TAIL)


def now_ms() -> int:
    """The time, in epoch milliseconds."""
    return time.time_ns() // 1_000_000
