"""Clients that are too slow are cut off by the connection itself, steady ones and slow answers are not."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from smithers import Settings, start_server
from smithers.asgi.embed import ServerThread

LIMIT_MS = 400
HOST = b"host: localhost\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[ServerThread]:
    settings = Settings(durability="normal")
    with start_server(port=0, headers_timeout=LIMIT_MS, request_timeout=LIMIT_MS, settings=settings) as found:
        yield found


def connect(server: ServerThread) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=60)


def read_all(client: socket.socket) -> bytes:
    data = b""
    with suppress(ConnectionResetError):
        while part := client.recv(65_536):
            data += part
    return data


def read_answer(client: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data or not data.endswith(b"}"):
        data += client.recv(65_536)
    return data


CASES = {
    "says nothing": (b"", b""),
    "stops in the head": (b"GET /health HTTP/1.1\r\nhos", b""),
    "drips the head": (b"GET /health HTTP/1.1\r\nx: ", b"y"),
    "stops in the body": (b"POST /v1/runs HTTP/1.1\r\n" + HOST + b"content-length: 50\r\n\r\n{", b""),
    "drips the body": (b"POST /v1/runs HTTP/1.1\r\n" + HOST + b"content-length: 5000\r\n\r\n{", b" "),
    "drips chunks": (b"POST /v1/runs HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_client_that_does_not_get_done_is_answered_408_and_cut_off(server: ServerThread, case: str) -> None:
    first, drip = CASES[case]
    began = time.monotonic()
    with connect(server) as client:
        client.sendall(first)
        client.settimeout(0.05 if drip else 60)
        data = b""
        while time.monotonic() < began + 60:
            try:
                part = client.recv(65_536)
            except TimeoutError:
                client.send(drip)
                continue
            except ConnectionResetError:
                break
            if not part:
                break
            data += part

    assert data.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in data
    assert LIMIT_MS / 1000 <= time.monotonic() - began < 30


def test_a_connection_is_used_again_and_again(server: ServerThread) -> None:
    with connect(server) as client:
        for _ in range(5):
            client.sendall(b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n")
            assert read_answer(client).startswith(b"HTTP/1.1 200 ")
            time.sleep(LIMIT_MS / 1000 / 3)  # longer than the limit altogether: each request has a clock of its own


def test_the_clock_of_a_reused_connection_runs_from_its_next_request(server: ServerThread) -> None:
    with connect(server) as client:
        client.sendall(b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n")
        read_answer(client)
        client.sendall(b"GET /hea")
        assert read_all(client).startswith(b"HTTP/1.1 408 ")


def test_pipelined_requests_are_all_answered(server: ServerThread) -> None:
    with connect(server) as client:
        client.sendall((b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n") * 3)
        data = b""
        while data.count(b'{"ok":true}') < 3:
            data += client.recv(65_536)
    assert data.count(b"HTTP/1.1 200 ") == 3


@pytest.mark.parametrize(
    "request_text",
    [
        b"GET /health HTTP/1.1\r\n" + HOST + b"x: " + b"y" * 400_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 400_000,
        b"GET /health HTTP/1.1\r\n" + HOST + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabc",
        b"POST /v1/runs HTTP/1.1\r\n" + HOST + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /health HTTP/1.1\r\n" + HOST + b"bad header\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00",
        b"GET /health HTTP/9.9\r\n\r\n",
    ],
)
def test_what_is_not_a_request_is_refused_and_cut_off(server: ServerThread, request_text: bytes) -> None:
    with connect(server) as client:
        with suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(request_text)
        answer = read_all(client)
    assert answer[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 431", b"HTTP/1.1 408", b"")
    with connect(server) as client:  # and the server lives on
        client.sendall(b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n")
        assert read_answer(client).startswith(b"HTTP/1.1 200 ")
