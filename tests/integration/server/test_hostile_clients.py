"""What a client can send or leave unread without being known: it decides nothing, fills no memory and holds up no stop."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from tests.integration.server.test_slow_clients import connect, read_all

from smithers import Settings, start_server
from smithers.asgi import protocol

HOST = b"host: localhost\r\n"
CHUNKED = b"POST /v1/runs HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n"
SETTINGS = Settings(durability="normal")
MUCH = 16 * 1_048_576
"""More than the kernel keeps of what a server does not read."""


def send_all(client: socket.socket, data: bytes, times: int) -> None:
    for _ in range(times):
        client.sendall(data)


def test_a_header_that_follows_a_body_is_none() -> None:
    with start_server(port=0, auth_token="secret", settings=SETTINGS) as server, connect(server) as client:
        body = b"2\r\n{}\r\n0\r\nx-smithers-key: secret\r\n\r\n"
        client.sendall(CHUNKED + b"connection: close\r\n\r\n" + body)
        assert read_all(client).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    ("first", "more"),
    [(b"0\r\n", b"x: y\r\n"), (b"0\r\nx: ", b"y"), (b"2;", b"y")],
    ids=["headers behind the body", "a header behind the body", "a chunk's extension"],
)
def test_a_request_that_goes_on_without_a_body_is_cut_off(first: bytes, more: bytes) -> None:
    blob = more * (65_536 // len(more))
    with start_server(port=0, settings=SETTINGS) as server, connect(server) as client:
        client.sendall(CHUNKED + b"\r\n" + first)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send_all(client, blob, MUCH // len(blob))


def test_a_large_body_in_many_chunks_is_read() -> None:
    with start_server(port=0, settings=SETTINGS) as server, connect(server) as client:
        body = b'{"x":"' + b"y" * 200_000 + b'"}'
        client.sendall(CHUNKED + b"connection: close\r\n\r\n")
        for at in range(0, len(body), 7):
            part = body[at : at + 7]
            client.sendall(b"%x\r\n%b\r\n" % (len(part), part))
        client.sendall(b"0\r\nexpires: never\r\n\r\n")
        assert b"workflowPath must be a string" in read_all(client)


def test_a_server_that_stops_does_not_wait_for_the_rest_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "STALL_S", 0.05)
    server = start_server(port=0, settings=SETTINGS)
    with connect(server) as client:
        client.sendall(b"POST /v1/runs HTTP/1.1\r\n" + HOST + b"content-length: 50\r\nexpect: 100-continue\r\n\r\n{")
        assert client.recv(64).startswith(b"HTTP/1.1 100 ")  # the server waits for the body
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < 5
        assert read_all(client).startswith(b"HTTP/1.1 503 ")


def test_a_server_that_stops_does_not_wait_for_who_does_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "STALL_S", 0.05)
    server = start_server(port=0, db=tmp_path / "s.db", settings=SETTINGS)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect((server.host, server.port))
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):  # answers fill the buffers, then the server reads no more requests
            send_all(client, (b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n") * 50, 10_000)
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < 5
