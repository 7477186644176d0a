"""Connections under a server that has nothing but ASGI: the same protocol, with the ends that ASGI can express."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping
from typing import Any

import pytest
from tests.integration.gateway.socket_support import IDENTITY, Tokens

from smithers.gateway.config import GatewayOptions
from smithers.gateway.ws.hub import SocketHub
from smithers.gateway.ws.serving import serve_socket

PARAMS: dict[str, object] = {"minProtocol": 1, "maxProtocol": 1, "client": {"id": "t"}}
CONNECT: dict[str, object] = {"type": "req", "id": "1", "method": "connect", "params": PARAMS}


async def no_runs(runs: Collection[str] | None) -> Mapping[str, object]:
    return {}


class Plain:
    """A client and its server in one."""

    def __init__(self, hub: SocketHub, extensions: dict[str, object] | None = None) -> None:
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        self.more = asyncio.Event()
        self.may_send = asyncio.Event()
        self.may_send.set()
        self.inbox.put_nowait({"type": "websocket.connect"})
        scope: dict[str, object] = {"type": "websocket", "headers": [], "client": None, "extensions": extensions or {}}
        self.serving = asyncio.create_task(serve_socket(scope, self._receive, self._send, hub))

    async def _receive(self) -> Any:
        return await self.inbox.get()

    async def _send(self, message: Any) -> None:
        await self.may_send.wait()
        self.sent.append(message)
        self.more.set()

    def say(self, frame: object) -> None:
        self.inbox.put_nowait({"type": "websocket.receive", "text": json.dumps(frame)})

    async def until(self, count: int) -> list[dict[str, Any]]:
        async with asyncio.timeout(60):
            while len(self.sent) < count:
                self.more.clear()
                await self.more.wait()
        return [json.loads(m["text"]) if "text" in m else m for m in self.sent]


def make_hub(options: GatewayOptions | None = None) -> SocketHub:
    return SocketHub(options or GatewayOptions(), Tokens(), snapshot=no_runs, gateway_identity=lambda: IDENTITY)


def test_a_connection_works_with_nothing_but_asgi() -> None:
    async def use() -> None:
        hub = make_hub()
        plain = Plain(hub)
        plain.say(CONNECT)
        accept, challenge, hello = await plain.until(3)
        assert accept == {"type": "websocket.accept", "headers": [(b"x-smithers-api-version", b"v1")]}
        assert (challenge["event"], hello["ok"]) == ("connect.challenge", True)
        plain.may_send.clear()  # a peer that does not read
        for number in range(50):
            hub.broadcast("cron.triggered", {"n": number}, None, "cron:read")
            await asyncio.sleep(0)
        assert hub.connections[0].pending_bytes > 2_000
        plain.may_send.set()
        frames = await plain.until(53)
        assert [frame["payload"]["n"] for frame in frames[3:]] == list(range(50))
        assert [frame["seq"] for frame in frames[3:]] == list(range(2, 52))
        assert (hub.opened, hub.received, hub.sent) == (1, 1, 52)
        plain.inbox.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await plain.serving
        assert (hub.active_count, hub.sent) == (0, 52)

    asyncio.run(use())


def test_a_stop_is_a_going_away() -> None:
    async def use() -> None:
        hub = make_hub()
        plain = Plain(hub)
        await plain.until(2)
        await hub.close()
        await plain.serving
        assert plain.sent[-1] == {"type": "websocket.close", "code": 1001, "reason": ""}

    asyncio.run(use())


def test_whoever_does_not_connect_in_time_is_let_go_without_a_word() -> None:
    async def use() -> None:
        plain = Plain(make_hub(GatewayOptions(auth_deadline_ms=20)))
        async with asyncio.timeout(60):
            await plain.serving
        assert [m["type"] for m in plain.sent] == ["websocket.accept", "websocket.send"]

    asyncio.run(use())


@pytest.mark.parametrize("has_denial", [True, False])
def test_a_refusal_is_what_the_server_can_say(has_denial: bool) -> None:
    async def use() -> None:
        hub = make_hub()
        assert isinstance(hub.doorkeeper, Tokens)
        hub.doorkeeper.is_host_allowed = False
        plain = Plain(hub, {"websocket.http.response": {}} if has_denial else None)
        await plain.serving
        if has_denial:
            assert [m["type"] for m in plain.sent] == ["websocket.http.response.start", "websocket.http.response.body"]
            assert (plain.sent[0]["status"], plain.sent[1]["body"]) == (403, b"Origin or host is not allowed\n")
        else:
            assert plain.sent == [{"type": "websocket.close", "code": 1008}]

    asyncio.run(use())


def test_a_server_that_ends_the_call_leaves_nothing_behind() -> None:
    async def use() -> None:
        hub = make_hub()
        plain = Plain(hub)
        plain.say(CONNECT)
        await plain.until(3)
        plain.serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await plain.serving
        assert hub.active_count == 0

    asyncio.run(use())
