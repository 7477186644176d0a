"""Streams of extensions: what they begin with, what they push, and that they are always cleaned up after."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

import pytest
from tests.unit.gateway.contract import schema_of

from smithers.gateway.auth.identity import Identity
from smithers.gateway.extensions import ExtensionContext, Extensions
from smithers.gateway.problems import RpcError
from smithers.gateway.rpc.call import RpcCall
from smithers.gateway.ws.extension_streams import MAX_WAITING, open_extension_stream


class FakeSocket:
    """Keeps what it is told."""

    connection_id = "c"
    is_open = True

    def __init__(self) -> None:
        self.pending_bytes = 0
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.ends: dict[str, Callable[[], None]] = {}
        self.starts: list[Callable[[], None]] = []
        self.gone: list[Callable[[], None]] = []
        self.scopes: list[str] = []

    def send_event(self, name: str, payload: str) -> None:
        found = json.loads(payload)
        schema = schema_of("events", name)
        assert schema is not None
        schema(found)
        self.events.append((name, found))

    def follow_run(self, run_id: str) -> None:
        """Nothing."""

    def may_see(self, run_id: str) -> bool:
        return True

    def after_response(self, request_id: str, call: Callable[[], None]) -> None:
        self.starts.append(call)

    def when_gone(self, call: Callable[[], None]) -> Callable[[], None]:
        self.gone.append(call)
        return lambda: self.gone.remove(call)

    def add_stream(
        self, stream_id: str, end: Callable[[], None], run_id: str | None = None, *, scope: str = "run:read"
    ) -> None:
        self.ends[stream_id] = end
        self.scopes.append(scope)

    def end_stream(self, stream_id: str) -> bool:
        end = self.ends.pop(stream_id, None)
        if end is not None:
            end()
        return end is not None


class Bench:
    """One extension stream, whose handler answers as the test says."""

    def __init__(self, answer: object) -> None:
        self.context: ExtensionContext | None = None
        self.socket = FakeSocket()

        def subscribe(params: object, context: ExtensionContext) -> object:
            self.context = context
            if isinstance(answer, Exception):
                raise answer
            return answer

        self.extensions = Extensions()
        self.extensions.extend("ns", {"streams": {"feed": {"subscribe": subscribe}}})
        self.extensions.open_stream = open_extension_stream

    async def open(self) -> dict[str, Any]:
        call = RpcCall(cast("Any", None), Identity(), "ext.stream.ns.feed", "1", self.socket)
        return cast("dict[str, Any]", await self.extensions.call(call, {}))

    def send(self, payload: object) -> None:
        assert self.context is not None
        self.context.send(payload)


def test_frames_follow_the_response() -> None:
    async def use() -> None:
        cleaned: list[int] = []
        bench = Bench({"initial": {"a": 1}, "cleanup": lambda: cleaned.append(1)})
        found = await bench.open()
        assert (found["namespace"], found["key"], found["initial"]) == ("ns", "feed", {"a": 1})
        bench.send(1)
        assert bench.socket.events == []
        bench.socket.starts[0]()
        bench.send([2])
        await asyncio.to_thread(bench.send, None)
        await asyncio.sleep(0)
        assert [(n, p["payload"]) for n, p in bench.socket.events] == [("ext.stream.event", v) for v in (1, [2], None)]
        assert bench.socket.end_stream(found["streamId"])
        bench.send(3)
        assert (cleaned, len(bench.socket.events)) == ([1], 3)
        assert bench.context is not None
        assert bench.context.signal.is_set()

    asyncio.run(use())


def test_a_frame_that_is_too_large_is_dropped_and_said() -> None:
    async def use() -> None:
        bench = Bench(None)
        await bench.open()
        bench.socket.starts[0]()
        bench.send("x" * 4_200_000)
        bench.send(1)
        assert [n for n, _ in bench.socket.events] == ["ext.stream.error", "ext.stream.event"]
        assert bench.socket.events[0][1]["error"]["code"] == "PayloadTooLarge"

    asyncio.run(use())


def test_a_connection_that_does_not_read_loses_this_stream_only() -> None:
    async def use() -> None:
        done = asyncio.Event()

        async def cleanup() -> None:
            done.set()

        bench = Bench(cleanup)
        await bench.open()
        bench.socket.starts[0]()
        bench.socket.pending_bytes = 9_000_000
        for number in range(MAX_WAITING):
            bench.send(number)
        assert bench.socket.events == []
        bench.send(0)
        assert bench.socket.events[0][1]["error"]["code"] == "BackpressureDisconnect"
        await asyncio.wait_for(done.wait(), 60)
        assert bench.socket.ends == {}

    asyncio.run(use())


@pytest.mark.parametrize(
    ("answer", "code"),
    [(ValueError("no"), "EXTENSION_HANDLER_ERROR"), ({"initial": "x" * 4_200_000}, "PayloadTooLarge")],
)
def test_a_subscription_that_fails_is_cleaned_up(answer: object, code: str) -> None:
    async def use() -> None:
        cleaned: list[int] = []
        bench = Bench(
            {**cast("dict[str, object]", answer), "cleanup": lambda: cleaned.append(1)}
            if isinstance(answer, dict)
            else answer
        )
        with pytest.raises(RpcError) as refused:
            await bench.open()
        assert refused.value.error_code == code
        assert bench.socket.ends == {}
        assert cleaned == ([1] if isinstance(answer, dict) else [])

    asyncio.run(use())
