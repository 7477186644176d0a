"""`start_server` from a program's side: binding, guarding, reloading, mirroring, streaming, stopping."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from tests.conformance.http.support import TOKEN, Client, Folder, client_of, code, events_of

from smithers import Settings, SmithersDb, start_server
from smithers.control.control import Control
from smithers.errors import InvalidInput, ServerInsecureBind, ServerIntegrationsRequireDb

FAST = Settings(durability="normal", heartbeat_ms=200)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "flows")


# ── binding and guarding ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_busy_port_is_an_error_and_a_closed_server_gives_it_back() -> None:
    with start_server(port=0, settings=FAST) as server:
        assert httpx2.get(f"{server.url}/health").json() == {"ok": True}
        with pytest.raises(OSError, match="in use"):
            start_server(port=server.port, settings=FAST)
    with start_server(port=server.port, settings=FAST):
        pass
    server.close()


def test_a_server_is_usable_from_async_code() -> None:
    async def use() -> None:
        async with start_server(port=0, settings=FAST) as server, httpx2.AsyncClient() as client:
            assert (await client.get(f"{server.url}/health")).status_code == 200
        assert not server.is_running

    asyncio.run(use())


def test_an_open_address_needs_a_token() -> None:
    with pytest.raises(ServerInsecureBind) as refused:
        start_server(port=0, host="0.0.0.0", settings=FAST)
    assert (refused.value.error_code, refused.value.details) == ("SERVER_INSECURE_BIND", {"host": "0.0.0.0"})
    start_server(port=0, host="0.0.0.0", auth_token=TOKEN, settings=FAST).close()
    start_server(port=0, host="0.0.0.0", insecure=True, settings=FAST).close()


def test_bad_options_are_refused_before_binding() -> None:
    with pytest.raises(InvalidInput):
        start_server(port=70_000, settings=FAST)
    with pytest.raises(InvalidInput):
        start_server(port=0, max_body_bytes=0, settings=FAST)
    with pytest.raises(ServerIntegrationsRequireDb):
        start_server(port=0, integrations={"webhooks": [{"id": "a", "secret": "s", "event": "e"}]}, settings=FAST)


def test_the_token_falls_back_to_the_environment() -> None:
    settings = Settings(durability="normal", api_key="from-env")
    with start_server(port=0, settings=settings) as server:
        assert httpx2.get(f"{server.url}/v1/runs").status_code == 401
    with start_server(port=0, settings=settings, auth_token="") as server:
        assert httpx2.get(f"{server.url}/v1/runs").status_code == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 400),
        ({"host": "localhost:99"}, 400),
        ({"host": "[::1]:7331"}, 400),
        ({"host": "app.localhost"}, 400),
        ({"host": "evil.example"}, 403),
        ({"host": "localhost.evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"origin": "http://localhost:3000"}, 400),
        ({"origin": "null"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "http://localhost@evil.example"}, 403),
    ],
)
def test_without_a_token_only_this_machine_is_answered(headers: dict[str, str], status: int) -> None:
    with start_server(port=0, settings=FAST) as server:
        answer = httpx2.get(f"{server.url}/v1/runs", headers=headers)
    assert answer.status_code == status
    if status == 403:
        assert code(answer) == (403, "FORBIDDEN")


def test_a_server_outlives_the_main_thread_until_it_is_interrupted(tmp_path: Path) -> None:
    script = f"""
from smithers import start_server
print(start_server(port=0, db={str(tmp_path / "s.db")!r}, auth_token="t0ken").url, flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        url = child.stdout.readline().strip()
        for _ in range(3):  # each needs the store's threads
            assert httpx2.get(f"{url}/v1/runs", headers={"x-smithers-key": TOKEN}).json() == []
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 0


OWN_HANDLER = "signal.signal(signal.SIGTERM, lambda *_: server.close())"


@pytest.mark.parametrize(
    ("end", "own"),
    [(signal.SIGTERM, ""), (signal.SIGINT, ""), (signal.SIGTERM, OWN_HANDLER)],
    ids=["term", "int", "own"],
)
def test_a_waiting_server_that_is_told_to_end_ends_its_streams_and_gives_its_runs_up(
    folder: Folder, end: signal.Signals, own: str
) -> None:
    script = f"""
import signal
from smithers import start_server
server = start_server(port=0, db={str(folder.db)!r}, root_dir={str(folder.path)!r}, auth_token="{TOKEN}")
{own}
print(server.url, flush=True)
server.wait()
"""
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        url = child.stdout.readline().strip()
        with client_of(url, folder) as client:
            client.start("r", slow=True)
            with client.http.stream("GET", "/v1/runs/r/events") as stream:
                lines = stream.iter_lines()
                assert any("RunStarted" in line for line in lines)
                child.send_signal(end)
                list(lines)  # to its end: a stream that is broken off raises
        assert child.wait(60) == 0
    db = SmithersDb(folder.db)
    row = asyncio.run(Control(db.store).run("r"))
    db.close()
    assert (row.status, row.runtime_owner_id) == ("running", None)


# ── source, mirror ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_edited_workflow_is_used_by_the_next_start(folder: Folder) -> None:
    with start_server(port=0, auth_token=TOKEN, settings=FAST) as server, client_of(server.url, folder) as client:
        for version in ("one", "two", "six"):
            folder.write(version)
            run_id = client.start()
            client.until(run_id, "finished")
            store = SmithersDb(folder.db).store
            found = asyncio.run(Control(store).output(run_id, "first"))[1]["text"]
            store.close()
            assert found == version


def test_a_run_of_an_edited_workflow_is_not_resumed_silently(folder: Folder) -> None:
    with start_server(port=0, auth_token=TOKEN, settings=FAST) as server, client_of(server.url, folder) as client:
        run_id = client.start(fail=True)
        client.until(run_id, "failed")
        folder.write("edited")

        answer = client.http.post(f"/v1/runs/{run_id}/resume", json={"workflowPath": str(folder.workflow)})

        assert code(answer) == (409, "RESUME_METADATA_MISMATCH")


def test_runs_of_other_databases_are_mirrored_and_decided_where_they_live(folder: Folder, tmp_path: Path) -> None:
    db = tmp_path / "server.db"
    with (
        start_server(port=0, db=db, auth_token=TOKEN, settings=FAST) as server,
        client_of(server.url, folder) as client,
    ):
        asked, ended = client.start(ask=True), client.start()
        client.until_listed(asked, "waiting-approval")
        client.until_listed(ended, "finished")
        assert [row["runId"] for row in client.http.get("/v1/approvals").json()["approvals"]] == [asked]
    with (
        start_server(port=0, db=db, auth_token=TOKEN, settings=FAST) as server,
        client_of(server.url, folder) as client,
    ):
        assert client.http.post(f"/v1/runs/{asked}/nodes/ship%2Fit/approve").status_code == 200
        client.until_listed(asked, "finished")
        assert client.http.get("/v1/approvals").json() == {"approvals": []}
        taken = client.http.post("/v1/runs", json={"workflowPath": str(folder.workflow), "runId": ended})
        assert code(taken) == (409, "RUN_ALREADY_EXISTS")
    folder.db.rename(tmp_path / "gone.db")
    with (
        start_server(port=0, db=db, auth_token=TOKEN, settings=FAST) as server,
        client_of(server.url, folder) as client,
    ):
        assert client.status(ended) == "finished"  # from the mirror, the last that is left of it
        assert [event["id"] for event in client.events(ended)] == list(range(len(client.events(ended))))


# ── streams ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def client(folder: Folder) -> Iterator[Client]:
    with (
        start_server(port=0, db=folder.db, auth_token=TOKEN, settings=FAST) as server,
        client_of(server.url, folder) as found,
    ):
        yield found


def test_a_stream_tells_everything_once_and_ends_with_the_run(client: Client) -> None:
    run_id = client.start(many=250)

    events = client.events(run_id)

    assert [event["id"] for event in events] == list(range(len(events)))
    assert {event["event"] for event in events} == {"smithers"}
    assert events[0]["type"] == "RunStarted"
    assert "RunFinished" in [event["type"] for event in events]
    assert client.events(run_id, "?afterSeq=9") == events[10:]
    assert client.events(run_id, "", **{"last-event-id": "9"}) == events[10:]
    assert client.events(run_id, "?afterSeq=4", **{"last-event-id": "9"}) == events[5:]
    assert client.events(run_id, "?afterSeq=1e300") == []


def test_a_stream_begins_with_its_headers_and_retry(client: Client) -> None:
    run_id = client.start()
    answer = client.http.get(f"/v1/runs/{run_id}/events")
    assert answer.text.startswith("retry: 1000\n\nevent: smithers\ndata: {")
    wanted = {
        "content-type": "text/event-stream",
        "cache-control": "no-cache",
        "x-content-type-options": "nosniff",
        "x-accel-buffering": "no",
    }
    assert wanted.items() <= dict(answer.headers).items()


def test_a_silent_stream_is_kept_alive_by_comments(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "smithers.asgi.sse.EventStream.__init__.__kwdefaults__", {"keep_alive_s": 0.05, "goes_on": False}
    )
    run_id = client.start(wait=True)
    with client.http.stream("GET", f"/v1/runs/{run_id}/events") as answer:
        comments = (line for line in answer.iter_lines() if line == ": keep-alive")
        assert [next(comments) for _ in range(3)]


def test_an_event_is_pushed_when_it_is_committed(client: Client) -> None:
    run_id = client.start(wait=True, key="never")
    with client.http.stream("GET", f"/v1/runs/{run_id}/events") as answer:
        events = events_of(answer.iter_lines())
        taken: list[float] = []
        for n in range(20):
            seen = time.monotonic()
            client.http.post(f"/v1/runs/{run_id}/signals/tick", json={"data": n})
            while next(events)["type"] != "SignalReceived":
                pass
            taken.append(time.monotonic() - seen)
    assert min(taken[1:]) < 0.2  # a polling stream needs a quarter of a second from one event to the next, each time


def test_a_reader_that_stops_reading_harms_nobody_and_misses_nothing(client: Client) -> None:
    run_id = client.start(many=400)
    client.until(run_id, "finished")
    host, port = client.url.removeprefix("http://").split(":")
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((host, int(port)))
        slow.sendall(
            f"GET /v1/runs/{run_id}/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n\r\n".encode()
        )
        assert client.http.get("/health").status_code == 200
        data = b""
        while part := slow.recv(2048):
            data += part
    last = len(client.events(run_id)) - 1
    assert f"id: {last}\n\n".encode() in data


def test_closing_the_server_ends_streams_with_a_last_event_and_parks_the_run(folder: Folder) -> None:
    server = start_server(port=0, db=folder.db, auth_token=TOKEN, settings=FAST)
    with client_of(server.url, folder) as client:
        run_id = client.start(slow=True)
        with client.http.stream("GET", f"/v1/runs/{run_id}/events") as answer:
            events = events_of(answer.iter_lines())
            while next(events)["type"] != "NodeFinished":
                pass
            began = time.monotonic()
            closing = threading.Thread(target=server.close)
            closing.start()
            rest = list(events)
            closing.join()
        assert rest[-1] == {"event": "shutdown", "reason": "server-shutdown"}
        assert time.monotonic() - began < 5
    with (
        start_server(port=0, db=folder.db, auth_token=TOKEN, settings=FAST) as again,
        client_of(again.url, folder) as client,
    ):
        assert client.status(run_id) == "running"
        assert client.http.post(f"/v1/runs/{run_id}/cancel").json()["won"] is True


# ── webhooks ───────────────────────────────────────────────────────────────────────────────────────────────────────

SOURCES = {
    "webhooks": [
        {
            "id": "hub/1",
            "secret": "s3cret",
            "event": "ping",
            "correlationIdPath": "pr.number",
            "payloadPath": "data",
            "dedupeKeyPath": "delivery",
        }
    ]
}


def deliver(client: Client, body: bytes, signature: str | None = None) -> httpx2.Response:
    signed = "sha256=" + hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
    headers = {"authorization": "", "x-hub-signature-256": signed if signature is None else signature}
    return client.http.post("/v1/webhooks/hub%2F1", content=body, headers=headers)


def test_a_signed_delivery_wakes_the_runs_that_wait_for_it_once(folder: Folder, tmp_path: Path) -> None:
    server = start_server(port=0, db=tmp_path / "s.db", auth_token=TOKEN, integrations=SOURCES, settings=FAST)
    with server, client_of(server.url, folder) as client:
        waiting, other = client.start(wait=True, key="7"), client.start(wait=True, key="8")
        for run_id in (waiting, other):
            client.until(run_id, "waiting-event")
        body = json.dumps({"pr": {"number": 7}, "data": {"n": 5}, "delivery": "d1"}).encode()

        assert code(deliver(client, body, "sha256=00")) == (401, "UNAUTHORIZED")
        assert code(deliver(client, body, "")) == (401, "UNAUTHORIZED")
        assert code(deliver(client, b"{")) == (400, "INVALID_REQUEST")
        assert code(deliver(client, b"x" * 1_100_000)) == (413, "PAYLOAD_TOO_LARGE")
        assert code(client.http.post("/v1/webhooks/nobody", content=body)) == (404, "NOT_FOUND")
        assert client.status(waiting) == "waiting-event"
        first, again = deliver(client, body), deliver(client, body)

        assert [(a.status_code, a.json()) for a in (first, again)] == [(202, {"accepted": True})] * 2
        client.until(waiting, "finished")
        assert client.status(other) == "waiting-event"
        later = client.start(wait=True, key="7")
        client.until(later, "waiting-event")
        deliver(client, body)
        client.http.post(f"/v1/runs/{later}/cancel")
        assert "SignalReceived" not in [event["type"] for event in client.events(later)]
