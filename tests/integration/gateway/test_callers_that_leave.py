"""Callers that leave or lose rights in the middle of something, and peers that do not read: nothing goes on for them."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.integration.gateway.socket_support import PATIENCE_S, mini_gateway
from websockets.asyncio.client import ClientConnection, connect

from smithers import Gateway, Settings
from smithers.gateway.extensions import ExtensionContext

SETTINGS = Settings(durability="normal")
TOKENS = {
    "mode": "token",
    "tokens": {
        "admin": {"role": "operator", "scopes": ["*"]},
        "reader": {"role": "viewer", "scopes": ["run:read"]},
        "tickets": {"role": "viewer", "scopes": ["ticket:read"]},
    },
}


class Left:
    """An extension whose calls last until their callers have left."""

    def __init__(self) -> None:
        self.has_begun = asyncio.Event()
        self.has_ended = asyncio.Event()

    async def wait(self, _params: object, context: ExtensionContext) -> None:
        self.has_begun.set()
        await context.signal.wait()
        self.has_ended.set()


@asynccontextmanager
async def listening(extension: dict[str, Any], auth: Any = None) -> AsyncGenerator[int]:
    gateway = Gateway(settings=SETTINGS, auth=auth)
    gateway.extend("my", extension)
    async with gateway:
        server = await gateway.listen(0, "127.0.0.1")
        assert server.port is not None
        yield server.port


async def request(ws: ClientConnection, method: str, params: object = None) -> dict[str, Any]:
    await ws.send(json.dumps({"type": "req", "id": method, "method": method, "params": params}))
    return await until(ws, lambda frame: frame.get("id") == method)


async def until(ws: ClientConnection, is_wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    while True:
        frame: dict[str, Any] = json.loads(await ws.recv())
        if is_wanted(frame):
            return frame


async def hello(ws: ClientConnection, token: str | None = None) -> None:
    auth = {} if token is None else {"auth": {"token": token}}
    answer = await request(ws, "connect", {"minProtocol": 1, "maxProtocol": 1, "client": {"id": "t"}, **auth})
    assert answer["ok"]


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["resources", "streams"])
async def test_an_extension_is_told_that_its_socket_is_gone(kind: str) -> None:
    left = Left()
    handler: Any = left.wait if kind == "resources" else {"subscribe": left.wait}
    async with listening({kind: {"wait": handler}}) as port:
        async with connect(f"ws://127.0.0.1:{port}/", proxy=None) as ws:
            await hello(ws)
            method = "ext.my.wait" if kind == "resources" else "ext.stream.my.wait"
            await ws.send(json.dumps({"type": "req", "id": "1", "method": method}))
            with anyio.fail_after(PATIENCE_S):
                await left.has_begun.wait()
        with anyio.fail_after(PATIENCE_S):
            await left.has_ended.wait()


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/v1/rpc/ext.my.wait", "/v1/electric/write"])
async def test_an_extension_is_told_that_its_http_client_is_gone(path: str) -> None:
    left = Left()
    async with listening({"resources": {"wait": left.wait}}) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        body = b'{"method":"ext.my.wait"}'
        writer.write(b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % (path.encode(), len(body)))
        writer.write(body)
        with anyio.fail_after(PATIENCE_S):
            await left.has_begun.wait()
        writer.close()
        with anyio.fail_after(PATIENCE_S):
            await left.has_ended.wait()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("scope", "token", "goes_on"), [("run:admin", "reader", False), ("ticket:read", "tickets", True)]
)
async def test_a_stream_of_an_extension_lasts_as_long_as_its_own_scope(scope: str, token: str, goes_on: bool) -> None:
    contexts: list[ExtensionContext] = []

    def subscribe(_params: object, context: ExtensionContext) -> None:
        contexts.append(context)

    feed = {"subscribe": subscribe, "scope": scope}
    async with (
        listening({"streams": {"feed": feed}}, TOKENS) as port,
        connect(f"ws://127.0.0.1:{port}/", proxy=None) as ws,
    ):
        await hello(ws, "admin")
        assert (await request(ws, "ext.stream.my.feed"))["ok"]
        await hello(ws, token)
        contexts[0].send("secret")
        assert contexts[0].signal.is_set() is not goes_on
        frame = await until(ws, lambda f: f.get("event") in ("ext.stream.event", "tick")) if goes_on else None
        assert frame is None or frame["payload"]["payload"] == "secret"


@pytest.mark.anyio
async def test_a_peer_that_pings_and_does_not_read_is_not_read_from(tmp_path: Path) -> None:
    async with mini_gateway(tmp_path / "m.db") as gateway:
        loop = asyncio.get_running_loop()
        with socket.create_connection(("127.0.0.1", int(gateway.url.rstrip("/").rpartition(":")[2]))) as client:
            client.setblocking(False)
            key = base64.b64encode(b"k" * 16)
            await loop.sock_sendall(
                client,
                b"GET / HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
                b"sec-websocket-version: 13\r\nsec-websocket-key: " + key + b"\r\n\r\n",
            )
            assert (await loop.sock_recv(client, 4_096)).startswith(b"HTTP/1.1 101 ")
            pings = (b"\x89\xfd\0\0\0\0" + b"p" * 125) * 500
            with pytest.raises(TimeoutError):
                await send_all(client, pings, 500)  # 32 MB, more than the kernel keeps
            async with asyncio.timeout(PATIENCE_S):  # who reads on is read from again
                while not gateway_has_taken(client):
                    await loop.sock_recv(client, 1_048_576)


async def send_all(client: socket.socket, data: bytes, times: int) -> None:
    """Send the same again and again. Raises `TimeoutError` once the peer takes no more."""
    for _ in range(times):
        async with asyncio.timeout(0.5):
            await asyncio.get_running_loop().sock_sendall(client, data)


def gateway_has_taken(client: socket.socket) -> bool:
    """Whether there is room to send again."""
    try:
        return client.send(b"\0" * 16) > 0
    except BlockingIOError:
        return False


@pytest.mark.anyio
async def test_an_upgrade_with_too_many_headers_is_refused(tmp_path: Path) -> None:
    async with mini_gateway(tmp_path / "m.db") as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rstrip("/").rpartition(":")[2]))
        writer.write(
            b"GET / HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"
            b"sec-websocket-key: " + base64.b64encode(b"k" * 16) + b"\r\n" + b"x: y\r\n" * 300 + b"\r\n"
        )
        with anyio.fail_after(5):
            assert (await reader.read()).startswith(b"HTTP/1.1 431 ")
        writer.close()


@pytest.mark.anyio
async def test_a_message_in_parts_with_nothing_between_arrives_whole(tmp_path: Path) -> None:
    async with mini_gateway(tmp_path / "m.db") as gateway, gateway.connect() as ws:
        await ws.send(iter(["", '{"type":"req",', *[""] * 50, '"id":"1","method":"echo"}', ""]))
        answer = await until(ws, lambda frame: frame.get("id") == "1")
        assert answer["error"]["message"] == "Connect first"


UPGRADE = (
    b"GET / HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: " + base64.b64encode(b"k" * 16) + b"\r\n\r\n"
)


@pytest.mark.anyio
async def test_an_upgrade_behind_an_answer_that_goes_on_ends_both() -> None:
    async with listening({}) as port:
        for _ in range(33):  # one more than a user may have at once
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /v1/api/stream HTTP/1.1\r\nhost: localhost\r\n\r\n" + UPGRADE)
            with anyio.fail_after(PATIENCE_S):
                assert b" 101 " not in await reader.read()
            writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /v1/api/stream HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        writer.close()


@pytest.mark.anyio
async def test_an_upgrade_on_a_connection_that_was_used_before_is_one() -> None:
    async with listening({}) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        with anyio.fail_after(PATIENCE_S):
            await reader.readuntil(b'"reason":null}')
            writer.write(UPGRADE)
            assert await reader.readline() == b"HTTP/1.1 101 Switching Protocols\r\n"
        writer.close()
