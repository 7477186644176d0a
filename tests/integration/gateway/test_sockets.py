"""Connections: the handshake, what is told to whom, limits, and every way that a connection ends."""

from __future__ import annotations

import asyncio
import json
import logging
import socket as plain_sockets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.integration.gateway.socket_support import Client, FakeRun, MiniGateway, mini_gateway, now_ms
from tests.unit.gateway.contract import contract
from websockets.exceptions import ConnectionClosed, InvalidStatus

from smithers.asgi import sockets
from smithers.gateway.auth.identity import Identity
from smithers.gateway.config import GatewayOptions
from smithers.gateway.ws import outbox

HELLO = {"minProtocol": 1, "maxProtocol": 1, "client": {"id": "t"}}


# ── the upgrade ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_upgrade_names_the_version_and_is_challenged_at_once(tmp_path: Path) -> None:
    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db") as gateway, gateway.connect() as socket:
            assert socket.response.headers["X-Smithers-API-Version"] == "v1"
            challenge = await Client(socket).read()
            assert (challenge["event"], challenge["seq"], challenge["stateVersion"]) == ("connect.challenge", 1, 0)

    asyncio.run(use())


async def refusal(gateway: MiniGateway) -> tuple[int, str, bytes]:
    with pytest.raises(InvalidStatus) as refused:
        async with gateway.connect():
            pass
    response = refused.value.response
    assert response.headers["X-Smithers-API-Version"] == "v1"
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    return response.status_code, response.headers["Connection"], bytes(response.body or b"")


def test_a_guarded_upgrade_is_refused_in_plain_http(tmp_path: Path) -> None:
    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db") as gateway:
            gateway.tokens.is_host_allowed = False
            assert await refusal(gateway) == (403, "close", b"Origin or host is not allowed\n")

    asyncio.run(use())


def test_a_refused_upgrade_is_no_error_of_the_server(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db") as gateway:
            gateway.tokens.is_host_allowed = False
            await refusal(gateway)

    asyncio.run(use())
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_full_pools_refuse_the_upgrade(tmp_path: Path) -> None:
    full = (503, "close", b"Gateway connection limit reached\n")

    async def use() -> None:
        options = GatewayOptions(max_connections=1, max_pre_auth_connections=2)
        async with mini_gateway(tmp_path / "s.db", options) as gateway:
            async with gateway.connect() as first, gateway.connect() as second:
                assert await refusal(gateway) == full  # two have not authenticated
                assert (await Client(first).hello())["ok"]
                assert gateway.hub.active_count == 1
                assert await refusal(gateway) == full  # one has
                late = Client(second)
                answer = await late.hello()
                assert answer["error"]["code"] == "CONNECTION_LIMIT"
                assert await late.closed() == (1013, "connection limit reached")
            async with gateway.client():
                assert gateway.hub.active_count == 1

    asyncio.run(use())


# ── connecting ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("params", "code"),
    [
        (None, "INVALID_REQUEST"),
        ([], "INVALID_REQUEST"),
        ({}, "INVALID_REQUEST"),
        ({**HELLO, "client": "me"}, "INVALID_REQUEST"),
        ({**HELLO, "subscribe": "run"}, "INVALID_REQUEST"),
        ({**HELLO, "minProtocol": 0}, "INVALID_INPUT"),
        ({**HELLO, "maxProtocol": "1"}, "INVALID_INPUT"),
        ({**HELLO, "minProtocol": 2, "maxProtocol": 3}, "PROTOCOL_UNSUPPORTED"),
    ],
)
def test_a_connect_that_does_not_fit_can_be_repeated(tmp_path: Path, params: object, code: str) -> None:
    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db") as gateway, gateway.connect() as socket:
            client = Client(socket)
            assert (await client.call("echo"))["error"] == {
                "version": "v1",
                "code": "UNAUTHORIZED",
                "message": "Connect first",
            }
            assert (await client.call("connect", params))["error"]["code"] == code
            assert (await client.hello())["ok"]
            assert (await client.call("echo", {"value": 1}))["payload"] == 1

    asyncio.run(use())


def test_whoever_fails_to_authenticate_is_closed_and_told_why(tmp_path: Path) -> None:
    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db") as gateway:
            async with gateway.connect() as socket:
                client = Client(socket)
                error = (await client.hello(token="unknown"))["error"]
                assert (error["code"], error["refresh"]) == ("UNAUTHORIZED", "smithers token issue")
                assert await client.closed() == (1008, "authentication failed")
            async with gateway.client() as known:  # who is in stays in
                assert (await known.hello(token="unknown"))["error"]["code"] == "UNAUTHORIZED"
                assert (await known.call("echo", {"value": 2}))["payload"] == 2

    asyncio.run(use())


def test_whoever_does_not_connect_in_time_is_hung_up_on(tmp_path: Path) -> None:
    async def use() -> None:
        options = GatewayOptions(auth_deadline_ms=50)
        async with mini_gateway(tmp_path / "s.db", options) as gateway, gateway.client() as known:
            async with gateway.connect() as socket:
                assert await Client(socket).closed() == (1006, "")
            assert (await known.call("echo", {"value": 2}))["payload"] == 2

    asyncio.run(use())


def test_a_hello_shows_the_runs_that_are_asked_for_to_those_who_may_read(tmp_path: Path) -> None:
    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db") as gateway:
            gateway.tokens.known["blind"] = Identity(scopes=("ticket:read",), user_id="b")
            for name in ("a", "b"):
                await FakeRun(gateway.place, name).launch()
            seen = {}
            for name, token, subscribe in (
                ("all", None, None),
                ("one", None, ["b"]),
                ("none", None, []),
                ("no", "blind", None),
            ):
                async with gateway.connect() as socket:
                    payload = (await Client(socket).hello(token=token, subscribe=subscribe))["payload"]
                    seen[name] = sorted(run["runId"] for run in payload["snapshot"]["runs"])
            assert seen == {"all": ["a", "b"], "one": ["b"], "none": ["a", "b"], "no": []}
            assert payload["auth"]["userId"] == "b"
            assert payload["policy"] == {"heartbeatMs": 15_000}
            # one for each listed event of the two launches: none
            assert payload["snapshot"]["stateVersion"] == gateway.hub.state_version

    asyncio.run(use())


def test_a_second_connect_replaces_scopes_and_filter(tmp_path: Path) -> None:
    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db") as gateway, gateway.client(subscribe=["a"]) as client:
            gateway.tokens.known["blind"] = Identity(scopes=("ticket:read",), user_id="b")
            a, b = FakeRun(gateway.place, "a"), FakeRun(gateway.place, "b")
            await a.launch()
            await b.launch()
            await b.emit()
            await a.emit()
            assert (await client.event("node.started"))["payload"]["runId"] == "a"
            await client.hello(subscribe=["b"])
            await a.emit()
            await b.emit()
            assert (await client.event("node.started"))["payload"]["runId"] == "b"
            await client.hello(token="blind")
            await a.emit()
            assert (await client.call("echo"))["error"]["requiredScope"] == "run:read"
            assert client.frames == []
            assert gateway.hub.active_count == 1

    asyncio.run(use())


# ── what is told to whom ───────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def three_listeners(
    path: Path, *, second: str
) -> AsyncGenerator[tuple[MiniGateway, list[Client], list[FakeRun]]]:
    """Connections that listen to everything, to one run, and to what they are added to; and the runs a and b."""
    async with (
        mini_gateway(path / "s.db") as gateway,
        gateway.client() as everything,
        gateway.client(subscribe=[second]) as listed,
        gateway.client(subscribe=[]) as empty,
    ):
        runs = [FakeRun(gateway.place, "a"), FakeRun(gateway.place, "b")]
        for run in runs:
            await run.launch()
        yield gateway, [everything, listed, empty], runs


def test_events_reach_those_who_listen_and_may_with_one_state_version(tmp_path: Path) -> None:
    async def use() -> None:
        async with three_listeners(tmp_path, second="a") as (gateway, (everything, only_a, empty), (a, b)):
            before = gateway.hub.state_version
            await b.emit(2)
            await a.emit()
            for client in (everything, empty):
                got = [await client.event("node.started") for _ in range(3)]
                assert [e["payload"]["runId"] for e in got] == ["b", "b", "a"]
                assert [e["stateVersion"] for e in got] == [before + 1, before + 2, before + 3]
            got_a = await only_a.event("node.started")
            assert (got_a["payload"]["runId"], got_a["stateVersion"]) == ("a", before + 3)

    asyncio.run(use())


def test_a_run_that_a_call_starts_is_added_only_where_there_is_a_list(tmp_path: Path) -> None:
    async def use() -> None:
        async with three_listeners(tmp_path, second="other") as (_, (everything, listed, empty), (a, b)):
            for client in (everything, listed, empty):
                assert (await client.call("startRun", {"runId": "a"}))["payload"] == {"mayBeSeen": True}
            await b.emit()
            await a.emit()
            assert (await listed.event("node.started"))["payload"]["runId"] == "a"
            for client in (everything, empty):
                assert [(await client.event("node.started"))["payload"]["runId"] for _ in "12"] == ["b", "a"]

    asyncio.run(use())


def test_broadcasts_need_their_scope(tmp_path: Path) -> None:
    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db") as gateway:
            gateway.tokens.known["runs"] = Identity(scopes=("run:read",), user_id="r")
            gateway.tokens.known["crons"] = Identity(scopes=("cron:write",), user_id="c")
            async with gateway.client(token="runs") as runs, gateway.client(token="crons") as crons:
                payload: dict[str, object] = {"cronId": "c", "workflow": "w", "runId": "a"}
                gateway.hub.broadcast("cron.triggered", payload, "a", "cron:read")
                run = FakeRun(gateway.place, "a")
                await run.launch()
                await run.emit()
                assert (await runs.event())["event"] == "connect.challenge"
                assert (await runs.event())["event"] != "cron.triggered"
                assert (await crons.event("cron.triggered", "node.started"))["payload"] == payload

    asyncio.run(use())


def test_ticks_come_at_their_period(tmp_path: Path) -> None:
    async def use() -> None:
        async with (
            mini_gateway(tmp_path / "s.db", GatewayOptions(heartbeat_ms=20)) as gateway,
            gateway.client() as client,
        ):
            first, second = await client.event("tick"), await client.event("tick")
            assert second["payload"]["ts"] > first["payload"]["ts"]

    asyncio.run(use())


# ── the grant ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("noticed_by", ["request", "tick", "call"])
def test_a_revoked_grant_loses_its_sockets(tmp_path: Path, noticed_by: str) -> None:
    async def use() -> None:
        options = GatewayOptions(heartbeat_ms=30 if noticed_by == "tick" else 15_000)
        async with mini_gateway(tmp_path / "s.db", options) as gateway:
            gateway.tokens.known["t"] = Identity(user_id="u")
            async with gateway.client(token="t") as client, gateway.client() as other:
                del gateway.tokens.known["t"]
                if noticed_by == "request":
                    await client.send("echo")
                elif noticed_by == "call":
                    gateway.hub.recheck()
                assert await client.closed() == (1008, "authentication failed")
                assert (await other.call("echo", {"value": 1}))["payload"] == 1

    asyncio.run(use())


def test_a_grant_that_expires_ends_its_connection_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db") as gateway:
            identity = gateway.tokens.known["t"] = Identity(user_id="u", expires_at_ms=now_ms() + 1_000)

            def recheck(asked: Identity) -> None:
                if now_ms() >= (identity.expires_at_ms or 0):
                    gateway.tokens.known.pop("t", None)
                type(gateway.tokens).recheck(gateway.tokens, asked)

            monkeypatch.setattr(gateway.tokens, "recheck", recheck)
            async with gateway.client(token="t") as client:
                assert await client.closed() == (1008, "authentication failed")

    asyncio.run(use())


# ── requests ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("frame", "request_id"),
    [
        ("nonsense", "invalid"),
        ("[]", "invalid"),
        ('{"type":"req","id":"7","method":"Bad Name"}', "7"),
        ('{"type":"event","id":"7","method":"echo"}', "7"),
        ('{"type":"req","id":7,"method":"echo"}', "invalid"),
        (json.dumps({"type": "req", "id": "8", "method": "echo", "params": {"value": [0] * 257}}), "8"),
        ("[" * 100_000, "invalid"),
        (b"\x00\x01", "invalid"),
    ],
)
def test_a_frame_that_cannot_be_read_is_answered_and_harms_nothing(
    tmp_path: Path, frame: str | bytes, request_id: str
) -> None:
    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db") as gateway, gateway.client() as client:
            await client.socket.send(frame)
            answer = await client.response(request_id)
            assert (answer["ok"], answer["error"]["code"]) == (False, "INVALID_INPUT")
            assert (await client.call("echo", {"value": None}))["payload"] is None

    asyncio.run(use())


def test_more_requests_than_are_answered_at_once_all_get_their_answer(tmp_path: Path) -> None:
    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db") as gateway, gateway.client() as client:
            ids = [await client.send("echo", {"value": n}) for n in range(300)]
            got = {frame["id"]: frame["payload"] for frame in [await client.read_response() for _ in ids]}
            assert got == {request_id: n for n, request_id in enumerate(ids)}

    asyncio.run(use())


def test_too_many_frames_are_refused_one_by_one_and_endless_ones_end_the_connection(tmp_path: Path) -> None:
    async def use() -> None:
        options = GatewayOptions(max_frames_per_second=5)
        async with mini_gateway(tmp_path / "s.db", options) as gateway, gateway.client() as client:
            # more than a slow machine lets in meanwhile
            ids = [await client.send("echo", {"value": n}) for n in range(40)]
            answers = {f["id"]: f for f in [await client.read_response() for _ in ids]}
            refused = [answers[i]["error"] for i in ids if not answers[i]["ok"]]
            assert 1 <= len(refused) <= 36
            assert {(e["code"], e["scope"], e["limit"]) for e in refused} == {("RateLimited", "connection", 5)}
            with suppress(ConnectionClosed):
                for _ in range(200):
                    await client.socket.send("{}")
            assert await client.closed() == (1008, "too many frames")

    asyncio.run(use())


def test_a_message_that_is_too_large_ends_the_connection(tmp_path: Path) -> None:
    async def use() -> None:
        async with (
            mini_gateway(tmp_path / "s.db", GatewayOptions(max_payload=1_000)) as gateway,
            gateway.client() as client,
        ):
            await client.socket.send("x" * 1_001)
            code, _ = await client.closed()
            assert (code, contract()["closeCodes"][str(code)]) == (1009, "message-too-big")

    asyncio.run(use())


def _masked(opcode: int, data: bytes) -> bytes:
    """A client's frame; its mask is zero."""
    return bytes((opcode, 0x80 | len(data))) + bytes(4) + data


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the server, not what stands behind it in these tests, has logged as wrong."""
    told = [r for r in caplog.records if not r.name.startswith("smithers.observability")]
    return [r.getMessage() for r in told if r.levelno >= logging.WARNING or r.exc_info]


BAD_TEXT = b'{"type":"req","id":"\xff"}'


@pytest.mark.parametrize(
    "frames",
    [
        (_masked(0x81, BAD_TEXT),),
        (_masked(0x01, BAD_TEXT[:21]), _masked(0x80, BAD_TEXT[21:])),
        (_masked(0x81, BAD_TEXT), _masked(0x81, b"{}"), _masked(0x81, BAD_TEXT)),
        (_masked(0x81, b"\xe2\x82"),),
    ],
    ids=["whole", "in-parts", "more-behind-it", "cut-off"],
)
def test_text_that_is_no_utf_8_closes_its_connection_and_is_no_error_of_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, frames: tuple[bytes, ...]
) -> None:
    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db") as gateway, gateway.client() as client:
            async with gateway.client() as other:
                other.socket.transport.write(b"".join(frames))
                assert await other.closed() == (1007, "text must be UTF-8")
            assert (await client.call("echo", {"value": "\u20ac"}))["payload"] == "\u20ac"
            await gateway.until(lambda: gateway.hub.active_count == 1)

    caplog.set_level(logging.DEBUG)
    asyncio.run(use())
    assert complaints(caplog) == []


def test_text_that_is_no_utf_8_from_a_client_that_closes_at_once_is_no_error_either(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db") as gateway, gateway.client() as client:
            client.socket.transport.write(_masked(0x81, BAD_TEXT) + _masked(0x88, b"\x03\xe8"))
            await client.closed()
            await gateway.until(lambda: gateway.hub.active_count == 0)

    asyncio.run(use())
    assert complaints(caplog) == []


def test_compressed_and_plain_messages_arrive_alike(tmp_path: Path) -> None:
    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db") as gateway, gateway.client() as client:
            assert client.socket.response is not None
            assert "permessage-deflate" in client.socket.response.headers["Sec-WebSocket-Extensions"]
            for size in (1, 125, 126, 5_000, 3, 16_000, 40, 16_000):
                value = [f"{size}-é" * (size // 8)] * 5
                assert (await client.call("echo", {"value": value}))["payload"] == value

    asyncio.run(use())


# ── slow readers, ends ─────────────────────────────────────────────────────────────────────────────────────────────


async def deaf_client(gateway: MiniGateway) -> plain_sockets.socket:
    """A client that connects and then reads nothing; its kernel buffer is small."""
    wire = plain_sockets.socket()
    wire.setsockopt(plain_sockets.SOL_SOCKET, plain_sockets.SO_RCVBUF, 4_096)
    host, _, port = gateway.url.removeprefix("ws://").rstrip("/").partition(":")
    wire.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(wire, (host, int(port)))
    head = (
        f"GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    await loop.sock_sendall(wire, head.encode())
    assert b" 101 " in await loop.sock_recv(wire, 2_048)
    await loop.sock_sendall(wire, text_frame({"type": "req", "id": "1", "method": "connect", "params": HELLO}))
    await gateway.until(lambda: gateway.hub.active_count > 0)
    return wire


async def until_hung_up(wire: plain_sockets.socket) -> None:
    """Write until the other side is not there any more; reads nothing."""
    async with asyncio.timeout(60):
        while True:
            await asyncio.get_running_loop().sock_sendall(wire, text_frame({}))
            await asyncio.sleep(0.01)


def text_frame(value: Any) -> bytes:
    """A client's frame, masked with zeros."""
    data = json.dumps(value).encode()
    assert 126 <= len(data) < 65_536 or len(data) < 126
    size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return b"\x81" + size + b"\0\0\0\0" + data


def test_a_reader_that_does_not_read_costs_bounded_memory_and_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_BYTES", 2_000_000)
    monkeypatch.setattr(sockets, "CLOSE_S", 0.05)

    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db") as gateway:
            wire = await deaf_client(gateway)
            (connection,) = gateway.hub.connections
            async with gateway.client() as other:
                run = FakeRun(gateway.place, "a")
                await run.launch()
                most = 0
                text = json.dumps({"attempt": 1, "text": "x" * 50_000, "stream": "stdout"})
                for _ in range(200):
                    await run.output(text)
                    most = max(most, connection.pending_bytes)
                    await other.event("task.output")
                    if gateway.hub.active_count == 1:
                        break
                assert gateway.hub.active_count == 1
                assert most < 2_000_000 + 400_000
            with pytest.raises((ConnectionResetError, BrokenPipeError)):  # it does not read the close either
                await until_hung_up(wire)
            wire.close()

    asyncio.run(use())


def test_a_stop_closes_connections_without_a_code(tmp_path: Path) -> None:
    async def use() -> None:
        async with mini_gateway(tmp_path / "s.db") as gateway:
            async with gateway.client() as client, gateway.connect() as early:
                await gateway.hub.close()
                assert await client.closed() == (1005, "")
                assert await Client(early).closed() == (1005, "")
            assert (await refusal(gateway))[0] == 503
            assert gateway.hub.active_count == 0

    asyncio.run(use())
