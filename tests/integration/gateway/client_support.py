"""What tests of the clients share: a real gateway, in this loop or in a thread of its own, a cable that can be cut, and a
gateway that says what a test wants it to say."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel
from pydantic_core import from_json, to_json
from websockets.asyncio.server import ServerConnection, serve

from smithers import Approval, Gateway, Sequence, Settings, Signal, SmithersWorkflow, Task, Workflow, create_smithers
from smithers.gateway.extensions import ExtensionContext

T = TypeVar("T")
Frame = dict[str, Any]
FAST = Settings(durability="normal", heartbeat_ms=200)


class Note(BaseModel):
    text: str


class Verdict(BaseModel):
    approved: bool
    note: str | None = None


class Go(BaseModel):
    on: bool


def workflows(folder: Path) -> dict[str, SmithersWorkflow]:
    """`one`: a task. `gated`: task, approval, task. `long`: a task, a signal, many tasks."""
    smithers, outputs = create_smithers({"note": Note, "verdict": Verdict, "go": Go}, db=str(folder / "client.db"))

    @smithers
    def one(ctx: object) -> object:
        return Workflow(name="one")[Task(id="a", output=outputs.note)[lambda: {"text": "hi"}]]

    @smithers
    def gated(ctx: object) -> object:
        return Workflow(name="gated")[
            Sequence[
                Task(id="a", output=outputs.note)[lambda: {"text": "hi"}],
                Approval(id="ship", output=outputs.verdict, request={"title": "Ship?"}),
                Task(id="b", output=outputs.note)[lambda: {"text": "done"}],
            ]
        ]

    @smithers
    def long(ctx: object) -> object:
        return Workflow(name="long")[
            Sequence[
                Task(id="first", output=outputs.note)[lambda: {"text": "hi"}],
                Signal("go", schema=Go),
                [Task(id=f"t{i}", output=outputs.note)[lambda: {"text": "x"}] for i in range(30)],
            ]
        ]

    return {"one": one, "gated": gated, "long": long}


def make_gateway(folder: Path, **options: object) -> Gateway:
    """A gateway with the workflows, and extensions `ext.shop.*`."""
    found = Gateway(heartbeat_ms=500, settings=FAST, **cast("dict[str, Any]", options))
    for key, workflow in workflows(folder).items():
        found.register(key, workflow)
    return found.extend(
        "shop",
        {
            "resources": {"echo": _echo},
            "actions": {"fail": _fail},
        },
    )


def _echo(params: object, context: ExtensionContext) -> object:
    return {"params": params, "kind": context.kind}


def _fail(params: object, context: ExtensionContext) -> object:
    raise RuntimeError("sold out")


class GatewayThread:
    """A gateway in a thread with a loop of its own, as a program beside the test would have it."""

    def __init__(self, folder: Path, **options: object) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._folder, self._options = folder, options
        self.url = self.run(self._open())

    async def _open(self) -> str:
        self._gateway = make_gateway(self._folder, **self._options)
        return (await self._gateway.listen(port=0)).url

    def run(self, job: Coroutine[object, object, T]) -> T:
        """Run a coroutine there."""
        return asyncio.run_coroutine_threadsafe(job, self._loop).result(60)

    def close(self) -> None:
        """Close the gateway and end the thread."""
        self.run(self._gateway.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()


@contextmanager
def gateway_thread(folder: Path, **options: object) -> Generator[GatewayThread]:
    found = GatewayThread(folder, **options)
    try:
        yield found
    finally:
        found.close()


class Cable:
    """A TCP relay between a client and a gateway. Can be cut, and plugged into another gateway."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.target: int | None = None
        """The gateway's port; None while nobody is there."""
        self._open: set[asyncio.StreamWriter] = set()
        self._changed = asyncio.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Break all connections."""
        for writer in self._open:
            writer.transport.abort()

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        try:
            if self.target is not None:
                await self._join(reader, writer, self.target)
        except OSError:
            pass  # as a gateway that is not there yet
        finally:
            await self._end(writer)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: int) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
        self._open.add(far_writer)
        try:
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            await self._end(far_writer)

    async def _end(self, writer: asyncio.StreamWriter) -> None:
        await hang_up(writer)
        self._open.discard(writer)
        async with self._changed:
            self._changed.notify_all()

    async def unused(self) -> None:
        """Until nobody is connected."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._open)


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Break a connection, and wait until it is gone."""
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.transport.abort()


@asynccontextmanager
async def cable(target: int | None) -> AsyncGenerator[Cable]:
    found = Cable()
    found.target = target
    server = await asyncio.start_server(found.relay, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
        found.cut()
        await found.unused()


class Scripted:
    """One connection of a gateway that says what a test wants."""

    def __init__(self, connection: ServerConnection, number: int) -> None:
        self.connection = connection
        self.number = number
        """Which connection this is, from 0."""
        self._seq = 0

    async def request(self) -> Frame:
        """The next request."""
        return cast("Frame", from_json(await self.connection.recv()))

    async def answer(self, request: Frame, payload: object) -> None:
        await self._send({"type": "res", "id": request["id"], "ok": True, "apiVersion": "v1", "payload": payload})

    async def refuse(self, request: Frame, code: str, **extras: object) -> None:
        error = {"version": "v1", "code": code, "message": "no", **extras}
        await self._send({"type": "res", "id": request["id"], "ok": False, "apiVersion": "v1", "error": error})

    async def push(self, event: str, payload: Mapping[str, object]) -> None:
        self._seq += 1
        frame = {"type": "event", "event": event, "payload": payload, "seq": self._seq, "stateVersion": 0}
        await self._send({**frame, "apiVersion": "v1"})

    async def run_event(self, seq: int, event: str = "node.started", **payload: object) -> None:
        body = {"streamId": "s", "type": "RunEvent", "runId": "r", "event": event, "payload": payload, "seq": seq}
        await self.push("run.event", {**body, "stateVersion": 0})

    async def open_stream(self) -> int | None:
        """Welcome the client, and open the stream that it asks for; the number it goes on after."""
        await self.answer(await self.request(), {"protocol": 1})
        request = await self.request()
        assert request["method"] == "streamRunEvents"
        after = cast("int | None", request["params"].get("afterSeq"))
        await self.answer(request, {"streamId": "s", "runId": "r", "afterSeq": after, "currentSeq": 3})
        return after

    async def _send(self, frame: Mapping[str, object]) -> None:
        await self.connection.send(to_json(frame).decode())


@asynccontextmanager
async def scripted_gateway(talk: Callable[[Scripted], Awaitable[None]]) -> AsyncGenerator[str]:
    """A gateway of WebSockets that does `talk` with each connection; its address."""
    count = 0

    async def serve_one(connection: ServerConnection) -> None:
        nonlocal count
        count += 1
        await talk(Scripted(connection, count - 1))

    async with serve(serve_one, "127.0.0.1", 0, max_size=None) as server:
        yield f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
