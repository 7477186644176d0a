"""What tests of sockets and streams share: a gateway reduced to them, over a real store, and a client that checks frames."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import Field
from starlette.types import Receive, Scope, Send
from tests.unit.gateway.contract import schema_of
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from smithers import Settings
from smithers.asgi.drain import Drain
from smithers.asgi.embed import bind, serve
from smithers.control.control import Control
from smithers.control.hosting import Place
from smithers.control.streams import StreamHub
from smithers.engine.engine import Engine
from smithers.errors import RunNotFound
from smithers.events import EventDraft
from smithers.gateway.auth.identity import Identity
from smithers.gateway.config import GatewayOptions
from smithers.gateway.dispatch import Dispatcher
from smithers.gateway.metering import Meter
from smithers.gateway.problems import RpcError
from smithers.gateway.rpc import streams as stream_methods
from smithers.gateway.rpc.call import RpcCall
from smithers.gateway.rpc.registry import Area, Methods, Params
from smithers.gateway.streams.feed import Feed
from smithers.gateway.streams.run_streams import RunStreams
from smithers.gateway.ws.hub import SocketHub
from smithers.gateway.ws.serving import serve_socket
from smithers.observability.metrics import Metrics
from smithers.store import open_store
from smithers.store.interface import NewRun, StatusChange, Step
from smithers.store.sql import control as writes
from smithers.store.sql import reads
from smithers.store.sql.store import SqlStore

FAST = Settings(durability="normal", heartbeat_ms=200)
PATIENCE_S = 60.0
IDENTITY: Mapping[str, object] = {
    "workspaceRoot": None,
    "backend": "sqlite",
    "version": "0",
    "pid": 1,
    "startedAtMs": 1,
}
Frame = dict[str, Any]


class Tokens:
    """A doorkeeper that knows tokens by name; the tests give and take them."""

    def __init__(self) -> None:
        self.known: dict[str, Identity] = {"operator": Identity()}
        self.is_host_allowed = True

    def upgrade(self, headers: object, *, is_tls: bool, peer: str | None) -> None:
        if not self.is_host_allowed:
            raise RpcError("UNAUTHORIZED", "Host is not allowed")

    def connect(self, headers: object, *, is_tls: bool, peer: str | None, token: str | None) -> Identity:
        found = self.known.get(token or "operator")
        if found is None:
            raise RpcError("UNAUTHORIZED", "Token has been revoked", refresh="smithers token issue")
        return found

    def recheck(self, identity: Identity) -> None:
        if identity not in self.known.values():
            raise RpcError("UNAUTHORIZED", "Token has been revoked")


area = Area()


class Echo(Params):
    """Anything."""

    value: Annotated[object, Field()] = None


@area.method("echo", scope="run:read", params=Echo)
async def echo(call: RpcCall, params: Echo) -> object:
    """Give it back."""
    return params.value


class Follow(Params):
    """A run."""

    run_id: str


@area.method("startRun", scope="run:write", params=Follow)
async def start_run(call: RpcCall, params: Follow) -> object:
    """As a launch does with the connection."""
    call.follow_run(params.run_id)
    return {"mayBeSeen": call.socket is not None and call.socket.may_see(params.run_id)}


@dataclass
class _Services:
    """What the methods of these tests use of the services."""

    streams: RunStreams
    changes: object = None


class _NoExtensions:
    async def call(self, call: RpcCall, params: object) -> object:
        raise RpcError("EXTENSION_METHOD_NOT_FOUND", call.method)


class _App:
    """Sockets only."""

    def __init__(self, hub: SocketHub) -> None:
        self.drain = Drain()
        self._hub = hub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await serve_socket(scope, receive, send, self._hub)


@dataclass
class MiniGateway:
    """A gateway with sockets, streams and one database."""

    place: Place
    feed: Feed
    hub: SocketHub
    streams: RunStreams
    tokens: Tokens
    url: str = ""
    told: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])

    @property
    def store(self) -> SqlStore:
        return self.place.store

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Until something has come to be that nobody announces."""
        async with asyncio.timeout(PATIENCE_S):
            while not is_so():  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    def connect(self, **options: Any) -> Any:
        """A raw connection."""
        return connect(self.url, proxy=None, max_queue=None, **options)

    @asynccontextmanager
    async def client(
        self, *, token: str | None = None, subscribe: Sequence[str] | None = None
    ) -> AsyncGenerator[Client]:
        """A connection that has said hello."""
        async with self.connect(max_size=None) as socket:
            client = Client(socket)
            await client.hello(token=token, subscribe=subscribe)
            yield client


@asynccontextmanager
async def mini_gateway(
    path: Path, options: GatewayOptions | None = None, *, poll_s: float = 1.0, window: int = 10_000
) -> AsyncGenerator[MiniGateway]:
    options = options or GatewayOptions()
    store = open_store(path, durability="normal")
    engine = Engine(store, FAST)
    stream_hub = StreamHub(store)
    engine.hub = stream_hub
    place = Place(str(path), store, engine, stream_hub, Control(store, clock=engine.clock, hub=stream_hub))
    tokens = Tokens()

    async def snapshot(runs: Collection[str] | None) -> Mapping[str, object]:
        rows = await store.aread(lambda c: reads.runs(c, (), 1_000))
        return {"runs": [summary(r) for r in rows if runs is None or r.run_id in runs], "approvals": []}

    async def record(place: Place, run_id: str) -> object:
        row = await place.store.aread(lambda c: reads.run(c, run_id))
        return {**{k: v for k, v in summary(row).items() if k != "system"}, "summary": {}}

    async def find(run_id: str) -> Place:
        store.read(lambda c: reads.run(c, run_id))
        return place

    hub = SocketHub(options, tokens, snapshot=snapshot, gateway_identity=lambda: IDENTITY)

    def follow(_place: Place, run_id: str, is_read: bool) -> None:
        (feed.follow if is_read else feed.unfollow)(run_id)

    streams = RunStreams(find, record, window=window, state_version=lambda: hub.state_version, follow=follow)
    hub.streams = streams
    hub.dispatcher = Dispatcher(
        Methods([area, stream_methods.area]),
        cast("Any", _Services(streams)),
        cast("Any", _NoExtensions()),
        Meter(Metrics()),
    )
    gateway = MiniGateway(place, cast("Feed", None), hub, streams, tokens)

    def tell(run_id: str, row: Any) -> None:
        gateway.told.append((run_id, row.seq))
        hub.publish(run_id, row)

    feed = gateway.feed = Feed(place, tell, poll_s=poll_s, is_wanted=lambda: hub.has_listeners)
    listener = bind("127.0.0.1", 0)
    gateway.url = f"ws://127.0.0.1:{listener.getsockname()[1]}/"
    stop = asyncio.Event()
    serving = asyncio.create_task(
        serve(cast("Any", _App(hub)), listener, stop, max_message_bytes=options.max_payload, grace_s=2)
    )
    try:
        yield gateway
    finally:
        await hub.close(0.2)
        stop.set()
        await serving
        await feed.close()
        await engine.close()
        stream_hub.close()
        store.close()


def summary(row: Any) -> dict[str, object]:
    return {
        "runId": row.run_id,
        "workflowName": row.workflow_name,
        "status": row.status,
        "createdAtMs": row.created_at_ms,
        "workflowKey": row.workflow_name,
        "system": False,
    }


# ── runs without an engine ─────────────────────────────────────────────────────────────────────────────────────────


STARTED = (EventDraft("RunStarted"), EventDraft("RunStatusChanged", None, None, '{"status":"running"}'))


class FakeRun:
    """A run whose steps the test writes: here (told to the hub) or elsewhere (only stored)."""

    def __init__(self, place: Place, run_id: str) -> None:
        self._place = place
        self.run_id = run_id
        self.count = 0
        self._frame = 0
        self._epoch = 1

    async def launch(self, *, is_here: bool = True) -> tuple[Step, int]:
        now = now_ms()
        new = NewRun(self.run_id, "flow", None, None, "{}", "{}", "owner", now, events=STARTED)
        step = Step(self.run_id, "owner", 1, 0, now, launch=new)
        return await self._commit(step, is_here)

    async def emit(self, count: int = 1, *, is_here: bool = True, payload: str | None = None) -> tuple[Step, int]:
        """Nodes that begin."""
        events = [EventDraft("NodeStarted", f"n{self.count + i}", 0, payload or '{"attempt":1}') for i in range(count)]
        self.count += count
        return await self._commit(
            Step(self.run_id, "owner", self._epoch, self._frame, now_ms(), events=events), is_here
        )

    async def emit_named(self, node_id: str) -> tuple[Step, int]:
        """One node that begins."""
        draft = EventDraft("NodeStarted", node_id, 0, '{"attempt":1}')
        return await self._commit(Step(self.run_id, "owner", self._epoch, self._frame, now_ms(), events=[draft]), True)

    async def output(self, payload: str) -> tuple[Step, int]:
        """What a task has written."""
        draft = EventDraft("NodeOutput", "n", 0, payload)
        return await self._commit(Step(self.run_id, "owner", self._epoch, self._frame, now_ms(), events=[draft]), True)

    async def decide(self, *, is_here: bool = True) -> None:
        """What a door writes between steps."""
        draft = EventDraft("ApprovalGranted", f"d{self.count}", 0)
        self.count += 1
        await self._place.store.awrite(lambda c: writes.append_events(c, self.run_id, now_ms(), [draft]))
        if is_here:
            self._place.hub.touch(self.run_id)

    async def finish(self, *, is_here: bool = True) -> tuple[Step, int]:
        events = [EventDraft("RunFinished"), EventDraft("RunStatusChanged", None, None, '{"status":"finished"}')]
        step = Step(
            self.run_id,
            "owner",
            self._epoch,
            self._frame,
            now_ms(),
            events=events,
            status=StatusChange("finished", True),
        )
        return await self._commit(step, is_here)

    async def reopen(self) -> None:
        """As a resume does."""
        run = await self._place.store.claim(self.run_id, "owner", now_ms(), expect_epoch=self._epoch, events=STARTED)
        assert run is not None
        self._epoch = run.epoch

    async def _commit(self, step: Step, is_here: bool) -> tuple[Step, int]:
        self._frame += 1
        step.frame_no = self._frame
        done = await self._place.store.commit(step)
        if is_here:
            self._place.hub.publish(self.run_id, step, done.first_seq)
        return step, done.first_seq

    def next_seq(self) -> int:
        return self._place.store.read(lambda c: reads.run(c, self.run_id)).next_seq


def now_ms() -> int:
    return time.time_ns() // 1_000_000


# ── a client ───────────────────────────────────────────────────────────────────────────────────────────────────────


def check_part(part: str, name: str, value: object) -> bool:
    """Hold a value to the contract. False if the contract has no such name."""
    schema = schema_of(part, name)
    if schema is not None:
        schema(value)
    return schema is not None


def check_frame(frame: Frame) -> Frame:
    """Hold a frame to the contract."""
    if frame["type"] == "event":
        check_part("frames", "event", frame)
        assert check_part("events", frame["event"], frame["payload"]) or frame["event"] == "run.status_changed", frame
        if frame["event"] == "run.event":
            check_part("events", frame["payload"]["event"], frame["payload"]["payload"])
    else:
        check_part("frames", "responseOk" if frame["ok"] else "responseError", frame)
    return frame


class Client:
    """A connection whose every frame is held to the contract."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.seq = 0
        self._number = 0
        self.frames: list[Frame] = []
        """Frames that were read while others were waited for."""

    async def read(self) -> Frame:
        """The next frame."""
        if self.frames:
            return self.frames.pop(0)
        return await self._receive()

    async def _receive(self) -> Frame:
        async with asyncio.timeout(PATIENCE_S):
            frame = check_frame(json.loads(await self.socket.recv()))
        if frame["type"] == "event":
            assert frame["seq"] == self.seq + 1
            self.seq = frame["seq"]
        return frame

    async def hello(self, *, token: str | None = None, subscribe: Sequence[str] | None = None, **fields: Any) -> Frame:
        """Connect; gives the response."""
        params: dict[str, Any] = {"minProtocol": 1, "maxProtocol": 1, "client": {"id": "t", "version": "1"}}
        if token is not None:
            params["auth"] = {"token": token}
        if subscribe is not None:
            params["subscribe"] = list(subscribe)
        answer = await self.call("connect", {**params, **fields})
        if answer["ok"]:
            check_part("frames", "hello", answer["payload"])
        return answer

    async def send(self, method: str, params: Any = None) -> str:
        self._number += 1
        request_id = str(self._number)
        await self.socket.send(json.dumps({"type": "req", "id": request_id, "method": method, "params": params}))
        return request_id

    async def call(self, method: str, params: Any = None) -> Frame:
        """A request's response; events that come before it stay to be read."""
        request_id = await self.send(method, params)
        return await self.response(request_id)

    async def read_response(self) -> Frame:
        """The next response; events are dropped."""
        while True:
            frame = await self.read()
            if frame["type"] == "res":
                return frame

    async def response(self, request_id: str) -> Frame:
        kept: list[Frame] = []
        while True:
            frame = await self._receive()
            if frame["type"] == "res" and frame["id"] == request_id:
                self.frames += kept
                return frame
            kept.append(frame)

    async def event(self, *names: str) -> Frame:
        """The next event of one of these names (any, if none is given); others are dropped."""
        while True:
            frame = await self.read()
            if frame["type"] == "event" and (not names or frame["event"] in names):
                return frame

    async def closed(self) -> tuple[int, str]:
        """The code and reason that the connection is closed with."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    await self.socket.recv()
        except ConnectionClosed as error:
            if error.rcvd is None:
                return 1006, ""
            return error.rcvd.code, error.rcvd.reason


__all__ = ["Client", "FakeRun", "Frame", "MiniGateway", "RunNotFound", "Tokens", "check_frame", "mini_gateway"]
